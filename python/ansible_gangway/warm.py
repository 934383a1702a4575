"""What a warm interpreter serves: Ansible modules, each in a child forked from here.

Sent behind agent.py's text, whose names it uses. A module runs as `python3 < text` would run it, or
`python3 file` where it came as a file; what is saved is start-up, in steps that each fall back to
the one before when anything differs:

1. the standard library's modules that every Ansible module imports are loaded here;
2. the code of Python files in the archives is compiled here, and found by path and contents;
3. the part of `ansible.module_utils` that the wrapper imports before any module is loaded here, and
   given to children whose archive holds the very same files;
4. the wrapper's own code is compiled once.

What cannot be run exactly is refused with `plain`, and nothing was run.
"""

import _imp
import gc
import marshal

# Bytes of parts that are kept, of one text, and of Python source whose code is kept.
MOST_KEPT, MOST_TEXT, MOST_SOURCE = 64 << 20, 32 << 20, 24 << 20

# All of these are loaded by the wrapper or by ansible.module_utils.basic of one version or another.
# None starts a thread, opens a descriptor, or reads a configuration that a task may change.
PRELOADED = """
__future__ ast atexit base64 binascii calendar collections collections.abc contextlib copy
dataclasses datetime decimal encodings.cp437 errno fcntl fnmatch functools gettext glob
grp hashlib importlib importlib.abc importlib.machinery importlib.util inspect io
ipaddress itertools json keyword linecache locale logging math numbers operator pathlib
pkgutil platform pwd queue random re reprlib runpy select selectors shlex shutil signal
stat string struct subprocess syslog tempfile textwrap threading time tokenize traceback
types typing unicodedata urllib.parse uuid warnings weakref zipfile zipimport zlib
""".split()

# Variables of the interpreter itself that make it do more than run a program.
UNFIT = frozenset(
    b"PYTHONINSPECT PYTHONVERBOSE PYTHONDEBUG PYTHONPROFILEIMPORTTIME PYTHONTRACEMALLOC"
    b" PYTHONDUMPREFS PYTHONDUMPREFSFILE PYTHONMALLOCSTATS PYTHONDEVMODE PYTHONFAULTHANDLER"
    b" PYTHONPERFSUPPORT PYTHON_PERF_JIT_SUPPORT PYTHONISOLATED COVERAGE_PROCESS_START"
    b" LD_PRELOAD LD_AUDIT".split()
)
# Variables that an interpreter or its libraries read when they start.
EARLY = (b"PYTHON", b"LD_", b"LC_", b"LANG", b"MALLOC_", b"GLIBC_", b"COVERAGE", b"OPENSSL_")

# Files whose change makes this interpreter another than a new one would be, like changes of the
# interpreter, of the standard library and of the directories of sys.path.
SYSTEM_FILES = """
/etc/passwd /etc/group /etc/nsswitch.conf /etc/localtime /etc/timezone /etc/ld.so.cache
/etc/ld.so.preload /etc/ssl/openssl.cnf /etc/pki/tls/openssl.cnf /etc/locale.conf
/etc/default/locale
""".split()

BASIC = "ansible/module_utils/basic.py"
NOWHERE = "/gangway/"  # stands for the archive, whose path each task chooses
NEW_CALL = b'\n\n\nif __name__ == "__main__":\n    _ansiballz_main(\n'
NEW_NAMES = frozenset(
    b"ansible_module module_fqn profile date_time rlimit_nofile params extensions".split()
)
NEW_ZIP = b"\nzip_data='"
OLD_CALL = b"\nif __name__ == '__main__':\n    _ansiballz_main()"
OLD_ZIP = b"\n    ZIPDATA = '"
BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
STAND_IN = b"gangway:8c1f0f7c:the archive"  # no text has it

COMPILES = sys.version_info >= (3, 8)  # zipimport is Python there, and code has `replace`


class Kept:
    """Byte strings by their SHA-256; the least recently used leave first."""

    def __init__(self, most):
        self._most, self.size, self._parts = most, 0, {}

    def get(self, digest):
        """Return the bytes, or None."""
        part = self._parts.pop(digest, None)
        if part is not None:
            self._parts[digest] = part
        return part

    def put(self, digest, part):
        """Keep bytes."""
        if digest in self._parts:
            return
        self._parts[digest] = part
        self.size += len(part)
        while self.size > self._most:
            oldest = next(iter(self._parts))
            self.size -= len(self._parts.pop(oldest))


