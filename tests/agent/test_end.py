"""How requests and agents end: cancelled, retired, and with the stream lost in every way."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.conftest import Start
from support.frames import (
    CREDIT,
    DATA,
    END,
    EXIT,
    PING,
    REQUEST,
    RETIRE,
    STARTED,
    STDOUT,
    Agent,
)

# The waits of an agent that hears nothing, made short; a busy machine may stand still for a second.
SILENCE = 2.4
IMPATIENT = f"SILENCE, TICK = {SILENCE}, 0.3"
# Seconds for what happens at once: less than any wait of an agent that has missed it.
AT_ONCE = 8
# Seconds from TERM to KILL.
GRACE = 3


def wait_for(what: Callable[[], object], seconds: float = 10) -> None:
    """Fail when it does not become true in time."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def lives(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def started(agent: Agent, command: str) -> tuple[int, int]:
    """Start a command without input; return the request's id and the process's."""
    number = agent.start(command)
    agent.send(END, number)
    return number, agent.frame(STARTED, number).head["pid"]


def processes(directory: Path, *names: str) -> list[int]:
    """Return the process ids that a command wrote to files of these names."""
    for name in names:
        wait_for(lambda path=directory / name: path.exists() and path.read_text().endswith("\n"))  # type: ignore[misc]
    return [int((directory / name).read_text()) for name in names]


def test_cancel_ends_a_command(agent: Agent) -> None:
    number, pid = started(agent, "sleep 60; echo never")
    begun = time.monotonic()
    agent.cancel(number)
    agent.cancel(number)
    assert agent.frame(EXIT, number).head == {"rc": 143}
    assert time.monotonic() - begun < AT_ONCE
    assert not lives(pid)
    assert agent.run("echo next").stdout == b"next\n"


def test_cancel_at_once_ends_a_command(new_agent: Agent) -> None:
    """Also before the child has become the shell."""
    for _ in range(30):
        number = new_agent.start("sleep 60")
        new_agent.cancel(number)
        begun = time.monotonic()
        assert new_agent.frame(EXIT, number).head == {"rc": 143}
        assert time.monotonic() - begun < AT_ONCE


def test_a_cancelled_shell_runs_no_further_command(new_agent: Agent, tmp_path: Path) -> None:
    """Its child ends at the same moment, and not before it."""
    command = f"sh -c 'sleep 60; echo inner >>{tmp_path}/ran'; echo outer >>{tmp_path}/ran"
    exits = []
    for _ in range(100):
        number, _ = started(new_agent, command)
        time.sleep(0.02)
        new_agent.cancel(number)
        exits.append(new_agent.frame(EXIT, number).head)
    assert exits == [{"rc": 143}] * 100
    assert not (tmp_path / "ran").exists()


def test_cancel_ends_the_session_and_nothing_else(new_agent: Agent, tmp_path: Path) -> None:
    command = (
        f"cd {tmp_path}; trap '' TERM; (echo $(exec sh -c 'echo $PPID') >deaf; sleep 60) &"
        "(trap - TERM; exec timeout 50 sh -c 'echo $$ >group; exec sleep 60') &"
        "setsid sh -c 'trap - TERM; echo $$ >own; exec sleep 61' & "
        "while :; do sleep 0.1; done"
    )
    number, pid = started(new_agent, command)
    deaf, group, own = processes(tmp_path, "deaf", "group", "own")
    begun = time.monotonic()
    new_agent.cancel(number)
    wait_for(lambda: not lives(group))  # timeout makes a group of its own, not a session
    assert (lives(pid) and lives(deaf)) or time.monotonic() - begun > GRACE
    assert new_agent.frame(EXIT, number).head == {"rc": 137}
    assert GRACE <= time.monotonic() - begun < GRACE + AT_ONCE
    wait_for(lambda: not lives(deaf))
    assert lives(own)
    os.kill(own, signal.SIGKILL)


