"""What a warm interpreter serves: Ansible modules, each in a child forked from here.

Sent behind agent.py's text, whose names it uses; warm_texts.py, warm_library.py and warm_child.py
follow, and share them all. A module runs as `python3 < text` would run it, or
`python3 file` where it came as a file; what is saved is start-up, in steps that each fall back to
the one before when anything differs:

1. the standard library's modules that every Ansible module imports are loaded here;
2. the code of Python files in the archives is compiled here, and found by path and contents;
3. the part of `ansible.module_utils` that the wrapper imports before any module is loaded here, and
   given to children whose archive holds the very same files;
4. the wrapper's own code is compiled once.

What cannot be run exactly is refused with `plain`, and nothing was run.
"""

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
        # What the line names may be a program that runs the interpreter.
        named = agent.config.get("interpreter") or os.fsencode(sys.executable)
        program = find_program(named, agent.environment)
        if program:
            SYSTEM_FILES.append(os.fsdecode(program))
        self.seen = look_at_files()
        import importlib

        for name in PRELOADED:
            try:
                importlib.import_module(name)
            except ImportError:  # not in this Python
                pass
            except (Exception, SystemExit) as error:  # PYTHONPATH leads to another one
                self.refused = "its %s cannot be imported: %s" % (name, error)
                return
        self.settle()

    def finish(self):
        """Leave no child behind."""
        if self.spare:
            self.spare.end()

    def settle(self):
        """Do after imports: have children share the memory, and files watched that are new to us.

        What an import saw in a directory that changed at that very moment is forgotten.
        """
        self.seen = dict(look_at_files(), **self.seen)  # a change since then is still one
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
    for top in (os.path.dirname(sys.executable), sys.prefix):
        paths.append(os.path.join(top, "pyvenv.cfg"))
    site = sys.modules.get("site")
    if hasattr(site, "getsitepackages"):  # some are not there yet
        places = site.getsitepackages() + [site.USER_SITE] * bool(site.ENABLE_USER_SITE)
        paths += places
        for place in places:
            try:
                names = os.listdir(place)
            except OSError:  # not there, or not for this user
                continue
            paths += [os.path.join(place, name) for name in names if name.endswith(".pth")]
    for name in ("sitecustomize", "usercustomize"):
        paths.append(getattr(sys.modules.get(name), "__file__", None))
    return {path: look_at(path) for path in paths if path}


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
        load_library(self.agent, program.archive)
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

    def end(self):
        """End it now, and reap it: the container's process 1 may not do that for an orphan."""
        pid = self._pid
        self.discard()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

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


TEMPLATE = Template()
OPERATIONS["module"] = Module
PREPARE.append(TEMPLATE.prepare)
FINISH.append(TEMPLATE.finish)
serve = main


def main(config):
    """Serve; in a child that was forked meanwhile, run its module."""
    try:
        return serve(config)
    except Forked as forked:
        child = forked.child
    child.run()