class Template:
    """What the interpreter holds ready."""

    def __init__(self):
        self.parts = Kept(MOST_KEPT)
        self.archives = {}  # the zip's base64, by itself -> Archive
        self.codes = {}  # (path in the archive, SHA-256 of the source) -> code
        self.sources = 0  # bytes that `codes` were compiled from
        self.programs = {}  # text without its archive -> code
        self.library = None
        self.refused = None  # why no module can be run here at all
        self.seen = None  # what the files that matter looked like
        self.queue = []  # for idle moments: functions
        self.made = 0  # archives, codes and libraries so far
        self.spare = None  # a Spare

    def prepare(self, agent):
        """Load what every module loads."""
        self.refused = unfit(agent.environment)
        if self.refused:
            return
        import importlib

        for name in PRELOADED:
            try:
                importlib.import_module(name)
            except ImportError:  # not in this Python
                pass
        self.settle()

    def settle(self):
        """Do after imports: note how the files look, and have children share the memory.

        What an import saw in a directory that changed at that very moment is forgotten.
        """
        self.seen = look_at_files()
        recent = time.time() - 5
        for finder in sys.path_importer_cache.values():
            if getattr(finder, "_path_mtime", -1) > recent:
                finder.invalidate_caches()
        gc.collect()
        if hasattr(gc, "freeze"):
            gc.freeze()

    def check(self, agent, environment):
        """Refuse what would not run here as in a new interpreter."""
        if self.refused:
            raise Unable(self.refused)
        for name, _ in environment:
            if name.startswith(EARLY) or name in UNFIT:
                raise Unable("an interpreter reads %s when it starts" % text(name))
        changed = [path for path, was in self.seen.items() if look_at(path) != was]
        if changed:
            agent.ending = agent.ending or "changed"
            raise Unable("%s has changed: a new interpreter is needed" % changed[0])

    def later(self, agent, function):
        """Have something done in an idle moment."""
        self.queue.append(function)
        agent.when_idle = lambda: self._work(agent)

    def _work(self, agent):
        """Do one thing, and a spare child when there is nothing else."""
        if self.queue:
            self.queue.pop(0)()
        elif COMPILES and not agent.ending and not self.refused:
            if self.spare and self.spare.made != self.made:
                self.spare.discard()
            if not self.spare:
                self.spare = Spare.fork(agent)
            return
        agent.when_idle = lambda: self._work(agent)


def unfit(environment):
    """Why this interpreter is none for modules; None if it is."""
    names = [name for name in environment if name in UNFIT]
    if names:
        return "the container's environment has %s" % text(names[0])
    search = environment.get(b"PYTHONPATH")
    if search and not all(part.startswith(b"/") for part in search.split(b":")):
        return "PYTHONPATH names relative directories"
    for flag in ("debug", "inspect", "interactive", "verbose", "dev_mode"):
        if getattr(sys.flags, flag, 0):
            return "the interpreter runs with the flag %s" % flag
    if sys.gettrace() or sys.getprofile():
        return "the interpreter is traced"
    return None


