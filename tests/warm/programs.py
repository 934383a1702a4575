"""Programs that end, leak and look around in every way, and how to make modules of them."""

from __future__ import annotations

import base64
import io
import zipfile

CALL = """


if __name__ == "__main__":
    _ansiballz_main(
ansible_module='x',
module_fqn='ansible.modules.x',
profile='legacy',
date_time=None,
rlimit_nofile=0,
params='{{}}',
extensions={extensions},
zip_data='{archive}',
)
"""


def archive(members: dict[str, str] | None = None) -> str:
    """Return a zip of these files, in base64."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, source in (members or {}).items():
            made.writestr(name, source)
    return base64.b64encode(buffer.getvalue()).decode()


def module(program: str, zipped: str = "", extensions: str = "{}") -> bytes:
    """Return the text of a module whose wrapper is this program."""
    if "def _ansiballz_main" not in program:
        program += "\ndef _ansiballz_main(**arguments):\n    pass\n"
    return (program + CALL.format(archive=zipped or archive(), extensions=extensions)).encode()


# What a program can see of its interpreter and process.
LOOK_AROUND = r"""
import gc, json, os, resource, signal, stat, sys, threading, time
seen = {}
main = sys.modules["__main__"].__dict__
seen["main"] = sorted((name, repr(value)) for name, value in main.items()
                      if name.startswith("__") and name != "__builtins__")
loader = main["__loader__"]
seen["loader"] = getattr(loader, "name", None), getattr(loader, "path", None)
seen["importer"] = sys.path_importer_cache.get(main["__file__"], "absent")
seen["code"] = (lambda: 0).__code__.co_filename, sys._getframe().f_code.co_filename
seen["builtins"] = main["__builtins__"] is sys.modules["builtins"], main is globals()
for name in ("argv", "orig_argv", "path", "flags", "executable", "prefix", "exec_prefix", "platlibdir",
             "dont_write_bytecode", "warnoptions", "_xoptions", "byteorder", "maxsize", "hexversion",
             "pycache_prefix", "float_repr_style", "base_prefix"):
    seen["sys." + name] = repr(getattr(sys, name, "absent"))
for name in ("last_type", "last_value", "last_traceback", "last_exc", "ps1"):
    seen["sys." + name] = hasattr(sys, name)
seen["hooks"] = [sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__,
                 [getattr(hook, "__name__", str(hook)) for hook in sys.path_hooks],
                 [getattr(finder, "__name__", str(finder)) for finder in sys.meta_path],
                 sys.gettrace() is None, sys.getprofile() is None]
seen["limits"] = [sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(), gc.get_threshold()]
seen["encodings"] = [sys.getdefaultencoding(), sys.getfilesystemencoding()]
for name in ("stdin", "stdout", "stderr"):
    stream = getattr(sys, name)
    seen[name] = [stream.name, stream.mode, stream.encoding, stream.errors, stream.line_buffering,
                  getattr(stream, "write_through", None), stream.fileno(), stream.isatty(), stream.closed,
                  stream is getattr(sys, "__%s__" % name), type(stream.buffer).__name__,
                  stream.newlines, stat.S_IFMT(os.fstat(stream.fileno()).st_mode)]
seen["input"] = repr(sys.stdin.read()), repr(os.read(0, 10))
seen["descriptors"] = sorted(name for name in os.listdir("/proc/self/fd"))
seen["directory"] = os.getcwd()
mask = os.umask(0)
os.umask(mask)
seen["umask"] = mask
seen["environment"] = sorted(os.environ.items()), sorted(os.environb.items()) == sorted(
    (os.fsencode(a), os.fsencode(b)) for a, b in os.environ.items())
seen["session"] = os.getsid(0) == os.getpid() == os.getpgid(0)
seen["signals"] = [str(signal.getsignal(number)) for number in range(1, signal.NSIG)]
seen["blocked"] = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))
seen["wakeup"] = signal.set_wakeup_fd(-1)
seen["rlimits"] = [resource.getrlimit(number) for number in range(10)]
seen["ids"] = os.getuid(), os.getgid(), os.getgroups()
with open("/proc/self/oom_score_adj") as file:
    seen["oom"] = file.read()
