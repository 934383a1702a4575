"""Become the broker: the daemon that keeps agents alive between tasks.

Run by the native module as `python -I -S -c …` with two arguments, the control directory and the
name of the socket in it. The process that was started exits with status 0 once clients can
connect, or prints why they cannot; the daemon is its grandchild.
"""

from __future__ import annotations

# The module `signal` makes enums of its numbers: a fifth of the time that a broker needs to start.
import _signal as signal  # type: ignore[import-not-found]
import os
import sys

from ansible_gangway import _core

_READY = b"+"
_LONGEST_LINE = 2000


def main() -> None:
    """Daemonise and serve; return in no process."""
    directory, name = sys.argv[1:]
    log = _log()
    answer, tell = os.pipe()
    if os.fork():
        os.close(tell)
        _exit_as_told(answer)
    os.setsid()
    if os.fork():
        os._exit(0)  # what is no session's leader can never get a terminal
    try:
        _detach(log, tell)
        _core.serve_broker(
            directory=os.fsencode(directory),
            name=name,
            log=log or b"",
            listening=lambda: _say(tell, _READY),
        )
    except BaseException as error:
        _say(tell, os.fsencode(f"{type(error).__name__}: {error}"))
        os._exit(1)
    os._exit(0)


def _exit_as_told(answer: int) -> None:
    """Wait for the daemon's word, or for its death."""
    said = os.read(answer, _LONGEST_LINE)
    if said == _READY:
        os._exit(0)
    os.write(2, said or b"it died without a word")
    os._exit(1)


def _say(tell: int, what: bytes) -> None:
    try:
        os.write(tell, what[:_LONGEST_LINE])
        os.close(tell)
    except OSError:
        pass  # said before


def _log() -> bytes | None:
    """Return the path of the log; make its directory. None: nowhere to write it."""
    state = os.environb.get(b"XDG_STATE_HOME", b"")
    home = os.environb.get(b"HOME", b"")  # a user without an entry in passwd may have none
    if not state.startswith(b"/"):
        if not home.startswith(b"/"):
            return None
        state = home + b"/.local/state"
    directory = state + b"/gangway"
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    except OSError:
        return None
    return directory + b"/broker.log"


def _detach(log: bytes | None, keep: int) -> None:
    """Leave what the daemon's starter gave it: directory, descriptors, signals, umask, name."""
    os.chdir("/")
    os.umask(0o077)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    stderr = null
    if log:
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            stderr = os.open(log, flags, 0o600)
        except OSError:
            pass
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(stderr, 2)  # a panic's last words
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
    # The engines' clients inherit signals that are ignored; SIGPIPE is reset for them.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        with open("/proc/self/comm", "w") as comm:
            comm.write("gangway-broker")
    except OSError:
        pass
