#!/usr/bin/python
"""Return all that a module can see of the process it runs in."""

import sys

MODULES = sorted(sys.modules)  # before anything below is imported

import builtins  # noqa: E402
import gc  # noqa: E402
import locale  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import resource  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
import warnings  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

# Of /proc/self/status; the others are sizes and counts that change by the moment.
STATUS = (
    *("Umask", "State", "Ngid", "TracerPid", "Uid", "Gid", "Groups", "Threads", "SigQ", "SigPnd"),
    *("ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"),
    *("NoNewPrivs", "Seccomp", "Cpus_allowed", "Mems_allowed", "CoreDumping", "THP_enabled"),
)
FILES = (
    *("comm", "cmdline", "limits", "oom_score_adj", "cgroup", "coredump_filter", "personality"),
    *("timerslack_ns", "loginuid", "sessionid", "uid_map", "setgroups", "attr/current"),
)


def read(path):
    """Return a file of /proc as text, or why it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace")
    except OSError as exc:
        return f"errno {exc.errno}"


def system():
    """Return what the kernel knows of the process."""
    status = dict(line.split(":\t", 1) for line in read("/proc/self/status").splitlines())
    values = {"status " + key: status.get(key) for key in STATUS if key != "SigQ"}
    # 32 and 33 are the C library's own; a Go program in front may leave them either way.
    ignored = int(status["SigIgn"], 16) & ~(3 << 31)
    values["status SigIgn"] = hex(ignored)
    values.update((name, read("/proc/self/" + name)) for name in FILES)
    variables = read("/proc/self/environ").split("\0")
    values["environ"] = dict(variable.partition("=")[::2] for variable in variables)
    values["tasks"] = len(os.listdir("/proc/self/task"))
    values["namespaces"] = {
        name: os.readlink("/proc/self/ns/" + name) == os.readlink("/proc/1/ns/" + name)
        for name in sorted(os.listdir("/proc/self/ns"))
    }
    values["exe"] = os.readlink("/proc/self/exe")
    values["root"] = os.readlink("/proc/self/root")
    values["leads its session"] = os.getsid(0) == os.getpid()
    values["leads its group"] = os.getpgrp() == os.getpid()
    values["terminal"] = read("/proc/self/stat").rpartition(")")[2].split()[4]
    values["priority"] = [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)]
    values["affinity"] = sorted(os.sched_getaffinity(0))
    values["cwd"] = os.getcwd()
    values["ids"] = [os.getresuid(), os.getresgid(), sorted(os.getgroups())]
    values["timers"] = [signal.getitimer(n) for n in range(3)]
    values["children"] = read(f"/proc/self/task/{os.getpid()}/children")
    return values


def descriptors():
    """Return what each open descriptor is, with its flags, and what stdin still holds."""
    found = {}
    for number in sorted(int(name) for name in os.listdir("/proc/self/fd")):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue  # the one that listed them
        info = dict(
            line.split(":\t", 1) for line in read(f"/proc/self/fdinfo/{number}").splitlines()
        )
        name = re.sub(r"^(pipe|socket):\[\d+\]$", r"\1", target)
        found[str(number)] = [name, info.get("flags")]
    return {"open": found, "stdin": os.read(0, 100).decode("latin-1")}


def signals():
    """Return what Python does on each signal."""
    known = {}
    for number in sorted(signal.valid_signals()):
        handler = signal.getsignal(number)
        known[str(number)] = getattr(handler, "name", None) or getattr(
            handler, "__name__", str(handler)
        )
    return {
        "handlers": known,
        "mask": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
    }


def limits():
    """Return all resource limits."""
    names = (name for name in dir(resource) if name.startswith("RLIMIT_"))
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}


def payload(path):
    """Return a path in the task's own directory or archive without what is random in it."""
    return re.sub(r"^.*/ansible_\w+_payload_[^/]*/", "PAYLOAD/", str(path))


