#!/usr/bin/python
"""Do something to the process, or end it, in a way that a module should not."""

import atexit
import ctypes
import gc
import locale
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
import weakref

from ansible.module_utils.basic import AnsibleModule

KEPT = []


def module():
    """Return the AnsibleModule; most ways need it only to end."""
    return AnsibleModule({"how": {"type": "str", "required": True}, "file": {"type": "path"}})


class Deleted:
    """Writes a line into a file when it is deleted."""

    def __init__(self, file, line):
        self.file, self.line, self.write = file, line, os.write
        self.open, self.flags = os.open, os.O_WRONLY | os.O_APPEND | os.O_CREAT

    def __del__(self):
        self.write(self.open(self.file, self.flags, 0o600), self.line)


def append(file, text):
    """Append a text to a file."""
    with open(file, "a") as stream:
        stream.write(text)


def threads(m):
    """Leave a daemon thread and a thread that ends after main has."""

    def late():
        time.sleep(0.3)
        append(m.params["file"], "late thread\n")

    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    threading.Thread(target=late, name="late").start()


def daemon(m):
    """Start a daemon by the double fork; it holds none of our descriptors."""
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        os.execvp("sleep", ["sleep", "4242"])
    os.wait()


def descriptors(m):
    """Leave descriptors open, of files, a pipe, a socket; with and without close-on-exec."""
    for number in range(40):
        KEPT.append(os.open("/etc/passwd", os.O_RDONLY))
        os.set_inheritable(KEPT[-1], number % 2 == 0)
    KEPT.append(os.pipe())
    KEPT.append(socket.socketpair())
    os.dup2(KEPT[0], 200)


def settings(m):
    """Change all that a process inherits or Python keeps."""
    os.chdir("/etc")
    os.umask(0o777)
    os.environ.clear()
    os.environ["LEAKED"] = "yes"
    os.putenv("LEAKED_TO_C", "yes")
    locale.setlocale(locale.LC_ALL, "C")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *args: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGINT])
    signal.setitimer(signal.ITIMER_REAL, 3000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("900")
    except OSError:
        pass
    ctypes.CDLL(None).prctl(15, b"renamed", 0, 0, 0)
    sys.path.insert(0, "/leaked")
    sys.argv[:] = ["leaked"]
    sys.setrecursionlimit(500)
    sys.setswitchinterval(1)
    sys.modules["leaked"] = sys.modules["json"]
    sys.excepthook = print
    gc.disable()
    gc.set_threshold(1)
    socket.setdefaulttimeout(1)
    tempfile.tempdir = "/leaked"
    warnings.simplefilter("error")
    threading.stack_size(1 << 20)
    sys.leaked = True


def patched(m):
    """Replace functions of the standard library and of ansible's module_utils."""
    import json
    import subprocess

    from ansible.module_utils import basic

    json.dumps = lambda *args, **kwargs: '{"patched": true}'
    os.getpid = lambda: 1
    subprocess.Popen = None
    time.time = lambda: 0
    basic.AnsibleModule.fail_json = None
    sys.stdout.write('{"changed": false, "patched": "here"}')
    sys.stdout.flush()
    os._exit(0)


def at_exit(m):
    """Leave work to the end of the interpreter: atexit, finalizers, __del__, unflushed files."""
    file = m.params["file"]
    gc.disable()  # or chance decides whether the cycle is collected before
    atexit.register(append, file, "atexit\n")
    KEPT.append(Deleted(file, b"__del__ of a global\n"))
    cycle = Deleted(file, b"__del__ in a cycle\n")
    cycle.itself = cycle
    target = Deleted("/dev/null", b"")
    KEPT.append(target)
    weakref.finalize(target, append, file, "finalize\n")
    unflushed = open(file + ".unflushed", "w")  # noqa: SIM115
    unflushed.write("unflushed")
    KEPT.append(unflushed)
    os.held_by_a_module_of_the_standard_library = Deleted(file, b"__del__ in os\n")


def os_exit(m):
    """End at once, with a result half written."""
    sys.stdout.write('{"lost": true}')
    os.write(1, b'{"changed": false, "kept": true}')
    os._exit(9)


def segfault(m):
    """Die by SIGSEGV."""
    ctypes.string_at(0)


def killed(m):
    """Die by SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def memory(m):
    """Use a gigabyte."""
    KEPT.append(bytearray(1 << 30))
    for offset in range(0, 1 << 30, 4096):
        KEPT[-1][offset] = 1


def endless(m):
    """Never end."""
    while True:
        pass


def endless_deaf(m):
    """Never end, and heed no signal that can be ignored."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(1)


def writes(m):
    """Write to 1 and 2 past Python, before and after the result."""
    os.write(1, b"before the result\n")
    os.write(2, b"on stderr\n\xff")
    print("by print")
    atexit.register(os.write, 1, b"\nafter the result")


def junk_only(m):
    """Write no result at all."""
    print("only junk")
    sys.exit(0)


def reads(m):
    """Read stdin to its end, and say what was there."""
    data = sys.stdin.read()
    m.exit_json(read=data, again=os.read(0, 10).decode())


def closes(m):
    """Close the standard streams."""
    sys.stdin.close()
    sys.stderr.close()
    os.close(0)
    os.close(2)


def fork_exit(m):
    """Fork a process that leaves by sys.exit, with buffers and atexit handlers of its own copy."""
    file = m.params["file"]
    gc.disable()  # or chance decides whether the cycle is collected before
    atexit.register(append, file, "atexit\n")
    sys.stdout.write("")
    pid = os.fork()
    if pid == 0:
        sys.exit(3)
    m.exit_json(child=os.waitpid(pid, 0)[1])


def fork_raise(m):
    """Fork a process that leaves by an exception: its traceback is on our stderr."""
    pid = os.fork()
    if pid == 0:
        raise ValueError("in the fork")
    m.exit_json(child=os.waitpid(pid, 0)[1])


def fork_returns(m):
    """Fork a process that goes on as if it were the module, and prints a second result."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)


def fork_stays(m):
    """Fork a process that outlives the module and holds its stdout for a second."""
    if os.fork() == 0:
        time.sleep(1)
        append(m.params["file"], "stayed\n")
        os._exit(0)


def raises(m):
    """Leave by an exception."""
    raise RuntimeError("as asked: \u6c49")


def exits_with_text(m):
    """Leave by sys.exit with a text."""
    sys.exit("a text")


def exits_with_number(m):
    """Leave by sys.exit with a number above 255."""
    sys.exit(258)


def interrupted(m):
    """Leave by KeyboardInterrupt."""
    raise KeyboardInterrupt


def recursion(m):
    """Leave by RecursionError."""
    recursion(m)


def children(m):
    """Leave a child that is not waited for, in our session."""
    import subprocess

    null = subprocess.DEVNULL
    subprocess.Popen(["sleep", "4243"], stdin=null, stdout=null, stderr=null)


def group(m):
    """Kill our own process group, but for ourselves."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(os.getpgrp(), signal.SIGTERM)


def session(m):
    """Try to become the leader of a session."""
    try:
        os.setsid()
        said = "made one"
    except OSError as exc:
        said = f"errno {exc.errno}"
    m.exit_json(said=said)


def thread_raises(m):
    """Let a thread die by an exception: its traceback is on stderr."""
    thread = threading.Thread(target=lambda: 1 / 0, name="dies")
    thread.start()
    thread.join()


def main():
    """Do it, then end well unless that ended us."""
    m = module()
    globals()[m.params["how"]](m)
    m.exit_json(changed=False, how=m.params["how"])


if __name__ == "__main__":
    main()
