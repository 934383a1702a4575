"""A timeout, Ctrl-C or SIGTERM ends the caller soon, and the command in the container with it.

SIGKILL of the caller is the exception: nothing of it is left that could end the command, and no
engine's client does (README.md says so).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import beds
from support.alive import ended_within, written
from support.ansible import Ansible
from support.targets import Target

# Generous for a loaded machine; what is meant is 1 s for the caller and 5 s for the command.
CALLER, COMMAND = 10, 15

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


def mark(target: Target) -> str:
    """Return the path of a file that is not there yet."""
    path = f"/tmp/gangway-interrupt-{os.getpid()}"
    target.run("target", f"rm -f {path}")
    return path


@pytest.mark.parametrize("handler", ["exits", "python's own"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_to_a_worker(target: Target, number: signal.Signals, handler: str) -> None:
    """Whatever the worker's handler does, the command is ended before it runs."""
    if (number, handler) == (signal.SIGTERM, "python's own"):
        # Python has none: the kernel ends the worker at once, as with SIGKILL. Ansible has one.
        return
    path = mark(target)
    command = f"echo $$ >{path}; sleep 300; echo over >{path}"
    argument = json.dumps([target.recipe, command])
    tests = str(Path(__file__).parent.parent)
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, argument, handler],
        env=beds.environment({"PYTHONPATH": tests}),
        stderr=subprocess.DEVNULL,
        preexec_fn=heed_interrupts,
    )
    try:
        pid = written(target, path)
        worker.send_signal(number)
        status = worker.wait(CALLER)
    finally:
        worker.kill()
    assert status == 41 if handler == "exits" else status != 0
    assert ended_within(target, pid, COMMAND)


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


def test_ctrl_c_on_a_play(target: Target, ansible: Ansible, tmp_path: Path) -> None:
    """ansible-playbook ends, and so does the command."""
    path = mark(target)
    play = [
        {
            "hosts": "all",
            "gather_facts": False,
            "tasks": [{"ansible.builtin.raw": f"echo $$ >{path}; sleep 300"}],
        }
    ]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    inventory = {"all": {"hosts": {"box": target.variables("target")}}}
    (tmp_path / "inventory.yml").write_text(json.dumps(inventory))
    playbook = subprocess.Popen(
        [ansible.bin_dir / "ansible-playbook", "-i", "inventory.yml", "play.yml"],
        cwd=tmp_path,
        env=beds.environment(target.env) | {"HOME": str(ansible.home), "LC_ALL": "C.UTF-8"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    try:
        pid = written(target, path)
        os.killpg(playbook.pid, signal.SIGINT)  # as a terminal does
        playbook.wait(CALLER)
    finally:
        playbook.kill()
    assert ended_within(target, pid, COMMAND)