with open("/proc/self/status") as file:
    seen["status"] = [line for line in file if line.split(":")[0] in (
        "Umask", "Threads", "SigBlk", "SigIgn", "SigCgt", "NoNewPrivs", "CapEff", "Seccomp")]
thread = threading.current_thread()
seen["thread"] = [thread is threading.main_thread(), thread.name, thread.daemon, thread.is_alive(),
                  threading.active_count(), thread.ident == threading.get_ident(),
                  getattr(thread, "native_id", os.getpid()) == os.getpid()]
import locale, tempfile, warnings
seen["locale"] = [locale.setlocale(category) for category in range(6)]
seen["zone"] = time.tzname, time.timezone
seen["temporary"] = tempfile.gettempdir(), tempfile._name_sequence is None, tempfile.tempdir
seen["warnings"] = repr(warnings.filters)
seen["priority"] = os.getpriority(os.PRIO_PROCESS, 0)
seen["error"] = sys.exc_info()[1] is None
print(json.dumps(seen, sort_keys=True, indent=0))
"""

# What every module of Ansible's has imported keeps much of the standard library alive to the end.
OF_MODULES = "import json, logging, os, random, shutil, subprocess, sys, tempfile, threading\n"

# name: program. Each is run plainly and warm, and must do the same.
ENDS = {
    "end": "print('x')",
    "exit": "import sys; print('x'); sys.exit()",
    "exit none": "raise SystemExit(None)",
    "exit 0": "raise SystemExit(0)",
    "exit 3": "raise SystemExit(3)",
    "exit -1": "raise SystemExit(-1)",
    "exit 256": "raise SystemExit(256)",
    "exit 257": "raise SystemExit(257)",
    "exit true": "raise SystemExit(True)",
    "exit text": "raise SystemExit('one\\ntwo')",
    "exit tuple": "raise SystemExit((1, 'x'))",
    "exit object": "class A:\n def __str__(self): return 'an A'\nraise SystemExit(A())",
    "exit subclass": "class E(SystemExit): pass\nraise E(4)",
    "exit from builtin": "exit(5)",
    "os._exit": "import os; print('never'); os._exit(6)",
    "os._exit flushed": "import os; print('x', flush=True); os._exit(6)",
    "exception": "def f(a):\n  return a / 0\n\nprint('x')\nf(1)",
    "exception in main": "def _ansiballz_main(**a):\n    raise ValueError('é')\n",
    "exception chained": "try:\n  1/0\nexcept Exception as e:\n  raise KeyError('x') from e",
    "exception context": "try:\n  1/0\nexcept Exception:\n  {}['x']",
    "exception group": "E = Exception\nraise E('a', E('b'))",
    "exception empty": "raise AssertionError",
    "exception own": "class Odd(Exception): pass\nraise Odd('x')",
    "exception base": "class Odd(BaseException): pass\nraise Odd('x')",
    "exception bad text": "class E(Exception):\n def __str__(self): raise 1\nraise E",
    "recursion": "def f(): f()\ntry: f()\nexcept RecursionError as e: print(e)",
    "generator exit": "raise GeneratorExit('x')",
    "excepthook": "import sys\nsys.excepthook = lambda *a: print('hook', a[1], a[2].tb_lineno)\n1/0",
    "excepthook exits": "import sys\nsys.excepthook = lambda *a: sys.exit(9)\n1/0",
    "no stderr": "import sys\nsys.stderr = None\nprint('x')\nsys.exit('lost')",
    "interrupt": "print('x')\nraise KeyboardInterrupt",
    "interrupt by signal": "import os, signal\nprint('x')\nos.kill(os.getpid(), signal.SIGINT)\n"
    "import time\ntime.sleep(9)",
    "killed": "import os, signal\nprint('x', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)",
    "terminated": "import os, signal\nprint('x', flush=True)\nos.kill(os.getpid(), signal.SIGTERM)\n"
    "import time\ntime.sleep(9)",
    "segmentation fault": "import ctypes\nprint('x', flush=True)\nctypes.string_at(0)",
    "aborted": "import os\nprint('x', flush=True)\nos.abort()",
    "pipe signal": "import os\nr, w = os.pipe()\nos.close(r)\ntry: os.write(w, b'x')\n"
    "except BrokenPipeError as e: print(e)",
    "file": "import sys\nprint(__file__, __cached__, __spec__, __doc__, __package__)",
    "file at exit": "import atexit\natexit.register(lambda: print('__file__' in globals()))",
    "file at sys.exit": "import atexit, sys\natexit.register(lambda: print('__file__' in globals()))\n"
    "sys.exit(1)",
}

FINALISES = {
    "atexit": "import atexit\natexit.register(print, 'last')\natexit.register(print, 'first')",
    "atexit exits": "import atexit, sys\natexit.register(print, 'a')\natexit.register(lambda: sys.exit(3))",
    "atexit in atexit": "import atexit\natexit.register(lambda: atexit.register(print, 'x'))",
    "atexit after error": "import atexit\natexit.register(print, 'a')\n1/0",
    "thread": "import threading, time\ndef f():\n  time.sleep(.1)\n  print('done')\n"
    "threading.Thread(target=f).start()\nprint('main')",
    "thread daemon": "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), "
    "daemon=True).start()\nprint('main')",
    "thread daemon busy": "import threading\ndef f():\n  while True: pass\n"
    "threading.Thread(target=f, daemon=True).start()\nprint('main')",
    "thread low": "import _thread, time\n_thread.start_new_thread(time.sleep, (9,))\nprint('x')",
    "thread fails": "import threading\ndef f(): print('t')\nt = threading.Thread(target=f)\n"
    "t.start()\nt.join()",
    "thread atexit": "import threading, time, atexit\natexit.register(print, 'atexit')\n"
    "def f():\n  time.sleep(.1)\n  print('thread')\nthreading.Thread(target=f).start()",
    "pool": "from concurrent.futures import ThreadPoolExecutor\nimport time\n"
    "p = ThreadPoolExecutor(1)\np.submit(lambda: (time.sleep(.1), print('pool')))",
    "timer": "import threading\nthreading.Timer(.1, print, ['timer']).start()",
    "file not flushed": "f = open(1, 'w', closefd=False)\nf.write('kept')",
    "file of function": "def f():\n  f.file = open(1, 'w', closefd=False)\n  f.file.write('kept')\nf()",
    "file of a module": "import os\nos.file = open(1, 'w', closefd=False)\nos.file.write('kept')",
    "file in a cycle": "l = [open(1, 'w', closefd=False)]\nl.append(l)\nl[0].write('kept')",
    "file in builtins": "import builtins\nbuiltins.file = open(1, 'w', closefd=False)\n"
    "builtins.file.write('kept')",
    "binary file": "import os\nf = os.fdopen(os.dup(1), 'wb')\nf.write(b'kept')",
    "del": "class A:\n  def __del__(self): print('deleted')\na = A()",
    "del in cycle": "class A:\n  def __del__(self): print('deleted')\na = A()\na.a = a",
    "del of module": "import os\nclass A:\n  def __del__(self): print('deleted')\nos.a = A()",
    "del globals": "x = 'here'\nclass A:\n  def __del__(self): print(x)\na = A()",
    "del after exit": "import sys\nclass A:\n  def __del__(self): print('deleted')\na = A()\n"
    "sys.exit(2)",
    "del after error": "class A:\n  def __del__(self): print('deleted')\n"
    "def f():\n  a = A()\n  1/0\nf()",
    "del raises": "class A:\n  def __del__(self): print('x')\na = A()\nb = [a]\ndel a",
    "finalize": "import weakref\nclass A: pass\na = A()\nweakref.finalize(a, print, 'finalized')",
    "generator": "def g():\n  try: yield\n  finally: print('closed')\ni = g()\nnext(i)",
    "generator kept": "import os\ndef g():\n  try: yield\n  finally: print('closed')\n"
    "os.i = g()\nnext(os.i)",
    "context": "from contextlib import contextmanager\n@contextmanager\ndef c():\n"
    "  try: yield\n  finally: print('left')\nx = c()\nx.__enter__()",
    "temporary directory": "import tempfile, os, atexit\nd = tempfile.TemporaryDirectory()\n"
    "print(os.path.isdir(d.name))\natexit.register(lambda: print('at exit'))",
    "logging": "import logging\nlogging.basicConfig(format='%(message)s')\nlogging.warning('w')",
    "gc off": "import gc\ngc.disable()\nclass A:\n  def __del__(self): print('deleted')\n"
    "a = A()\na.a = a\ndel a",
    "module": "import sys, types\nm = types.ModuleType('m')\nsys.modules['m'] = m\n"
    "class A:\n  def __del__(self): print('deleted')\nm.a = A()",
    "main removed": "import sys\ndel sys.modules['__main__']\nprint('x')",
    "stdout closed": "import sys\nsys.stdout.close()",
    "stdout replaced": "import sys, io\nsys.stdout = io.TextIOWrapper(io.open(1, 'wb', closefd=False))\n"
    "print('kept')",
    "stdout detached": "import sys\nprint('x')\nsys.stdout.detach()",
    "descriptor 1 closed": "import os\nprint('lost')\nos.close(1)",
    "descriptor 1": "import os\nprint('second')\nos.write(1, b'first\\n')",
    "descriptor 2": "import os\nos.write(2, b'words')",
    "popen left": "import subprocess\np = subprocess.Popen(['sleep', '0'])",
    "multiprocessing": "import multiprocessing as m\ndef f(): print('child', flush=True)\n"
    "p = m.get_context('fork').Process(target=f)\np.start()\np.join()\nprint(p.exitcode)",
    "del without attributes": "import os\nclass A:\n  __slots__ = ()\n  def __del__(self): print('deleted')\n"
    "os.a = A()",
    "del fails": "class A:\n  def __del__(self): 1/0\na = A()",
    "del in order": OF_MODULES + "class A:\n  def __init__(self, n): self.n = n\n"
    "  def __del__(self): print(self.n)\nitems = [A(n) for n in range(5)]\n_x = A('x')\nz = A('z')\n"
    "b = A('b')\nb.b = b\nc = A('c')\nc.z = z\nsys.a = A('sys')\ndef f(): return z\nf.a = A('f')",
    "log handler and file": OF_MODULES + "import logging\nclass H(logging.Handler):\n"
    "  def emit(self, record): sys.stdout.write(record.msg)\n"
    "logging.getLogger().addHandler(H())\nlogging.getLogger().warning('w')\n"
    "f = open(1, 'w', closefd=False)\nf.write('kept')",
    "reference told": OF_MODULES + "import functools, weakref\nclass A: pass\na = A()\n"
    "sys.r = weakref.ref(a, functools.partial(print, 'gone'))",
    "warning of a file": "import warnings\nwarnings.simplefilter('always')\nf = open('/etc/passwd')",
    "never awaited": "async def f(): pass\nx = f()",
    "functions replaced": "import gc, os, sys\ngc.collect = os._exit = sys.exit = os.getpid = None\n"
    "print('x')",
    "interpreter broken": "import builtins, os\nos.listdir = None\nprint('x')\ndel builtins.len",
    "ctypes": "import ctypes\nctypes.CDLL(None).printf(b'buffered by C')",
    "ctypes let go": "import ctypes, gc\nctypes.CDLL(None).printf(b'buffered by C')\ngc.collect()",
    "ctypes atexit": "import ctypes\nc = ctypes.CDLL(None)\n"
    "f = ctypes.CFUNCTYPE(None)(lambda: c.write(1, b'C', 1))\nprint(bool(f))",
}

FORKS = {
    "exits": "import os, sys\nif os.fork() == 0:\n  print('child')\n  sys.exit(3)\n"
    "print(os.wait()[1])",
    "ends": "import os\nif os.fork() == 0:\n  print('child')\nelse:\n  print(os.wait()[1])",
    "fails": "import os\nif os.fork() == 0:\n  1/0\nprint(os.wait()[1])",
    "fails in function": "import os\ndef f():\n  raise ValueError('x')\ndef g():\n"
    "  if os.fork() == 0:\n    f()\n  print(os.wait()[1])\ng()",
    "leaves": "import os\nif os.fork() == 0:\n  os._exit(4)\nprint(os.wait()[1])",
    "atexit": "import os, atexit\natexit.register(lambda: os.write(1, b'bye '))\n"
    "if os.fork():\n  os.wait()",
    "file": "import os\nf = open(1, 'w', closefd=False)\nif os.fork() == 0:\n  f.write('child ')\n"
    "else:\n  os.wait()\n  f.write('parent')",
    "del": "import os\nclass A:\n  def __del__(self): os.write(1, b'deleted ')\na = A()\n"
    "if os.fork():\n  os.wait()",
    "thread": "import os, threading, time\nif os.fork() == 0:\n"
    "  threading.Thread(target=lambda: (time.sleep(.1), os.write(1, b'thread '))).start()\n"
    "else:\n  os.wait()",
    "exit text": "import os, sys\nif os.fork() == 0:\n  sys.exit('words')\nprint(os.wait()[1])",
    "interrupt": "import os\nif os.fork() == 0:\n  raise KeyboardInterrupt\nprint(os.wait()[1])",
    "daemon": "import os, sys\nif os.fork() == 0:\n  os.setsid()\n  if os.fork():\n    os._exit(0)\n"
    "  sys.stdout.write('daemon')\n  sys.exit(0)\nos.wait()\nimport time\ntime.sleep(.2)",
    "descriptors": "import os\nif os.fork() == 0:\n  print(sorted(os.listdir('/proc/self/fd')))\n"
    "else:\n  os.wait()",
}

# What one task leaves, which the next one must not find.
LEAKS = {
    "directory": "import os; os.chdir('/usr')",
    "umask": "import os; os.umask(0o777)",
    "environment": "import os; os.environ['LEAK'] = 'x'; os.putenv('LEAK2', 'y'); del os.environ['PATH']",
    "signals": "import signal\nfor n in (2, 10, 13, 15, 17): signal.signal(n, signal.SIG_IGN)\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, {1, 2, 15})\nsignal.alarm(1)",
    "locale": "import locale\ntry: locale.setlocale(locale.LC_ALL, 'C.UTF-8')\n"
    "except locale.Error: locale.setlocale(locale.LC_ALL, 'POSIX')",
    "limits": "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
    "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    "descriptors": "import os\nfor n in range(50): os.dup(1)\nos.set_inheritable(os.dup(1), True)",
    "imports": "import sys, os, json\nsys.path[:] = ['/nowhere']\nsys.modules['json'] = None\n"
    "os.listdir = None\nsys.meta_path.clear()\nsys.path_hooks.clear()",
    "builtins": "import builtins\nbuiltins.print = None\nbuiltins.open = None\ndel builtins.len",
    "interpreter": "import sys, gc\nsys.setrecursionlimit(50)\ngc.disable()\nsys.setswitchinterval(9)\n"
    "sys.argv[:] = ['x']\nsys.flags\nsys.settrace(lambda *a: None)",
    "streams": "import sys, os\nos.close(0); os.close(1); os.close(2)\nsys.stdin = sys.stdout = None",
    "warnings": "import warnings\nwarnings.simplefilter('error')",
    "priority": "import os; os.nice(5)",
    "zone": "import os, time\nos.environ['TZ'] = 'Asia/Tokyo'\ntime.tzset()",
    "session": "import os\nif os.fork() == 0:\n  os.setsid()\n  if os.fork(): os._exit(0)\n"
    "  os.closerange(0, 9)\n  import time\n  time.sleep(1)\n  os._exit(0)\nos.wait()",
    "busy thread": "import threading\ndef f():\n  while True: pass\n"
    "threading.Thread(target=f, daemon=True).start()",
    "memory": "x = bytearray(1 << 30)\nx[::4096] = b'1' * (1 << 18)\nprint(len(x))",
    "killed": "import os\nos.kill(os.getpid(), 9)",
    "group signal": "import os\nos.killpg(0, 9)",
    "oom": "open('/proc/self/oom_score_adj', 'w').write('900')",
}