def test_cancel_ends_what_a_command_left_behind(new_agent: Agent, tmp_path: Path) -> None:
    """KILL comes also when the shell itself had heeded TERM, and before the agent retires."""
    command = f"(trap '' TERM; echo $(exec sh -c 'echo $PPID') >{tmp_path}/deaf; sleep 60) & wait"
    number, _ = started(new_agent, command)
    (deaf,) = processes(tmp_path, "deaf")
    begun = time.monotonic()
    new_agent.cancel(number)
    assert new_agent.frame(EXIT, number).head == {"rc": 143}
    assert lives(deaf) or time.monotonic() - begun > GRACE
    new_agent.send(RETIRE)
    new_agent.rest()
    assert time.monotonic() - begun >= GRACE
    wait_for(lambda: not lives(deaf))  # the kernel takes a moment


def test_a_cancelled_command_that_writes_much_ends(new_agent: Agent) -> None:
    number = new_agent.start("trap '' PIPE; trap 'exit 9' TERM; while :; do echo xxxxxxxx; done")
    new_agent.send(DATA, number, bytes(200000))
    new_agent.frame(STDOUT, number)
    new_agent.cancel(number)
    assert new_agent.frame(EXIT, number).head == {"rc": 9}


def test_cancel_of_a_stopped_command(new_agent: Agent) -> None:
    number, pid = started(new_agent, "kill -STOP $$")
    wait_for(lambda: ") T " in Path(f"/proc/{pid}/stat").read_text())
    new_agent.cancel(number)
    assert new_agent.frame(EXIT, number).head == {"rc": 137}


def test_ping_is_answered_while_commands_are_busy(edge_agent: Agent) -> None:
    busy = [edge_agent.start("yes") for _ in range(3)]
    for number in busy:
        edge_agent.frame(STDOUT, number)
    assert sorted(edge_agent.ping() for _ in range(20))[10] < 1
    for number in busy:
        edge_agent.cancel(number)
        assert "rc" in edge_agent.frame(EXIT, number).head


def test_retired_it_finishes_what_runs(agent: Agent) -> None:
    number = agent.start("read x; echo $x")
    agent.send(RETIRE)
    refused = agent.start("echo never")
    assert agent.frame(EXIT, refused).head == {"plain": "the agent is retiring"}
    result = agent.finish(number, b"still here\n")
    assert (result.exit, result.stdout) == ({"rc": 0}, b"still here\n")
    assert agent.rest() == []
    assert agent.wait(5) == 0
    assert agent.words == ""


def test_retired_without_work_it_ends_at_once(agent: Agent) -> None:
    begun = time.monotonic()
    agent.send(RETIRE)
    assert agent.rest() == []
    assert agent.wait(5) == 0
    assert time.monotonic() - begun < AT_ONCE


def close(agent: Agent) -> None:
    """End the stream as a broker that is gone."""
    assert agent.process.stdin and agent.process.stdout
    agent.process.stdin.close()
    agent.process.stdout.close()


@pytest.mark.parametrize("name", ["TERM", "HUP", "INT"])
def test_a_signal_makes_it_retire(edge_agent: Agent, name: str) -> None:
    """A command that kills every Python is not lost by that."""
    pid = edge_agent.hello["pid"]
    result = edge_agent.run(f"kill -{name} {pid}; sleep 0.3; head -c 1000000 /dev/zero; exit 4")
    assert (result.exit, len(result.stdout)) == ({"rc": 4}, 1000000)
    assert edge_agent.rest() == []
    assert edge_agent.wait() == 0
    assert edge_agent.words == f"gangway-agent: signal {signal.Signals['SIG' + name].value}\n"


