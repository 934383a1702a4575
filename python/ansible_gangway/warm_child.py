"""The process of one module, forked from a warm interpreter: as new at its start and at its end.

Sent behind warm.py's text, whose names it uses.
"""

import _imp
import gc
import marshal
from _weakref import ReferenceType as WEAK

TRACKED = 1 << 14  # Py_TPFLAGS_HAVE_GC
leave_at_once, current = os._exit, os.getpid  # a task may replace them
OPENED = []  # libraries that the task opened


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
        note_opened()
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
        if hasattr(time, "tzset"):  # not where the build could not try it out
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
            own_memory()
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
            if sys.version_info >= (3, 14):
                forget_file(namespace)
            if current() != self.pid:
                thaw()
                raise
            status = exit_status(error)
        except BaseException as error:
            status = report(error)
            interrupted = isinstance(error, KeyboardInterrupt) and sys.version_info >= (3, 8)
            forget_file(namespace)
        else:
            forget_file(namespace)
        del namespace
        if current() == self.pid:
            try:
                finish(status, before, interrupted)
            except Exception:  # the task has changed what that needs
                pass
        end_in_full(status, interrupted)


# Of what every wrapper and module runs through, the largest parts.
RUN_BY_ALL = "zipfile zipimport importlib._bootstrap importlib._bootstrap_external".split()


def own_memory():
    """Have memory of one's own for what most modules touch, as long as there is nothing to do yet.

    A fork shares all of it; each page that is written is copied first, if only for a reference that
    is counted, and that is a sixth of a short module's time.
    """
    asked = select.poll()
    asked.register(0, select.POLLIN)
    library = TEMPLATE.library
    for module, spec in library._loaded if library else ():
        if asked.poll(0):
            return
        path = spec.origin[len(NOWHERE) :]
        _imp._fix_co_filename(library._codes[path], spec.origin)  # the task's own follows
        if path == BASIC:
            touch(module)
    for name in RUN_BY_ALL:
        if asked.poll(0):
            return
        touch(sys.modules[name])


def touch(module):
    """Count a reference to whatever a module's functions and classes consist of."""
    for value in list(vars(module).values()):
        for inner in list(vars(value).values()) if isinstance(value, type) else (value,):
            code = getattr(inner, "__code__", None)
            for _ in getattr(code, "co_consts", ()):
                pass


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
    """Do what the interpreter does behind a program; before 3.14 not behind `sys.exit`."""
    for name in ("__file__", "__cached__"):
        namespace.pop(name, None)


def close_others():
    """Close all descriptors but 0, 1 and 2, and what libffi needs."""
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        numbers = range(3, 4096)
    for number in numbers:
        if number > 2 and not is_of_libffi(number):
            try:
                os.close(number)
            except OSError:
                pass


def is_of_libffi(number):
    """Whether a descriptor is libffi's, as in Fedora and in Debian 14: it maps trampolines from it.

    A new interpreter has one, too, once ctypes is imported, and a callback would crash without it.
    """
    try:
        place = os.readlink("/proc/self/fd/%d" % number)
    except OSError:
        return False
    return os.path.basename(place).startswith("libffi")


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


def note_opened():
    """Have the libraries known that the task opens: they may have something to do at the end."""
    ctypes = sys.modules.get("ctypes")  # where it is not, the task's own is seen
    if ctypes:
        dlopen = ctypes._dlopen

        def opens(*arguments):
            OPENED.append(arguments)
            return dlopen(*arguments)

        ctypes._dlopen = opens


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
    """End the process as the interpreter would, or return: then the interpreter has to.

    It would also take down all that was there before the task, which takes longer than most tasks.
    That is spared where the task left nothing but memory.
    """
    if unfinished():
        return
    try:
        sys.modules["atexit"]._run_exitfuncs()
    except BaseException:  # reported already
        pass
    if not flush_streams() or loaded(before) or OPENED:
        return
    if gc.isenabled():
        gc.collect()  # as the interpreter does
    if unfinished() or not gc_shows_memory_alone() or not flush_streams():
        return
    if interrupted:
        end_by_interrupt()
    leave_at_once(status)


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


def gc_shows_memory_alone():
    """Whether nothing of the task is left that does something when it is freed."""
    if not hasattr(gc, "freeze"):
        return False
    found = gc.get_objects()  # frozen ones are not among them
    kinds = {type(one) for one in found}
    # Instances without attributes are none of the collector's, but their classes are.
    kinds.update(one for one in found if isinstance(one, type) and not one.__flags__ & TRACKED)
    ctypes = sys.modules.get("ctypes")
    if any(
        hasattr(kind, "__del__") or (ctypes and issubclass(kind, ctypes.CDLL)) for kind in kinds
    ):
        return False
    return not any(isinstance(one, WEAK) and calls(one.__callback__) for one in found)


def calls(callback):
    """Whether that of a weak reference does more than to forget it in a table."""
    if callback is None or isinstance(getattr(callback, "__self__", None), WEAK):
        return False
    return getattr(callback, "__module__", None) not in ("weakref", "_weakrefset")


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
    thaw()
    if interrupted:
        sys.excepthook = lambda *_: None  # it was reported
        raise KeyboardInterrupt
    raise SystemExit(status)


def thaw():
    """Let the interpreter's end collect what a new one's would."""
    if hasattr(gc, "unfreeze"):
        gc.unfreeze()


def end_by_interrupt():
    """End as a program does that an interrupt ended."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
