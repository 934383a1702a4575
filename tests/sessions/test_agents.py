"""What an agent's calls give back, and what happens when something of the way there breaks."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_gangway import _core
from sessions.conftest import agents, on_either_path
from support.alive import ended_within, written
from support.processes import wait_until_gone
from support.targets import Target

# Another worker, which runs a command and prints how its call ended.
WORKER = """
import json, sys
recipe, command, path = json.loads(sys.argv[1])
sys.path.insert(0, path)
from support.targets import target_of
print(target_of(*recipe).session().exec_command(command.encode())[0], flush=True)
"""


def worker(target: Target, command: str) -> subprocess.Popen[str]:
    """Start a process that runs a command."""
    # The environment must be this process's: another one gets another agent.
    argument = json.dumps([target.recipe, command, str(Path(__file__).resolve().parent.parent)])
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, argument],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_one_call_after_another(target: Target) -> None:
    session = target.session()
    assert session.exec_command(b"cat; echo err >&2; exit 7", b"in") == (7, b"in", b"err\n")
    first = session.path()
    assert first.startswith("agent ") and first.endswith(", opened)")
    for number in range(20):
        assert session.exec_command(b"exit %d" % number)[0] == number
    assert session.path() == first.replace("opened", "kept")
    # The next task's session finds the same.
    other = target.session()
    assert other.exec_command(b"true")[0] == 0
    assert other.path() == session.path()
    assert [agent["serves"] for agent in agents()] == ["commands"]
    assert not session.warnings() and not other.warnings()


def test_two_sessions_at_once(target: Target) -> None:
    """A command that runs holds up no other."""
    target.session().exec_command(b"true")
    slow = worker(target, "sleep 8; exit 3")
    session = target.session()
    give_up = time.monotonic() + 30
    while agents()[0]["running"] == 0:
        assert time.monotonic() < give_up
        time.sleep(0.05)
    started = time.monotonic()
    assert session.exec_command(b"echo quick") == (0, b"quick\n", b"")
    assert time.monotonic() - started < 6
    assert slow.communicate(timeout=30)[0] == "3\n"
    assert len(agents()) == 1


def test_both_directions_at_once(target: Target) -> None:
    data = os.urandom(64 << 20)
    rc, stdout, _ = target.session().exec_command(b"cat", data)
    assert rc == 0 and stdout == data


def test_files(target: Target, tmp_path: Path) -> None:
    session = target.session()
    remote = b"/tmp/gangway-files-%d" % os.getpid()
    for size in (0, 1, 1 << 20, (1 << 20) + 1):
        source, back = tmp_path / "source", tmp_path / "back"
        source.write_bytes(os.urandom(size))
        assert session.put_file(bytes(source), remote) is None
        put = session.path()
        assert session.fetch_file(remote, bytes(back)) is None
        assert back.read_bytes() == source.read_bytes()
        for path in (put, session.path()):
            assert path.startswith("direct: " if size > 1 << 20 else "agent "), path
    with pytest.raises(_core.FileMissing, match="no such file in the container"):
        session.fetch_file(b"/no/such/file", bytes(back))
    assert back.stat().st_size == (1 << 20) + 1
    with pytest.raises(_core.Error, match="there is no directory /no/such/; nothing there was"):
        session.put_file(bytes(source.with_name("back")), b"/no/such/file")
    with pytest.raises(_core.FileMissing, match="does not exist"):
        session.put_file(b"/no/such/local", remote)


def test_a_killed_worker_takes_its_command_with_it(target: Target) -> None:
    mark = f"/tmp/gangway-worker-{os.getpid()}"
    target.run("target", f"rm -f {mark}")
    killed = worker(target, f"echo $$ >{mark}; sleep 300; echo over >{mark}")
    pid = written(target, mark)
    killed.kill()
    killed.communicate(timeout=10)
    assert ended_within(target, pid, 15)
    assert target.session().exec_command(b"true")[0] == 0


def test_an_agent_that_was_killed_between_two_calls(target: Target) -> None:
    session = target.session()
    session.exec_command(b"true")
    (agent,) = agents()
    target.run("target", f"kill -KILL {agent['pid']}")
    time.sleep(0.2)  # who answered within 100 ms is not asked whether it is alive
    assert session.exec_command(b"echo again") == (0, b"again\n", b"")
    assert session.path().endswith(", opened)")


def test_an_agent_that_is_killed_under_a_command(target: Target) -> None:
    """Nobody knows how the command ended, and nobody runs it again."""
    mark = f"/tmp/gangway-once-{os.getpid()}"
    target.run("target", f"rm -f {mark}")
    with pytest.raises(_core.ConnectionFailed, match="its outcome is unknown and it was not rep"):
        target.session().exec_command(f"echo x >>{mark}; kill -KILL $PPID; sleep 3".encode())
    assert target.session().exec_command(b"true")[0] == 0
    assert target.run("target", f"cat {mark}") == b"x\n"


def test_a_container_that_is_another_one(target: Target) -> None:
    """One that is gone is named; one that was made anew under the same name is simply used."""
    name = f"gangway-anew-{os.getpid()}"
    with target.container(name):
        session = target.session(name)
        assert session.exec_command(b"echo here >/tmp/here")[0] == 0
    with pytest.raises(_core.ConnectionFailed, match=f'"{name}" does not exist'):
        session.exec_command(b"true")
    with target.container(name):
        assert session.exec_command(b"cat /tmp/here")[0] != 0
        assert session.path().endswith(", opened)")


@pytest.mark.parametrize(
    ("python", "reason"),
    [
        ("#!/bin/sh\necho 'Hello, I am no Python'\n", "Python could not start"),
        ("#!/bin/sh\necho oh no >&2\nexit 1\n", "Python could not start (oh no)"),
        ("#!/bin/sh\necho oh no >&2\nexit 127\n", "Python could not start (oh no)"),
        ("#!/bin/sh\nexit 127\n", "Python could not start (it said nothing)"),
        ("#!/no/such/interpreter\n", "Python could not start ("),
    ],
)
def test_a_broken_python(target: Target, python: str, reason: str) -> None:
    with target.container(f"gangway-broken-{os.getpid()}") as name:
        target.run(name, "rm -f $(command -v python3); cat >/usr/bin/python3", python.encode())
        target.run(name, "chmod 755 /usr/bin/python3")
        session = on_either_path(target, name)
        for _ in range(2):
            assert session.exec_command(b"echo ran; exit 3") == (3, b"ran\n", b"")
            assert session.path().startswith(f"direct: {reason}"), session.path()


def test_a_python_that_talks_when_it_starts(target: Target) -> None:
    with target.container(f"gangway-talks-{os.getpid()}") as name:
        talk = b'#!/bin/sh\necho Welcome; echo to Python >&2\nexec /usr/bin/python3.11 "$@"\n'
        target.run(name, "rm -f /usr/bin/python3; cat >/usr/bin/python3", talk)
        target.run(name, "chmod 755 /usr/bin/python3")
        session = target.session(name)
        assert session.exec_command(b"echo ran; exit 3") == (3, b"ran\n", b"")
        assert session.path().startswith("agent ")


def hangs(target: Target, name: str) -> None:
    """Give the container a Python that does not even notice when its stdin ends."""
    target.run(name, "rm -f $(command -v python3); cat >/usr/bin/python3", HANG)
    target.run(name, "chmod 755 /usr/bin/python3")


HANG = b"#!/bin/sh\nexec sleep 4713\n"


def test_a_python_that_hangs_is_ended_with_its_call(target: Target) -> None:
    """Whoever waits for it may be interrupted, and leaves nothing in the container."""
    with target.container(f"gangway-hangs-{os.getpid()}") as name:
        hangs(target, name)
        session = on_either_path(target, name)

        def too_late(*_: object) -> None:
            raise TooLate

        before = signal.signal(signal.SIGALRM, too_late)
        try:
            signal.setitimer(signal.ITIMER_REAL, 3)
            with pytest.raises(TooLate):
                session.exec_command(b"echo ran")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        wait_until_gone(target, name, "sleep 4713")
        assert agents() == []


@pytest.mark.soak
@pytest.mark.timeout(200)
def test_a_python_that_hangs_is_waited_for_once(target: Target) -> None:
    with target.container(f"gangway-hangs-{os.getpid()}") as name:
        hangs(target, name)
        for bound in (60, 5):
            session = on_either_path(target, name)
            started = time.monotonic()
            assert session.exec_command(b"echo ran") == (0, b"ran\n", b"")
            assert time.monotonic() - started < bound
            assert session.path().startswith("direct: Python did not start within 45 seconds")
            wait_until_gone(target, name, "sleep 4713")


def test_a_python_that_never_stops_talking(target: Target) -> None:
    with target.container(f"gangway-chatty-{os.getpid()}") as name:
        target.run(name, "rm -f $(command -v python3); cat >/usr/bin/python3", b"#!/bin/sh\nyes\n")
        target.run(name, "chmod 755 /usr/bin/python3")
        session = on_either_path(target, name)
        assert session.exec_command(b"echo ran; exit 3") == (3, b"ran\n", b"")
        path = "direct: its line printed a megabyte before Python began"
        assert session.path() == path
        wait_until_gone(target, name, "yes")


# As Debian's python3-minimal, which has no json; and two that do not start at all.
@pytest.mark.parametrize(
    "lost",
    ["$(dpkg -L libpython3.11-stdlib | grep /usr/lib/python3.11/)", "encodings", "struct.py"],
    ids=["minimal", "encodings", "struct"],
)
def test_a_python_without_some_of_its_library(target: Target, lost: str) -> None:
    with target.container(f"gangway-lost-{os.getpid()}") as name:
        target.run(name, f"cd /usr/lib/python3.11; rm -rf {lost}; rm -rf __pycache__")
        session = on_either_path(target, name)
        for _ in range(2):
            assert session.exec_command(b"echo ran; exit 3") == (3, b"ran\n", b"")
            assert session.path().startswith("direct: Python could not start ("), session.path()


def test_modules_in_the_directory_are_not_imported(target: Target, tmp_path: Path) -> None:
    """Neither by the agent of commands and files nor by an interpreter behind sudo."""
    (tmp_path / "data").write_bytes(b"data")
    trap = "open('/tmp/imported', 'a').write(__name__)\nraise SystemExit(9)\n"
    names = ("json", "select", "os", "struct", "fcntl", "binascii", "termios", "re", "hashlib")
    with target.container(f"gangway-trap-{os.getpid()}") as name:
        target.run(name, "mkdir /tmp/trap; cat >/tmp/trap/json.py", trap.encode())
        target.run(name, f"cd /tmp/trap; for m in {' '.join(names)}; do cp json.py $m.py; done")
        target.run(name, "chmod -R a+rX /tmp/trap; chmod 777 /tmp/trap")
        target.run(name, "echo 'app ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/app")
        sudo = "sudo -H -n -u root /bin/sh -c 'echo BECOME; python3'"
        lines = [shlex.join(["/bin/sh", "-c", f"{line} && sleep 0"]) for line in (sudo, "python3")]
        user = b"1000:1000" if target.engine == "runc" else b"app"
        for options in ({}, {"user": user}):
            session = target.session(name, working_dir=b"/tmp/trap", **options)
            assert session.exec_command(b"pwd") == (0, b"/tmp/trap\n", b"")
            there = b"/tmp/trap/of %d" % len(options)
            assert session.put_file(bytes(tmp_path / "data"), there) is None
            assert session.fetch_file(b"/tmp/trap/json.py", bytes(tmp_path / "back")) is None
            for line in lines:
                # What the program itself imports is Python's own business, so it imports nothing.
                program = b"'_ansiballz_main'\nprint(1 + 1)\n"
                result = session.exec_command(line.encode(), program)
                assert (result[0], result[1].split()[-1]) == (0, b"2"), result
        assert target.run(name, "cat /tmp/imported 2>/dev/null; true") == b""
        assert [agent["serves"] for agent in agents()].count("modules") == 4


def test_no_python(target: Target) -> None:
    session = target.session("busybox")
    assert session.exec_command(b"echo ran") == (0, b"ran\n", b"")
    assert session.path() == "direct: no Python was found in the container"


def test_reset(target: Target) -> None:
    """The agents of this target end, and nobody else's; without a broker nothing is started."""
    target.session().reset()
    assert not _core.broker_status()
    session = target.session()
    session.exec_command(b"true")
    target.session(working_dir=b"/tmp").exec_command(b"true")
    assert len(agents()) == 2
    started = time.monotonic()
    target.session().reset()
    assert time.monotonic() - started < 1
    assert session.exec_command(b"true")[0] == 0
    assert session.path().endswith(", opened)")