def interpreter():
    """Return what Python itself has set up."""
    stream = {}
    for name in ("stdin", "stdout", "stderr"):
        file = getattr(sys, name)
        stream[name] = [
            *(getattr(file, key) for key in ("name", "mode", "encoding", "errors", "closed")),
            *(getattr(file, key) for key in ("line_buffering", "write_through", "newlines")),
            type(file.buffer).__name__,
            file is getattr(sys, f"__{name}__"),
        ]
    main = sys.modules["__main__"]
    frames = [[payload(f.filename), f.name] for f in reversed(traceback.extract_stack())]
    hooks = [
        getattr(sys, name).__name__ for name in ("excepthook", "displayhook", "unraisablehook")
    ]
    return {
        "argv": [payload(word) for word in sys.argv],
        "orig_argv": getattr(sys, "orig_argv", None),
        "path": [payload(entry) for entry in sys.path],
        "path_hooks": [repr(hook).partition(" at 0x")[0] for hook in sys.path_hooks],
        "meta_path": [
            payload(getattr(finder, "__name__", type(finder).__name__)) for finder in sys.meta_path
        ],
        "executable": [sys.executable, sys.prefix, sys.base_prefix, sys.exec_prefix],
        "flags": str(sys.flags),
        "options": [
            sys.warnoptions,
            dict(sys._xoptions),
            sys.dont_write_bytecode,
            sys.pycache_prefix,
        ],
        "encodings": [
            sys.getdefaultencoding(),
            sys.getfilesystemencoding(),
            locale.getpreferredencoding(False),
        ],
        "limits": [sys.getrecursionlimit(), sys.getswitchinterval(), sys.getdlopenflags()],
        "streams": stream,
        "hooks": [
            *hooks,
            sys.gettrace(),
            sys.getprofile(),
            hasattr(sys, "last_value"),
            hasattr(sys, "ps1"),
        ],
        "main": [
            main.__name__,
            main.__doc__,
            payload(getattr(main, "__file__", "none")),
            str(main.__package__),
        ],
        "main holds": sorted(name for name in vars(main) if name not in globals()),
        "main is this": vars(main) is globals(),
        "frames": frames,
        "builtins": sorted(vars(builtins)),
        "exception": str(sys.exc_info()[1]),
        "gc": [
            gc.isenabled(),
            gc.get_threshold(),
            gc.get_debug(),
            len(gc.callbacks),
            len(gc.garbage),
        ],
        "warnings": [str(entry) for entry in warnings.filters],
        "locale": [locale.setlocale(locale.LC_ALL, None), locale.localeconv()["decimal_point"]],
        "threads": [
            [t.name, t.daemon, t is threading.main_thread()] for t in threading.enumerate()
        ],
        "thread settings": [threading.stack_size(), threading.current_thread().name],
        "hash of a constant": hash(12345),
        "time": [time.tzname, time.timezone],
        "temporary": [tempfile.tempdir, payload(tempfile.gettempdir()), tempfile.gettempprefix()],
        "socket": socket.getdefaulttimeout(),
        "umask": read("/proc/self/status").partition("Umask:\t")[2][:4],
    }


def seeds():
    """Return numbers that must never be the same in two tasks."""
    import random
    import uuid

    return [random.random(), str(uuid.uuid4()), tempfile.mktemp()]


def standard(name):
    """Tell whether a module is of the standard library; there may be more of them."""
    return name.partition(".")[0] in sys.stdlib_module_names


def main():
    """Return it all."""
    # Before AnsibleModule, which sets the locale and more.
    state = {
        "modules": [name for name in MODULES if not standard(name)],
        "standard": {name: True for name in MODULES if standard(name)},
        "system": system(),
        "descriptors": descriptors(),
        "signals": signals(),
        "rlimits": limits(),
        "python": interpreter(),
        "environ": dict(os.environ),
    }
    module = AnsibleModule({"seeds": {"type": "bool", "default": False}}, supports_check_mode=True)
    if module.params["seeds"]:
        state["seeds"] = seeds()
    state["temporary directory"] = os.listdir(os.path.dirname(module.tmpdir)) and True
    module.exit_json(**{"state": state})


if __name__ == "__main__":
    main()
