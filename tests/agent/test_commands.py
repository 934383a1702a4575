"""Commands through an agent: their status, their streams, and the credit that these have."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest

from support.frames import (
    CREDIT,
    DATA,
    END,
    EXIT,
    REQUEST,
    STARTED,
    STDERR,
    STDOUT,
    WINDOW,
    Agent,
)

MIB = 1 << 20
PIPE = 64 << 10


def test_streams_and_status_are_exact(agent: Agent) -> None:
    stdin = bytes(range(256)) * 2000
    result = agent.run("cat; printf 'a\\0b\\r\\n' >&2; exit 7", stdin)
    assert (result.exit, result.stdout, result.stderr) == ({"rc": 7}, stdin, b"a\0b\r\n")
    assert result.started and result.started["pid"] > 1
    assert agent.run("echo $0").stdout == b"/bin/sh\n"
    assert agent.run("").exit == {"rc": 0}


def test_bytes_of_a_command_line_arrive(agent: Agent) -> None:
    assert agent.run(b"printf %s '\xff\xfe\n \xc3\x28'").stdout == b"\xff\xfe\n \xc3\x28"


def test_without_input_stdin_is_at_its_end(agent: Agent) -> None:
    assert agent.run("cat; read x; echo $?").stdout == b"1\n"


def test_every_status(new_agent: Agent) -> None:
    assert [new_agent.run(f"exit {rc}").exit for rc in range(256)] == [
        {"rc": rc} for rc in range(256)
    ]


@pytest.mark.parametrize("signal", ["HUP", "INT", "KILL", "SEGV", "PIPE", "TERM"])
def test_a_signal_is_a_status_as_a_shell_has_it(new_agent: Agent, signal: str) -> None:
    wanted = int(new_agent.run(f"sh -c 'kill -{signal} $$' 2>/dev/null; echo $?").stdout)
    assert wanted > 128
    assert new_agent.run(f"kill -{signal} $$").exit == {"rc": wanted}


def test_several_at_once(agent: Agent) -> None:
    waiting = [agent.start("read x; echo $x; exit 3") for _ in range(20)]
    assert agent.run("echo between").stdout == b"between\n"
    for number in reversed(waiting):
        result = agent.finish(number, b"%d\n" % number)
        assert (result.exit, result.stdout) == ({"rc": 3}, b"%d\n" % number)


@pytest.mark.parametrize("size", [4 * MIB, 64 * MIB], ids=["4MiB", "64MiB"])
def test_much_passes_both_ways_at_once(size: int, new_agent: Agent) -> None:
    data = os.urandom(MIB) * (size // MIB)
    result = new_agent.run("cat", data)
    assert result.exit == {"rc": 0}
    assert result.stdout == data


def test_much_passes_on_every_python(agent: Agent) -> None:
    data = os.urandom(2 * MIB)
    assert agent.run("cat; cat /dev/null >&2", data).stdout == data


def come(agent: Agent, number: int, size: int) -> dict[int, int]:
    """Wait until a command has sent so many bytes; return how many of each stream have come."""
    while True:
        sizes = {STDOUT: 0, STDERR: 0}
        for frame in agent.kept:
            if frame.id == number and frame.kind in sizes:
                sizes[frame.kind] += len(frame.payload)
        if sum(sizes.values()) >= size:
            return sizes
        agent.kept.append(agent.next_frame())


def test_without_credit_a_command_waits_and_others_do_not(edge_agent: Agent) -> None:
    slow = edge_agent.start("head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; exit 5")
    edge_agent.send(END, slow)
    assert sum(come(edge_agent, slow, WINDOW).values()) == WINDOW
    assert edge_agent.run("echo other").stdout == b"other\n"
    edge_agent.ping()
    assert come(edge_agent, slow, WINDOW) == {STDOUT: WINDOW, STDERR: 0}
    # finish gives credit for what it takes out of those kept, too.
    result = edge_agent.finish(slow, end=False)
    assert result.exit == {"rc": 5}
    assert (result.stdout, result.stderr) == (bytes(1000000), bytes(1000000))


def test_much_output_does_not_hold_up_an_answer(edge_agent: Agent) -> None:
    """However many commands write: they wait in their pipes, not in the stream."""
    agent = edge_agent
    numbers = [agent.start("yes") for _ in range(30)]
    for number in numbers:
        agent.frame(STDOUT, number)
    time.sleep(1)
    agent.kept.clear()
    agent.ping()
    before = sum(len(frame.payload) for frame in agent.kept)
    # What the two pipes and the agent's queue hold, and what was read for the last time.
    assert PIPE < before < PIPE + WINDOW + 2 * PIPE + MIB // 4
    for number in numbers:
        agent.cancel(number)
    for number in numbers:
        agent.frame(EXIT, number)


def test_stdout_and_stderr_share_the_credit(new_agent: Agent) -> None:
    number = new_agent.start("head -c 200000 /dev/zero; head -c 200000 /dev/zero >&2")
    come(new_agent, number, WINDOW)
    new_agent.ping()
    sizes = come(new_agent, number, WINDOW)
    assert sum(sizes.values()) == WINDOW
    assert sizes[STDERR] > 0
    new_agent.cancel(number)
    new_agent.frame(EXIT, number)


def test_what_a_command_wrote_before_its_end_waits_for_credit(new_agent: Agent) -> None:
    """Although a background process holds the pipes, which ends the wait for silence."""
    size = WINDOW + PIPE - 100
    number = new_agent.start(f"sleep 20 & head -c {size} /dev/zero; exit 4")
    new_agent.send(END, number)
    come(new_agent, number, WINDOW)
    time.sleep(1.5)
    new_agent.ping()
    assert not [frame for frame in new_agent.kept if frame.kind == EXIT]
    result = new_agent.finish(number, end=False)
    assert (result.exit, len(result.stdout)) == ({"rc": 4}, size)


def test_credit_for_stdin_comes_as_it_is_read(edge_agent: Agent, tmp_path: Path) -> None:
    read = tmp_path / "read"
    number = edge_agent.start(f"while test ! -e {read}; do sleep 0.1; done; cat")
    edge_agent.frame(STARTED, number)
    for _ in range(4):
        edge_agent.send(DATA, number, bytes(WINDOW // 4))
    given = 0
    while given < WINDOW - 2 * PIPE:
        try:
            frame = edge_agent.next_frame(None if read.exists() else 1)
        except TimeoutError:
            assert not read.exists()
            read.touch()
            continue
        if frame.kind == CREDIT:
            given += struct.unpack(">I", frame.payload)[0]
            assert given <= PIPE or read.exists()
    edge_agent.send(END, number)
    assert edge_agent.finish(number, end=False).exit == {"rc": 0}


def test_stdin_that_nobody_reads_is_dropped(edge_agent: Agent) -> None:
    result = edge_agent.run("exec <&-; sleep 0.2; echo fine", bytes(2 * MIB))
    assert (result.exit, result.stdout) == ({"rc": 0}, b"fine\n")
    assert edge_agent.run("head -c 3", b"abcdef" * MIB).stdout == b"abc"


def test_more_than_the_credit_ends_the_stream(new_agent: Agent) -> None:
    number = new_agent.start("sleep 3")
    new_agent.frame(STARTED, number)
    new_agent.send(DATA, number, bytes(WINDOW))
    new_agent.send(DATA, number, bytes(PIPE))
    new_agent.send(DATA, number, bytes(1))
    assert [frame for frame in new_agent.rest() if frame.kind == EXIT] == []
    assert new_agent.wait() == 0
    assert new_agent.words == (
        "gangway-agent: what came is no frame: more than the credit of request 1\n"
    )


@pytest.mark.parametrize("keeps_writing", [False, True])
def test_a_background_process_is_not_waited_for(
    edge_agent: Agent, tmp_path: Path, keeps_writing: bool
) -> None:
    go, sign = tmp_path / "go", tmp_path / "sign"
    write = "echo x;" if keeps_writing else ""
    loop = f"while test ! -e {go}; do {write} sleep 0.1; done; echo late && echo yes >{sign}"
    begun = time.monotonic()
    result = edge_agent.run(f"({loop} || echo no >{sign}) & echo first; exit 6")
    seconds = time.monotonic() - begun
    assert result.exit == {"rc": 6}
    assert result.stdout.startswith(b"first\n") or keeps_writing
    assert seconds > (0.45 if keeps_writing else 0.25)
    go.touch()
    while not sign.exists() or not sign.read_text():  # it was not ended by what it wrote
        assert time.monotonic() < begun + 30
        time.sleep(0.05)
    assert sign.read_text() == "yes\n"
    assert edge_agent.run("echo next").stdout == b"next\n"


def test_a_shell_is_found_as_the_direct_path_finds_it(agent: Agent) -> None:
    assert agent.run("echo $0", shell=b"sh").stdout == b"sh\n"
    for shell in (b"/no/shell", b"no-shell", b"/etc/passwd"):
        result = agent.run("true", shell=shell)
        reason = f"there is no program {shell.decode()} in the container"
        assert (result.exit, result.started) == ({"plain": reason}, None)


def test_what_is_unknown_takes_the_plain_way(agent: Agent) -> None:
    number = agent.request("dance")
    assert agent.frame(EXIT, number).head == {
        "plain": "the agent does not know the operation dance"
    }
    assert agent.run("exit 1").exit == {"rc": 1}


@pytest.mark.parametrize(
    "head",
    [b"{", b"[]", b"{}", b'{"op":"\xff"}', b'{"op":[]}', b'{"op":"exec","shell":1}', b"[" * 99999],
    ids=["no JSON", "no object", "no operation", "no text", "list", "no base64", "deep"],
)
def test_a_head_without_sense_is_nobody_elses_loss(new_agent: Agent, head: bytes) -> None:
    """The broker passes heads on as they are, and others have requests on this stream."""
    number = new_agent.start("read x; exit 3")
    new_agent.send(REQUEST, 77, head)
    assert new_agent.frame(EXIT, 77).head["plain"].startswith("the agent could not do it: ")
    assert new_agent.finish(number, b"x\n").exit == {"rc": 3}


def test_frames_of_an_ended_request_are_ignored(agent: Agent) -> None:
    number = agent.start("exit 2")
    assert agent.frame(EXIT, number).head == {"rc": 2}
    agent.send(DATA, number, b"x")
    agent.send(CREDIT, number, struct.pack(">I", 9))
    agent.cancel(number)
    agent.send(END, number)
    assert agent.run("exit 1").exit == {"rc": 1}


def test_no_descriptor_and_no_process_is_kept(new_agent: Agent) -> None:
    def state() -> tuple[int, bytes]:
        pid = new_agent.hello["pid"]
        return len(os.listdir(f"/proc/{pid}/fd")), Path(
            f"/proc/{pid}/task/{pid}/children"
        ).read_bytes()

    new_agent.run("true")
    before = state()
    for _ in range(20):
        new_agent.run("cat; echo x >&2", b"x")
        new_agent.run("true", shell=b"/no/shell")
    assert state() == before