def test_no_broker(target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where none can be started the call is made all the same, and the reason said once."""
    (tmp_path / "run" / "gangway").write_text("not a directory")
    session = on_either_path(target, "target")
    for _ in range(2):
        assert session.exec_command(b"echo ran") == (0, b"ran\n", b"")
        assert session.path() == "direct: there is no broker"
    (warning,) = session.warnings()
    assert "is not a directory" in warning and not session.warnings()
    (tmp_path / "run" / "gangway").unlink()


class TooLate(Exception):
    """What the handler of SIGALRM raises, as Ansible's does."""


def test_a_signal_at_the_start_of_the_wait(target: Target) -> None:
    """Wherever it strikes, the call ends soon: by the exception, or before the signal came."""
    if target.engine != "runc":
        return  # it is about this process; one engine is enough

    def too_late(*_: object) -> None:
        raise TooLate

    session = target.session()
    session.exec_command(b"true")
    before = signal.signal(signal.SIGALRM, too_late)
    slowest, struck = 0.0, 0
    try:
        for turn in range(1000):
            started = time.monotonic()
            try:
                # From before the request to after the start of the command.
                signal.setitimer(signal.ITIMER_REAL, 0.00001 + turn % 50 * 0.0001)
                session.exec_command(b"sleep 20")
            except TooLate:
                struck += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            slowest = max(slowest, time.monotonic() - started)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert struck == 1000 and slowest < 5, (struck, slowest)
    assert session.exec_command(b"echo well") == (0, b"well\n", b"")
    assert len(agents()) == 1