def look_at(path):
    """Return what changes when a file or a directory does."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def look_at_files():
    """Look at the files whose change makes this interpreter an old one."""
    paths = SYSTEM_FILES + [sys.executable, "/proc/self/exe", os.path.dirname(os.__file__)]
    paths += [path for path in sys.path if path not in ("", ".")]
    return {path: look_at(path) for path in paths if path}


# What Ansible sends


class Program:
    """A text that is known to be an AnsiballZ: its code, with STAND_IN for the archive.

    `path` is the file that it came as; the code says `<stdin>` all the same.
    """

    def __init__(self, codes, archive, path=None):
        self.codes, self.archive, self.path = codes, archive, path


class Archive:
    """The zip in such a text."""

    def __init__(self, encoded):
        import hashlib
        import io
        import zipfile

        TEMPLATE.made += 1
        self.number, self.text = TEMPLATE.made, encoded.decode("ascii")
        self.digests, self.sources, self.sums = {}, {}, {}
        with zipfile.ZipFile(io.BytesIO(blob(encoded))) as archive:
            for member in archive.infolist():
                self.sums[member.filename] = (member.CRC, member.file_size)
                if member.filename.endswith(".py"):
                    source = archive.read(member)
                    self.sources[member.filename] = source
                    self.digests[member.filename] = hashlib.sha256(source).digest()


def contents_of_module(path):
    """Return the text of a module's file; Unable where Python would do more than run it."""
    from stat import S_ISREG

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if not S_ISREG(os.fstat(fd).st_mode):
                raise Unable("the module is no regular file")
            source = read_up_to(fd, MOST_TEXT + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise Unable("the module's file cannot be read: %s" % said(error))
    if b"PK\5\6" in source:
        raise Unable("the module's file may be an archive")
    try:
        beside = os.listdir(os.path.dirname(os.path.realpath(path)))
    except OSError:  # Python finds nothing there either
        beside = []
    for name in beside:
        if text(name).partition(".")[0] in sys.modules:
            raise Unable("Python would import %s beside the module" % text(name))
    return source


def parse(parts):
    """Return the Program that a text is; Unable when it has not the form of a known wrapper."""
    if sum(map(len, parts)) > MOST_TEXT:
        raise Unable("its text is longer than %d bytes" % MOST_TEXT)
    try:
        if len(parts) == 4 and parts[1].startswith(NEW_CALL):  # cut as it comes: nothing is copied
            return parse_new(*parts)
        whole = b"".join(parts)
        place = whole.rfind(NEW_CALL)
        if place < 0:
            return parse_old(whole)
        begin = whole.rfind(NEW_ZIP) + len(NEW_ZIP)
        end = whole.find(b"'", begin)
        if begin < place or end < 0:
            raise Unable("its wrapper is of an unknown kind")
        return parse_new(whole[:place], whole[place:begin], whole[begin:end], whole[end:])
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise Unable("its text does not compile: %s" % error)


def parse_new(head, call, encoded, rest):
    """ansible-core 2.19 and later: a function, and one call with everything that is particular."""
    lines = call[len(NEW_CALL) : -len(NEW_ZIP)].split(b"\n")
    names = {line.partition(b"=")[0] for line in lines}
    if not call.endswith(NEW_ZIP) or rest != b"',\n)\n" or len(lines) != 7 or names != NEW_NAMES:
        raise Unable("its wrapper is of an unknown kind")
    if b"extensions={}," not in lines:
        raise Unable("it asks for extensions of the wrapper")
    archive = archive_of(encoded)
    if not COMPILES:
        return Program([compile_text(head + call + encoded + rest)], archive)
    first = TEMPLATE.programs.get(head)
    if first is None:
        first = compile_text(head)
        remember(TEMPLATE.programs, head, first, 32)
    second = b"\n" * head.count(b"\n") + call + STAND_IN + rest
    return Program([first, compile_text(second, future(first))], archive)


def parse_old(whole):
    """ansible-core 2.16 to 2.18: everything is within one function."""
    begin = whole.find(OLD_ZIP) + len(OLD_ZIP)
    end = whole.find(b"'", begin)
    if begin < len(OLD_ZIP) or end < 0 or not whole.rstrip().endswith(OLD_CALL):
        raise Unable("its text is no wrapper that is known")
    if whole.find(b"\n        import coverage\n", end) >= 0 or whole.find(b"'coverage'", end) >= 0:
        raise Unable("it measures coverage")
    archive = archive_of(whole[begin:end])
    if not COMPILES:
        return Program([compile_text(whole)], archive)
    return Program([compile_text(whole[:begin] + STAND_IN + whole[end:])], archive)


def archive_of(encoded):
    """Return the Archive of base64, looked into once."""
    archive = TEMPLATE.archives.pop(encoded, None)
    if archive is None:
        if encoded.translate(None, BASE64):
            raise Unable("its archive is not in base64")
        try:
            archive = Archive(encoded)
        except Exception as error:
            raise Unable("its archive cannot be read: %s" % error)
    remember(TEMPLATE.archives, encoded, archive, 128)
    return archive


def remember(cache, key, value, most):
    """Add to a dictionary; its oldest entry leaves."""
    cache[key] = value
    if len(cache) > most:
        del cache[next(iter(cache))]


def compile_text(source, flags=0):
    """Code as `python3 < source` has it; a warning of the compiler belongs to the task: Unable."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return compile(source, "<stdin>", "exec", flags, True)
        except Warning as warning:
            raise Unable("its text makes the compiler warn: %s" % warning)


def future(code):
    """Return the flags of `from __future__ import` that a code was compiled with."""
    import __future__

    flags = 0
    for name in __future__.all_feature_names:
        flags |= code.co_flags & getattr(__future__, name).compiler_flag
    return flags


def replace_constant(code, value):
    """Return the same code, nested ones included, with `value` where STAND_IN is."""
    stand_in = STAND_IN.decode()
    constants = tuple(
        value
        if constant == stand_in
        else replace_constant(constant, value)
        if isinstance(constant, type(code))
        else constant
        for constant in code.co_consts
    )
    return code.replace(co_consts=constants)


# Code of the archives' files


def compile_later(agent, archive):
    """Have an archive's files compiled, one in each idle moment."""
    if not COMPILES:
        return
    for path, digest in archive.digests.items():
        if (path, digest) not in TEMPLATE.codes:
            source = archive.sources.get(path)
            if source is not None:
                TEMPLATE.later(agent, lambda p=path, d=digest, s=source: compile_file(p, d, s))
    archive.sources = {}
    if TEMPLATE.library is None:
        TEMPLATE.later(agent, lambda: load_library(archive))
    # Not while a short task runs, which would have to share the processor.
    agent.at(0.012, lambda: TEMPLATE.later(agent, lambda: None))


def compile_file(path, digest, source):
    """Keep the code of a file as zipimport compiles it, unless the compiler warns."""
    import warnings
    import zipimport

    if (path, digest) in TEMPLATE.codes:
        return
    if TEMPLATE.sources + len(source) > MOST_SOURCE:
        TEMPLATE.codes.clear()
        TEMPLATE.sources = 0
    source = zipimport._normalize_line_endings(source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            code = zipimport._compile_source(path, source)
        except Exception:  # the task's to report
            return
    TEMPLATE.codes[path, digest] = code
    TEMPLATE.made += 1
    TEMPLATE.sources += len(source)


def use_compiled():
    """In a child: have zipimport find code that was compiled here; its path is put in."""
    import hashlib
    import zipimport

    compile_source = zipimport._compile_source

    def find_or_compile(pathname, source):
        path = pathname.partition(".zip/")[2]
        code = TEMPLATE.codes.get((path, hashlib.sha256(source).digest()))
        if code is None:
            return compile_source(pathname, source)
        _imp._fix_co_filename(code, pathname)  # in this process alone
        return code

    zipimport._compile_source = find_or_compile


# The library: what the wrapper imports before any module


class Library:
    """A part of `ansible.module_utils`, imported here from one archive.

    It is what the wrapper imports in every task, first and unconditionally, so a child that gets it
    is where a new interpreter is behind that import, provided its archive has the same files.
    """

    def __init__(self, codes):
        """Import; `codes` are those of an archive's files, by path."""
        import importlib

        self._codes = codes
        self._loaded = []  # modules whose code ran here, with their specs
        entry = "ansible.module_utils._internal._ansiballz._loader"
        if entry.replace(".", "/") + ".py" not in codes:
            entry = BASIC[:-3].replace("/", ".")
        finders = list(sys.meta_path)
        sys.meta_path.insert(0, self)
        try:
            importlib.import_module(entry)
        finally:
            sys.meta_path.remove(self)
            found = {name: sys.modules.pop(name) for name in list(sys.modules) if of_ansible(name)}
            self._finders = [finder for finder in sys.meta_path if finder not in finders]
            for finder in self._finders:
                sys.meta_path.remove(finder)
        # These two look for other directories of the same name: a task's own have to do it.
        roots = [found.pop(name) for name in ("ansible", "ansible.module_utils")]
        self._loaded = [pair for pair in self._loaded if pair[0] not in roots]
        for module, _ in self._loaded:
            if any(value is root for value in vars(module).values() for root in roots):
                raise ImportError("a module keeps a package that each task has for itself")
        self._modules = found  # not all were loaded here: a name may stand for another module
        self.paths = [spec.origin[len(NOWHERE) :] for _, spec in self._loaded]

    def find_spec(self, name, path=None, target=None):
        """Find a module of the archive: called by the import system."""
        from importlib.util import spec_from_file_location

        path = name.replace(".", "/")
        if path + "/__init__.py" in self._codes:
            file, places = path + "/__init__.py", [NOWHERE + path]
        elif path + ".py" in self._codes:
            file, places = path + ".py", None
        else:
            return None
        return spec_from_file_location(
            name, NOWHERE + file, loader=self, submodule_search_locations=places
        )

    def create_module(self, spec):
        """Have the import system make it."""

    def exec_module(self, module):
        """Run its code."""
        spec = module.__spec__
        self._loaded.append((module, spec))
        if sys.version_info < (3, 10):  # as zipimport there
            module.__cached__ = None
        exec(self._codes[spec.origin[len(NOWHERE) :]], module.__dict__)

    def give(self, archive):
        """Have the modules be, in a child, those of the task's archive; return them by name."""
        from pkgutil import get_importer

        def moved(path):
            return archive + "/" + path[len(NOWHERE) :] if path.startswith(NOWHERE) else path

        for module, spec in self._loaded:
            path, place = spec.origin[len(NOWHERE) :], moved(os.path.dirname(spec.origin))
            _imp._fix_co_filename(self._codes[path], archive + "/" + path)
            loader = get_importer(
                os.path.dirname(place) if path.endswith("/__init__.py") else place
            )
            spec.loader, spec.origin = loader, moved(spec.origin)
            if spec._cached:
                spec._cached = moved(spec._cached)
            names = module.__dict__
            if names.get("__loader__") is self:
                names["__loader__"] = loader
            for name in ("__file__", "__cached__"):
                if names.get(name):
                    names[name] = moved(names[name])
            for places in (spec.submodule_search_locations, names.get("__path__")):
                if places:
                    places[:] = map(moved, places)
        sys.meta_path += self._finders
        return dict(self._modules)


class Giver:
    """In a child's sys.meta_path until something of `ansible.module_utils` is imported."""

    def __init__(self, library, sums):
        self._library, self._sums = library, sums

    def find_spec(self, name, path=None, target=None):
        """Find a module: called by the import system."""
        if not name.startswith("ansible.module_utils.") or not path:
            return None
        import zipimport

        sys.meta_path.remove(self)
        archive = os.path.dirname(os.path.dirname(path[0]))
        listed = zipimport._zip_directory_cache.get(archive, {})
        for path, (checksum, size) in self._sums.items():
            entry = listed.get(path.replace("/", os.sep))
            if not entry or (entry[7], entry[3]) != (checksum, size):
                return None
        given = self._library.give(archive)
        parent = sys.modules["ansible.module_utils"]
        self._first = given.pop(name, None)
        sys.modules.update(given)
        for child, module in given.items():
            if child.count(".") == 2:
                setattr(parent, child.rpartition(".")[2], module)
        if not self._first:
            return None
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, self)

    def create_module(self, spec):
        """Give what is there."""
        self._spec = self._first.__spec__
        return self._first

    def exec_module(self, module):
        """Do nothing: it has run."""
        module.__spec__ = self._spec


def of_ansible(name):
    """Whether a module is one that only tasks may see."""
    return name == "ansible" or name.startswith("ansible.")


def snapshot():
    """Return what imports could change in modules that are there."""
    return {name: dict(vars(module)) for name, module in sys.modules.items() if vars(module)}


def difference(before):
    """Return what imports did that a task which did not do them could notice; None if nothing."""
    for name, module in list(sys.modules.items()):
        if name not in before:
            if not of_the_standard_library(module):
                return name
            continue
        old = before[name]
        for key, value in list(vars(module).items()):
            if old.get(key, before) is not value and not isinstance(value, type(sys)):
                return "%s.%s" % (name, key)
    return None


def of_the_standard_library(module):
    """Whether a module is Python's own."""
    place = getattr(module, "__file__", None)
    own = os.path.dirname(os.__file__)
    return not place or (place.startswith(own + "/") and "-packages/" not in place)


def side_effects():
    """Return what no import of a library may change in its process."""
    import locale

    return (
        len(os.listdir("/proc/self/task")),
        len(os.listdir("/proc/self/fd")),
        os.getcwd(),
        dict(os.environ),
        list(sys.path),
        list(sys.path_hooks),
        locale.setlocale(locale.LC_ALL),
        [signal.getsignal(number) for number in range(1, signal.NSIG)],
        sys.getrecursionlimit(),
        sys.modules["warnings"].filters[:],
        sys.excepthook,
    )


def load_library(archive):
    """Import the library from an archive whose files are compiled; once, in an idle moment."""
    template = TEMPLATE
    if template.library is not None or BASIC not in archive.digests:
        return
    files = archive.digests.items()
    codes = {path: template.codes[path, d] for path, d in files if (path, d) in template.codes}
    template.library = False
    modules, process = snapshot(), side_effects()
    try:
        library = Library(codes)
    except (Exception, SystemExit):  # the task's to report
        library = False
    exclusive = difference(modules)
    if side_effects() != process or (exclusive and not library):
        template.refused = "the import of its library changes the process"
    if library:
        library.exclusive = exclusive
        library.digests = [(path, archive.digests[path]) for path in library.paths]
        template.library = library
    template.made += 1
    template.settle()


def library_for(archive):
    """Return the library if an archive has the same; Unable where no other could run here now."""
    library = TEMPLATE.library
    if not library:
        return None
    if all(archive.digests.get(path) == digest for path, digest in library.digests):
        return library
    if library.exclusive:
        raise Unable(
            "its module_utils are not those that were imported here, which changed %s"
            % library.exclusive
        )
    return None


# A request


class Module(Request):
    """Collects a module's text, then runs it: from there on a Task serves the request."""

    def __init__(self, agent, number, head):
        self._env = [(blob(name), blob(value)) for name, value in head["env"]]
        TEMPLATE.check(agent, self._env)
        Request.__init__(self, agent, number)
        self._parts, self._wanted, self._held = [], [], bytearray()
        self._path = None
        if "file" in head:
            path = blob(head["file"])
            self._parts, self._path = [contents_of_module(path)], os.fsdecode(path)
            return self._start()
        kept = 0
        for part in head["parts"]:
            if "text" in part:
                self._parts.append(blob(part["text"]))
                continue
            found = TEMPLATE.parts.get(part["sha256"])
            if found is not None and len(found) != part["length"]:
                raise Unable("a part of its text has another length")
            if found is None:
                self._wanted.append((len(self._parts), kept, part["sha256"], part["length"]))
            self._parts.append(found)
            kept += 1
        if sum(wanted[3] for wanted in self._wanted) > MOST_TEXT:
            raise Unable("its text is longer than %d bytes" % MOST_TEXT)
        if self._wanted:
            agent.send_head(WANT, number, {"parts": [wanted[1] for wanted in self._wanted]})
        else:
            self._start()

    def data(self, payload):
        """Take what was asked for."""
        self._held += payload
        self.used(len(payload))

    def end(self):
        """All that was asked for is there."""
        try:
            self._take()
            self._start()
        except Unable as error:
            self.agent.exit(self.number, plain=str(error))
        except Exception as error:
            self.agent.exit(self.number, plain="the agent could not do it: %s" % error)

    def _take(self):
        import hashlib

        start = 0
        for index, _, digest, length in self._wanted:
            part = bytes(self._held[start : start + length])
            start += length
            if hashlib.sha256(part).hexdigest() != digest:
                raise Unable("a part of its text arrived changed")
            TEMPLATE.parts.put(digest, part)
            self._parts[index] = part
        if start != len(self._held):
            raise Unable("its text arrived with %d bytes too many" % (len(self._held) - start))

    def _start(self):
        program = parse(self._parts)
        program.path = self._path
        start(self.agent, self.number, program, self._env)
        compile_later(self.agent, program.archive)


class Forked(BaseException):
    """Raised in a child: nothing of the agent may be on the stack when module code runs."""

    def __init__(self, child):
        self.child = child


def start(agent, number, program, env):
    """Start the child; Unable when there is none."""
    library_for(program.archive)
    spare, TEMPLATE.spare = TEMPLATE.spare, None
    if spare and not spare.run(number, program, env):
        spare.discard()
        spare = None
    if not spare:
        pid, _, stdout, stderr = fork_child(agent, program, env)
        Task(agent, number, pid, None, stdout, stderr)


def fork_child(agent, program=None, env=()):
    """Fork a child with pipes; return its id, and the agent's ends: stdin only without a program.

    Unable when there can be none.
    """
    fds = []
    enter(agent.directory)
    try:
        for _ in range(3):
            fds += os.pipe()
        score = agent._score and agent._score[1]
        child = Child((fds[0], fds[3], fds[5]), score, program, env)
        pid = fork(agent)
    except OSError as error:
        for fd in fds:
            os.close(fd)
        leave(agent)
        raise Unable("no process could be made: %s" % said(error))
    if pid == 0:
        child.pid = os.getpid()
        raise Forked(child)
    leave(agent)
    for fd in (fds[0], fds[3], fds[5]):
        os.close(fd)
    if program:
        os.close(fds[1])  # a program from stdin finds it at its end
    return pid, fds[1], fds[2], fds[4]


class Spare:
    """A child that was forked ahead, and waits on its stdin for what it shall run."""

    @classmethod
    def fork(cls, agent):
        """Return one; None when there can be none."""
        try:
            return cls(agent)
        except Unable:
            return None

    def __init__(self, agent):
        self._agent, self.made = agent, TEMPLATE.made
        self._place = look_at(agent.directory or ".")[:2]
        self._pid, self._stdin, self._stdout, self._stderr = fork_child(agent)
        os.set_blocking(self._stdin, False)
        agent.children[self._pid] = self._ended

    def run(self, number, program, env):
        """Have it run a program; return whether it does."""
        now = look_at(self._agent.directory or ".")
        if self._pid is None or self.made != TEMPLATE.made or not now or now[:2] != self._place:
            return False
        job = marshal.dumps((program.archive.number, program.codes, program.path, env))
        job = struct.pack(">I", len(job)) + job
        try:
            if os.write(self._stdin, job) != len(job):  # it has not begun, and will not
                return False
        except OSError:
            return False
        os.close(self._stdin)
        Task(self._agent, number, self._pid, None, self._stdout, self._stderr)
        return True

    def discard(self):
        """Let it go: it ends when its stdin does."""
        if self._pid is not None:
            for fd in (self._stdin, self._stdout, self._stderr):
                os.close(fd)
            self._pid = None
        if TEMPLATE.spare is self:
            TEMPLATE.spare = None

    def _ended(self, _status):
        self.discard()


def leave(agent):
    """Back to where the agent stays."""
    if agent.directory:
        os.chdir("/")


# The child


class Child:
    """The process of one module."""

    def __init__(self, streams, score, program, env):
        self.streams, self.score = streams, score
        self.program, self.env = program, env
        self.pid = None

    def prepare(self):
        """Become what a new `python3 < text` is; return the namespace of its __main__."""
        set_streams(*self.streams)
        close_others()
        sys.dont_write_bytecode = not WRITES_BYTECODE
        sys.argv = [""]
        if hasattr(sys, "orig_argv"):
            sys.orig_argv = sys.orig_argv[:-2]  # -c, and its argument
        if not sys.flags.isolated and not getattr(sys.flags, "safe_path", False):
            sys.path.insert(0, "")
        if sys.version_info < (3, 7):  # later ones do it themselves
            sys.modules["random"].seed()
        thread = sys.modules["threading"].main_thread()
        if hasattr(thread, "_set_native_id"):  # only threads that are started in a fork get it
            thread._set_native_id()
        if COMPILES:
            use_compiled()
        bridge_empty_select()
        main = type(sys)("__main__")
        main.__dict__.update(
            __loader__=sys.modules["importlib.machinery"].BuiltinImporter,
            __builtins__=sys.modules["builtins"],
            __file__="<stdin>",
            __cached__=None,
        )
        if sys.version_info < (3, 14):
            main.__annotations__ = {}
        sys.modules["__main__"] = main
        return main.__dict__

    def wait(self):
        """Learn what to run: a child that was forked ahead. Until then it counts as the agent."""
        if self.score:
            set_score(b"1000")
        job = self._read(struct.unpack(">I", self._read(4))[0])
        if self.score:
            set_score(self.score)
        number, codes, path, self.env = marshal.loads(job)
        archives = TEMPLATE.archives.values()
        self.program = Program(codes, next(a for a in archives if a.number == number), path)

    def _read(self, length):
        data = b""
        while len(data) < length:
            part = os.read(0, length - len(data))
            if not part:  # it is not needed
                os._exit(0)
            data += part
        return data

    def begin(self):
        """Do what depends on the task and on the moment; return the codes to run."""
        for name, value in self.env:
            os.environb[name] = value
        forget_bootstrap(self.program.path)
        if not temporary_directory():
            os.environ["TMPDIR"] = "/dev/shm"
        time.tzset()
        logging = sys.modules["logging"]
        logging._startTime = type(logging._startTime)(
            time.time() * (1e9 if isinstance(logging._startTime, int) else 1)
        )
        codes, archive = self.program.codes, self.program.archive
        library = library_for(archive)
        if library:
            sums = {path: archive.sums[path] for path in library.paths}
            sys.meta_path.insert(0, Giver(library, sums))
        if COMPILES:
            codes = [replace_constant(code, archive.text) for code in codes]
        if self.program.path is not None:
            come_from_file(self.program.path, codes)
        return codes

    def run(self):
        """Run the text, and end as the interpreter would."""
        before = set(sys.modules)
        namespace = self.prepare()
        if not self.program:
            self.wait()
        codes = self.begin()
        interrupted = False
        try:
            try:
                for code in codes:
                    exec(code, namespace)
            finally:
                flush_io()
            status = 0
        except SystemExit as error:
            if os.getpid() != self.pid:
                raise
            status = exit_status(error)
        except BaseException as error:
            status = report(error)
            interrupted = isinstance(error, KeyboardInterrupt) and sys.version_info >= (3, 8)
            forget_file(namespace)
        else:
            forget_file(namespace)
        del namespace
        if os.getpid() == self.pid:
            finish(status, before, interrupted)
        end_in_full(status, interrupted)


def come_from_file(path, codes):
    """Have what `python3 path` has and `python3 < path` has not."""
    from importlib.machinery import SourceFileLoader

    sys.argv = [path]
    if hasattr(sys, "orig_argv"):
        sys.orig_argv = sys.orig_argv + [path]
    if sys.path[0] == "":
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    sys.path_importer_cache[path] = None  # it has been tried as a directory and as an archive
    main = sys.modules["__main__"]
    main.__file__, main.__loader__ = path, SourceFileLoader("__main__", path)
    for code in codes:
        _imp._fix_co_filename(code, path)  # in this process alone


def forget_bootstrap(path):
    """Put the program's file, if any, for the bootstrap into what sudo tells the command it ran."""
    told = os.environb.get(b"SUDO_COMMAND")
    if told is not None:
        bootstrap = contents("/proc/self/cmdline").split(b"\0")[-2]
        word = b"" if path is None else b" " + os.fsencode(sys.modules["shlex"].quote(path))
        os.environb[b"SUDO_COMMAND"] = told.replace(b" -c '" + bootstrap + b"'", word)


def flush_io():
    """Flush as the interpreter does behind a program, before exit handlers and tracebacks."""
    for name in ("stderr", "stdout"):
        try:
            getattr(sys, name).flush()
        except BaseException:
            pass


def set_score(value):
    """Set the process's memory score."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(fd, value)
        finally:
            os.close(fd)
    except OSError:  # it was possible for the agent
        pass


def forget_file(namespace):
    """Do what the interpreter does behind a program that did not exit by itself."""
    for name in ("__file__", "__cached__"):
        namespace.pop(name, None)


def close_others():
    """Close all descriptors but 0, 1 and 2."""
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        numbers = range(3, 4096)
    for number in numbers:
        if number > 2:
            try:
                os.close(number)
            except OSError:
                pass


def temporary_directory():
    """Whether Python would find one."""
    if any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")):
        return True
    if any(os.access(path, os.W_OK | os.X_OK) for path in ("/tmp", "/var/tmp", "/usr/tmp")):
        return True
    return os.access(".", os.W_OK | os.X_OK) or not os.access("/dev/shm", os.W_OK | os.X_OK)


def bridge_empty_select():
    """Spare `run_command` a second of waiting for nothing.

    It asks twice whether the command has ended, and when that happens in between it waits for
    pipes that it has closed. A new process is rarely that slow, a forked one is.
    """
    selectors = sys.modules["selectors"]
    for name in ("PollSelector", "SelectSelector"):
        selector = getattr(selectors, name, None)
        if selector:
            selector.select = bridged(selector.select)


def bridged(select):
    """`select`, without the wait where run_command waits for nothing."""
    from functools import wraps

    @wraps(select)
    def selects(self, timeout=None):
        if timeout == 1 and not self.get_map():
            caller = sys._getframe(1)
            if caller.f_code.co_name == "run_command":
                return []
        return select(self, timeout)

    return selects


def exit_status(error):
    """Return the exit status that a SystemExit means; a text goes to stderr."""
    code = error.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 255 if -(1 << 63) <= code < 1 << 63 else 255
    try:
        words = str(code) + "\n"
        if sys.stderr is None:
            os.write(2, words.encode("utf-8", "backslashreplace"))
        else:
            sys.stderr.write(words)
    except Exception:
        pass
    return 1


def report(error):
    """Report an exception as the interpreter does, without frames of ours; return the status."""
    trace = error.__traceback__.tb_next
    error.__traceback__ = trace
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    try:
        sys.excepthook(type(error), error, trace)
    except SystemExit as left:
        return exit_status(left)
    return 1


# Parts of the standard library in C whose end has no effect outside the process.
HARMLESS = frozenset(
    """
    _asyncio _bisect _blake2 _bz2 _contextvars _crypt _csv _ctypes _datetime _decimal
    _elementtree _hashlib _heapq _json _lzma _md5 _multibytecodec _multiprocessing _opcode
    _pickle _posixsubprocess _queue _random _sha1 _sha2 _sha256 _sha3 _sha512 _socket _ssl
    _statistics _struct _typing _uuid _zoneinfo array binascii fcntl grp math pyexpat
    resource select spwd syslog termios unicodedata zlib
    """.split()
)


def finish(status, before, interrupted):
    """End the process as the interpreter would.

    It would also take down all that was there before the task, which takes longer than most tasks.
    So what the task made is ended here, and only where more is left than memory, in full.
    """
    if unfinished():
        end_in_full(status, interrupted)
    try:
        sys.modules["atexit"]._run_exitfuncs()
    except BaseException:  # reported already
        pass
    if not flush_streams() or loaded(before):
        end_in_full(status, interrupted)
    if gc.isenabled():
        gc.collect()  # as the interpreter does: it also orders what is finalised below
    for name in [name for name in sys.modules if name not in before] + ["__main__"]:
        sys.modules.pop(name, None)
    sys.last_value = sys.last_traceback = sys.last_exc = None
    gc.collect()
    if unfinished() or not gc_shows_all_ended() or not flush_streams():
        end_in_full(status, interrupted)
    if interrupted:
        end_by_interrupt()
    os._exit(status)


def unfinished():
    """Whether threads run, or something waits for their end."""
    import _thread

    threading = sys.modules["threading"]
    if _thread._count() or threading.active_count() > 1:
        return True
    if getattr(threading, "_threading_atexits", None):
        return True
    try:
        return len(os.listdir("/proc/self/task")) > 1
    except OSError:
        return False


def loaded(before):
    """Whether the task loaded libraries that may have something to do at the end."""
    for name, module in list(sys.modules.items()):
        binary = name not in before and str(getattr(module, "__file__", "")).endswith(".so")
        if binary and name not in HARMLESS and not name.startswith("_codecs_"):
            return True
    return False


def gc_shows_all_ended():
    """Whether nothing of the task is left that does something when it is freed."""
    if not hasattr(gc, "freeze"):
        return False
    kinds = {type(found) for found in gc.get_objects()}  # frozen ones are not among them
    ctypes = sys.modules.get("ctypes")
    return not any(
        hasattr(kind, "__del__") or (ctypes and issubclass(kind, ctypes.CDLL)) for kind in kinds
    )


def flush_streams():
    """Flush what print writes to; return whether that was possible."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except Exception:
        return False
    return True


def end_in_full(status, interrupted):
    """Have the interpreter end itself: nothing of the agent is on the stack."""
    if interrupted:
        sys.excepthook = lambda *_: None  # it was reported
        raise KeyboardInterrupt
    sys.exit(status)


def end_by_interrupt():
    """End as a program does that an interrupt ended."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


TEMPLATE = Template()
OPERATIONS["module"] = Module
PREPARE.append(TEMPLATE.prepare)
serve = main


def main(config):
    """Serve; in a child that was forked meanwhile, run its module."""
    try:
        return serve(config)
    except Forked as forked:
        child = forked.child
    child.run()
