"""A timeout, Ctrl-C or SIGTERM ends the caller soon, and the command in the container with it.

SIGHUP and SIGKILL, of which no caller learns, are the exception on the direct path: nothing is left
that could end the command, and no engine's client does (README.md says so).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support import beds, inventory, processes
from support.alive import ended_within, written
from support.ansible import IS_NEWEST, Ansible
from support.targets import Target

# Generous for a loaded machine; what is meant is 5 s for the command.
CALLER, COMMAND = 20, 15
# For the caller; on a machine that does other things, too, in one of several attempts.
SOON = 1.0
NUMBERS = itertools.count()
# What a handler of Python's can be for.
CAUGHT = (signal.SIGINT, signal.SIGTERM)

# A worker of Ansible's handles both signals so: nothing after the handler runs.
WORKER = """
import json, os, signal, sys
recipe, command = json.loads(sys.argv[1])
from support.targets import target_of
if sys.argv[2] == "exits":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(41))
target_of(*recipe).session().exec_command(command.encode())
"""


def heed_interrupts() -> None:
    """Undo what a shell does to its background jobs, of which the tests may be one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def named(value: object) -> str | None:
    """Return what a signal is called in the name of a test."""
    return value.name if isinstance(value, signal.Signals) else None


@pytest.fixture
def nap() -> str:
    """Return a command that nobody else runs."""
    return f"sleep 800.{os.getpid()}{next(NUMBERS):03}"


def mark(target: Target) -> str:
    """Return the path of a file that is not there yet."""
    path = f"/tmp/gangway-interrupt-{os.getpid()}"
    target.run("target", f"rm -f {path}")
    return path


# What is still there after SIGKILL is the broker, which sees the worker's connection close.
SIGNALS = {
    "direct": [signal.SIGINT, signal.SIGTERM],
    "agent": [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL],
}


# Python itself has no handler for SIGTERM, Ansible has: the kernel ends such a worker at once.
HANDLED = [
    (path, number, handler)
    for path, numbers in SIGNALS.items()
    for number in numbers
    for handler in (["exits"] if number in CAUGHT else []) + ["python's own"]
    if (path, number, handler) != ("direct", signal.SIGTERM, "python's own")
]


@pytest.mark.parametrize(("by_path", "number", "handler"), HANDLED, indirect=["by_path"], ids=named)
def test_a_signal_to_a_worker(
    target: Target, nap: str, number: signal.Signals, handler: str
) -> None:
    """Whatever the worker's handler does, the command is ended, and all that it started."""
    seconds = []
    while not seconds or (min(seconds) > SOON and len(seconds) < 4):
        seconds.append(interrupted(target, nap, number, handler))
    assert min(seconds) < SOON, seconds


def interrupted(target: Target, nap: str, number: signal.Signals, handler: str) -> float:
    """Send a signal to a worker while its command runs; return the seconds until it has ended."""
    path = mark(target)
    more = f"{nap} & (trap '' HUP; {nap}; true) | cat &"
    command = f"{more} echo $$ >{path}; {nap}; echo over >{path}"
    argument = json.dumps([target.recipe, command])
    tests = str(Path(__file__).parent.parent)
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, argument, handler],
        env=beds.environment({"PYTHONPATH": tests}),
        stderr=subprocess.DEVNULL,
        preexec_fn=heed_interrupts,
    )
    try:
        written(target, path)
        started = time.monotonic()
        worker.send_signal(number)
        status = worker.wait(CALLER)
        seconds = time.monotonic() - started
    finally:
        worker.kill()
    assert status == 41 if handler == "exits" else status != 0
    processes.wait_until_gone(target, "target", nap, COMMAND)
    assert target.run("target", f"cat {path}") != b"over\n"
    return seconds


def test_a_signal_before_the_command_runs(target: Target) -> None:
    """The engine was already asked to start it: it is ended as soon as it starts."""
    path = mark(target)

    class Now(BaseException):
        pass

    def stop(*_: object) -> None:
        raise Now

    before = signal.signal(signal.SIGALRM, stop)
    session = target.session()
    session.exec_command(b"true")
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        with pytest.raises(Now):
            session.exec_command(f"echo $$ >{path}; sleep 300".encode())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    time.sleep(1)
    pid = target.run("target", f"cat {path} 2>/dev/null; true").decode().strip()
    assert not pid or ended_within(target, pid, COMMAND)


# Each way to run something, by host; the last two are another user's processes.
WAYS: dict[str, dict[str, Any]] = {
    "raw": {"command": "raw"},
    "module": {},
    "file": {"ansible_pipelining": False},
    "sudo": {"ansible_become": True, "ansible_become_user": "app"},
    "su": {"ansible_become": True, "ansible_become_user": "app", "ansible_become_method": "su"},
}


@pytest.mark.parametrize(
    ("by_path", "number"),
    [(path, number) for path, numbers in SIGNALS.items() for number in numbers],
    indirect=["by_path"],
    ids=named,
)
def test_a_signal_to_a_play(
    target: Target, ansible: Ansible, tmp_path: Path, nap: str, number: signal.Signals
) -> None:
    """It ends, and so do its commands; or its workers are struck, by what they do not catch."""
    if (target.path, number) == ("direct", signal.SIGTERM) and not IS_NEWEST:
        return  # workers of older ansible-cores do not catch it
    task = {"when": "command | default('command') == 'command'", "ansible.builtin.command": nap}
    raw = {"when": "command | default('command') == 'raw'", "ansible.builtin.raw": nap}
    play = [{"hosts": "all", "gather_facts": False, "strategy": "free", "tasks": [raw, task]}]
    (tmp_path / "play.json").write_text(json.dumps(play))
    common = target.variables("target") | inventory.PYTHON
    hosts = {way: common | variables for way, variables in WAYS.items()}
    file = inventory.write(tmp_path / "hosts.json", all=hosts)
    playbook = subprocess.Popen(
        [ansible.bin_dir / "ansible-playbook", "-i", file, "--forks=9", tmp_path / "play.json"],
        env=beds.environment(target.env) | {"HOME": str(ansible.home), "LC_ALL": "C.UTF-8"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    try:
        end = time.monotonic() + 60
        while len(processes.running(target, "target", nap)) < len(WAYS):
            assert time.monotonic() < end, processes.running(target, "target", nap)
            assert playbook.poll() is None
            time.sleep(0.2)
        if number in CAUGHT:
            os.killpg(playbook.pid, number)  # as a terminal does
            playbook.wait(CALLER)
        else:  # ansible-core itself lets workers go on without their main process
            children = Path(f"/proc/{playbook.pid}/task/{playbook.pid}/children").read_text()
            for worker in map(int, children.split()):
                os.kill(worker, number)
        processes.wait_until_gone(target, "target", nap, COMMAND)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(playbook.pid, signal.SIGKILL)
        playbook.wait()