LOSSES: dict[str, Callable[[Agent], None]] = {
    "both ends closed": close,
    "stdin closed": lambda agent: agent.process.stdin.close(),  # type: ignore[union-attr]
    "stdout closed": lambda agent: agent.process.stdout.close(),  # type: ignore[union-attr]
    "an unknown kind": lambda agent: agent.send(99),
    "a frame for brokers": lambda agent: agent.send(64),
    "too long": lambda agent: agent.write(struct.pack(">BII", DATA, 1, 1 << 21)),
    "an id twice": lambda agent: agent.send(REQUEST, 1, {"op": "exec"}),
    "half a credit": lambda agent: agent.send(CREDIT, 1, b"12"),
    "noise": lambda agent: agent.write(os.urandom(5000)),
    "silence": lambda agent: time.sleep(0),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kill", [False, True], ids=["finishes", "is killed"])
def test_a_command_whose_stream_is_lost(
    loss: str, kill: bool, start: Start, newest: str, tmp_path: Path
) -> None:
    """It finishes as if nothing were, with its output going nowhere, and then the agent ends."""
    sign = tmp_path / "sign"
    change = IMPATIENT if loss == "silence" else ""
    agent = start(newest, change=change, kill_on_disconnect=kill)
    busy = "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2"
    first = 60 if kill else 2 * SILENCE if loss == "silence" else 0.6
    number, pid = started(agent, f"sleep {first}; {busy}; sleep 0.2; echo $? >{sign}; sleep 0.3")
    assert number == 1
    agent_pid = agent.hello["pid"]
    LOSSES[loss](agent)
    if kill:
        wait_for(lambda: not lives(pid), 30)
    wait_for(lambda: not lives(agent_pid), 30)
    assert agent.wait() == 0
    assert sign.exists() is not kill
    assert not lives(pid)
    assert len(agent.words.splitlines()) <= 1
    assert ("nothing came" in agent.words) is (loss == "silence")


def test_a_command_that_reads_sees_the_end_of_a_lost_stream(
    new_agent: Agent, tmp_path: Path
) -> None:
    number = new_agent.start(f"cat >{tmp_path}/all; echo >{tmp_path}/end")
    new_agent.send(DATA, number, b"first")
    new_agent.frame(STARTED, number)
    new_agent.end()
    assert (tmp_path / "all").read_bytes() == b"first"
    assert (tmp_path / "end").exists()


def test_an_idle_agent_ends_with_its_stream(agent: Agent) -> None:
    begun = time.monotonic()
    agent.end()
    assert agent.wait() == 0
    assert agent.words == ""
    assert time.monotonic() - begun < AT_ONCE


def test_in_silence_it_ends(start: Start, edge: str) -> None:
    agent = start(edge, change=IMPATIENT)
    begun = time.monotonic()
    for _ in range(8):
        time.sleep(0.4)
        agent.ping()
    heard = time.monotonic()
    assert heard - begun > SILENCE
    agent.rest()
    assert SILENCE * 0.9 < time.monotonic() - heard < SILENCE + AT_ONCE
    assert agent.wait() == 0
    assert agent.words == "gangway-agent: nothing came for 2 seconds\n"


def test_frozen_it_is_not_ended_by_the_time_that_passed(start: Start, edge: str) -> None:
    agent = start(edge, change=IMPATIENT)
    number = agent.start("read x; echo $x")
    agent.frame(STARTED, number)
    for late in (False, True):
        os.kill(agent.hello["pid"], signal.SIGSTOP)
        time.sleep(SILENCE + 1)
        if not late:
            agent.send(PING)  # it lies there when the agent goes on
        os.kill(agent.hello["pid"], signal.SIGCONT)
        if late:
            time.sleep(0.6)
        agent.ping()
    assert agent.finish(number, b"awake\n").stdout == b"awake\n"


def test_frames_cut_anywhere_arrive(new_agent: Agent) -> None:
    sent = b""
    for number in range(1000, 1003):
        head = b'{"op":"exec","shell":"c2g=","command":"Y2F0"}'  # sh -c cat
        sent += struct.pack(">BII", REQUEST, number, len(head)) + head
        sent += struct.pack(">BII", DATA, number, 5) + b"hello"
        sent += struct.pack(">BII", END, number, 0)
    for at in range(len(sent)):
        new_agent.write(sent[at : at + 1])
    for number in range(1000, 1003):
        result = new_agent.finish(number, end=False)
        assert (result.exit, result.stdout) == ({"rc": 0}, b"hello")
