"""Requests through the broker to agents on this host."""

from __future__ import annotations

import os
import signal
import struct
import time
from contextlib import suppress
from pathlib import Path

import pytest

from support.broker import GONE, LOST, Broker, Client, is_alive, within
from support.frames import (
    CANCEL,
    CHUNK,
    CREDIT,
    DATA,
    EXIT,
    REQUEST,
    STARTED,
    STDOUT,
    WINDOW,
    Ended,
)

MEBIBYTE = 1 << 20


def rss(pid: int, what: str = "VmRSS") -> int:
    """Return the resident memory of a process, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) << 10
    raise AssertionError(what)


def test_a_command_its_output_and_its_end(broker: Broker) -> None:
    broker.start()
    with broker.client() as client:
        client.open()
        result = client.run("cat; echo two >&2; exit 3", b"one")
        assert (result.exit, result.stdout, result.stderr) == ({"rc": 3}, b"one", b"two\n")
        assert client.put(broker.runtime / "file", b"text" * 1000).exit == {"done": "ok"}
        assert client.fetch(broker.runtime / "file").stdout == b"text" * 1000


def test_many_requests_of_many_clients_at_once(broker: Broker) -> None:
    broker.start()
    clients = [broker.client() for _ in range(20)]
    agents = {client.open() for client in clients}
    assert len(agents) == 1
    started = [(client, client.start(f"cat; echo {n}")) for n, client in enumerate(clients)]
    more = [(client, client.start(f"echo more {n}; cat")) for n, client in enumerate(clients)]
    for n, (client, number) in enumerate(started):
        assert client.finish(number, b"in ").stdout == f"in {n}\n".encode()
    for n, (client, number) in enumerate(more):
        assert client.finish(number, b" in").stdout == f"more {n}\n in".encode()
    for client in clients:
        client.end()


def test_64_mib_both_ways_at_once_stay_whole_and_take_no_memory(broker: Broker) -> None:
    pid = broker.start()
    data = os.urandom(MEBIBYTE) * 64
    with broker.client() as client:
        client.open()
        before = rss(pid)
        begun = time.monotonic()
        result = client.run("cat", data)
        seconds = time.monotonic() - begun
        assert result.exit == {"rc": 0} and result.stdout == data
        peak = rss(pid, "VmHWM")
        ticks = sum(map(int, Path(f"/proc/{pid}/stat").read_text().split()[13:15]))
        cpu = ticks / os.sysconf("SC_CLK_TCK")
        print(f"{64 / seconds:.0f} MiB/s each way, {cpu:.2f} s of CPU, peak {peak >> 20} MiB")
        assert peak - before < 8 * MEBIBYTE


@pytest.mark.timeout(900)
@pytest.mark.parametrize("gibibytes", [0.5, pytest.param(5, marks=pytest.mark.soak)])
def test_endless_output_stays_nowhere(broker: Broker, gibibytes: float) -> None:
    """However much passes, neither the broker nor the agent keeps any of it."""
    pid = broker.start()
    left = int(gibibytes * 1024) * MEBIBYTE
    with broker.client() as client:
        client.open()
        agent = client.status()["agents"][0]["client_pid"]
        before = [rss(pid), rss(agent)]
        number = client.start(f"head -c {left} /dev/zero")
        client.frame(STARTED, number)
        while left:
            frame = client.kept.pop(0) if client.kept else client.next_frame()
            assert frame.kind == STDOUT
            left -= len(frame.payload)
            client.send(CREDIT, number, struct.pack(">I", len(frame.payload)))
        assert client.frame(EXIT, number).head == {"rc": 0}
        grown = [rss(pid, "VmHWM") - before[0], rss(agent, "VmHWM") - before[1]]
        assert max(grown) < 8 * MEBIBYTE, grown


def test_a_slow_client_holds_up_nobody_and_fills_nothing(broker: Broker) -> None:
    pid = broker.start()
    with broker.client() as slow, broker.client() as quick:
        slow.open()
        quick.open()
        numbers = [slow.start("cat /dev/zero") for _ in range(4)]
        for number in numbers:
            slow.frame(STARTED, number)  # and from now on it reads nothing
        time.sleep(2)
        full = rss(pid)
        begun = time.monotonic()
        for _ in range(20):
            assert quick.run("echo hello").stdout == b"hello\n"
        assert time.monotonic() - begun < 20
        assert rss(pid) - full < MEBIBYTE
        taken = {number: 0 for number in numbers}
        slow.seconds = 2
        with pytest.raises(TimeoutError):  # what came without credit
            while True:
                frame = slow.kept.pop(0) if slow.kept else slow.next_frame()
                if frame.kind == STDOUT:
                    taken[frame.id] += len(frame.payload)
        assert set(taken.values()) == {WINDOW}
        slow.seconds = 30
        for number in numbers:
            slow.cancel(number)
            slow.send(CREDIT, number, struct.pack(">I", WINDOW))
            assert slow.frame(EXIT, number).head["rc"] == 128 + signal.SIGTERM


def test_a_command_that_does_not_read_holds_up_nobody(broker: Broker) -> None:
    pid = broker.start()
    with broker.client() as client:
        client.open()
        stuck = client.start("sleep 60")
        for _ in range(WINDOW // CHUNK):
            client.send(DATA, stuck, bytes(CHUNK))
        before = rss(pid)
        for _ in range(20):
            assert client.run("cat", b"hello").stdout == b"hello"
        assert rss(pid) - before < MEBIBYTE
        client.cancel(stuck)
        assert client.frame(EXIT, stuck).head["rc"] == 128 + signal.SIGTERM


def test_a_client_that_leaves_has_cancelled_and_the_agent_stays(broker: Broker) -> None:
    broker.start()
    worker, other = broker.client(), broker.client()
    agent = worker.open()
    command = worker.start("echo $$; trap '' TERM; cat /dev/zero & sleep 60")
    pid = worker.frame(STARTED, command).head["pid"]
    worker.frame(STDOUT, command)
    worker.end()
    assert other.open() == agent
    assert other.run("echo still here").stdout == b"still here\n"
    within(10, lambda: not is_alive(pid))
    within(10, lambda: other.status()["agents"][0]["running"] == 0)
    assert other.status()["agents"][0]["requests"] == 2
    other.end()


def test_an_agent_killed_while_idle_is_gone_and_while_busy_lost(broker: Broker) -> None:
    broker.start()
    with broker.client() as client:
        agent = client.open()
        client.run("true")
        pid = client.status()["agents"][0]["client_pid"]
        os.kill(pid, signal.SIGKILL)
        within(5, lambda: not is_alive(pid))
        number = client.start("echo no")
        gone = client.answer(number)
        assert gone.kind == GONE and gone.head == {"said": "it has ended"}

        assert client.open() != agent
        pid = client.status()["agents"][0]["client_pid"]
        number = client.start("echo yes; sleep 60")
        client.frame(STDOUT, number)
        os.kill(pid, signal.SIGKILL)
        lost = client.answer(number)
        while lost.kind != LOST:
            lost = client.answer(number)
        assert lost.head == {"said": "the engine's client was ended by signal 9"}
        assert client.status()["agents"] == []
        assert client.open() and client.run("echo on").stdout == b"on\n"


def test_what_an_ended_agent_wrote_on_stderr_says_why(broker: Broker) -> None:
    broker.start()
    with broker.client() as client:
        client.fake(
            "import os, sys, time; print(flush=True); os.read(0, 99)\n"
            "os.write(2, b'x' * 100000 + b'\\nError: the container went away\\n'); sys.exit(137)"
        )
        number = client.start("true")
        assert client.answer(number).head["said"].endswith("; Error: the container went away")


def test_a_silent_agent_is_given_up_and_what_runs_on_it_goes_on(broker: Broker) -> None:
    broker.start()
    with broker.client() as client:
        client.open(timeout=1.0)
        running = client.start("sleep 2; echo done")
        client.frame(STARTED, running)
        agent = client.status()["agents"][0]["client_pid"]
        os.kill(agent, signal.SIGSTOP)
        time.sleep(0.2)
        begun = time.monotonic()
        number = client.start("echo never")
        gone = client.answer(number)
        assert gone.kind == GONE and gone.head["said"] == "it did not answer within 1 seconds"
        assert 0.9 < time.monotonic() - begun < 8
        os.kill(agent, signal.SIGCONT)
        assert client.finish(running).stdout == b"done\n"
        within(5, lambda: client.status()["agents"] == [] and not is_alive(agent))


def test_an_agent_that_answers_again_in_time_serves(broker: Broker) -> None:
    broker.start()
    with broker.client() as client:
        client.open()
        agent = client.status()["agents"][0]["client_pid"]
        os.kill(agent, signal.SIGSTOP)
        time.sleep(0.2)
        number = client.start("cat")
        cancelled = client.start("touch /no/such; echo never")
        client.cancel(cancelled)
        gone = client.answer(cancelled)
        assert gone.kind == GONE and gone.head["said"] == "it was cancelled before it had begun"
        os.kill(agent, signal.SIGCONT)
        assert client.finish(number, b"x" * WINDOW).stdout == b"x" * WINDOW


def test_a_killed_broker_ends_its_agents_and_the_next_one_works(broker: Broker) -> None:
    pid = broker.start()
    client = broker.client()
    client.open()
    agent = client.status()["agents"][0]["client_pid"]
    os.kill(pid, signal.SIGKILL)
    assert client.is_closed()
    within(5, lambda: not is_alive(agent))
    client.end()
    broker.start()
    with broker.client() as client:
        client.open()
        assert client.run("echo again").stdout == b"again\n"


STRAY = {  # Python that makes the bytes
    "a frame of an unknown kind": "b'\\xff' * 20",
    "an endless frame": "frame(33, 1, b'', 1 << 30)",
    "text": "b'Traceback (most recent call last):\\n'",
    "output beyond its credit": "frame(33, 1, bytes(65536)) * 5",
    "output of no request": "frame(33, 9, b'x')",
    "a second EXIT": "frame(35, 2, b'{}') * 2",
    "credit for nothing": "frame(20, 1, bytes([0, 0, 0, 1]))",
    "a start twice": "frame(32, 1, b'{}') * 2",
    "a HELLO": "frame(1, 0, b'{}')",
    "a client's frame": "frame(16, 1, b'{}')",
}


@pytest.mark.parametrize("stray", STRAY.values(), ids=STRAY)
def test_an_agent_that_breaks_the_protocol_is_ended(broker: Broker, stray: str) -> None:
    broker.start()
    with broker.client() as client, broker.client() as other:
        other.open(key="other")
        client.fake(
            "import os, time; print(flush=True); time.sleep(.05)\n"
            "while os.read(0, 999).count(b'exec') < 1: pass\n"
            "time.sleep(.1)\n"
            "import struct\n"
            "frame = lambda k, i, p, n=None: struct.pack('>BII', k, i, n or len(p)) + p\n"
            f"s = {stray}\n"
            "while s: s = s[os.write(1, s):]\n"
            "while os.read(0, 999): pass"
        )
        numbers = [client.start("true"), client.start("true")]
        lost = client.answer(numbers[0])
        while lost.kind != LOST:
            assert lost.kind in (STDOUT, STARTED), lost
            lost = client.answer(numbers[0])
        assert lost.head["said"].startswith("it broke the protocol: "), lost
        assert client.answer(numbers[1]).kind in (LOST, EXIT, GONE)
        (agent,) = client.status()["agents"]
        assert agent["label"] == "test container other"
        assert other.run("echo fine").stdout == b"fine\n"
    assert "1 lost" in broker.log or "2 lost" in broker.log


def test_a_flood_of_small_frames_does_not_make_the_broker_grow(broker: Broker) -> None:
    pid = broker.start()
    with broker.client() as client, broker.client() as other:
        other.open(key="other")
        client.fake(
            "import os, struct; print(flush=True)\n"
            "while os.read(0, 999).count(b'exec') < 1: pass\n"
            "out = lambda n: struct.pack('>BII', 33, 1, n) + bytes(n)\n"
            "os.write(1, out(0) * 1000)\n"
            "flood = out(1) * 3 + struct.pack('>BII', 3, 0, 0)\n"
            "for _ in range((256 << 10) // 3): os.write(1, flood)\n"
            "while 1: os.write(1, out(0) * 100 + flood[-9:] * 100)"
        )
        client.start("true")
        before = rss(pid)
        time.sleep(2)  # the client reads nothing
        for _ in range(5):
            assert other.run("echo fine").stdout == b"fine\n"
        grown = rss(pid) - before
        assert grown < 4 * MEBIBYTE, grown


@pytest.mark.parametrize(
    "break_it",
    [
        lambda client, number: [client.send(DATA, number, bytes(CHUNK)) for _ in range(50)],
        lambda client, number: client.send(CREDIT, number, struct.pack(">I", 1)),
        lambda client, number: client.send(STARTED, number),
        lambda client, number: client.send(EXIT, 99),
        lambda client, _: client.write(b"GET / HTTP/1.0\r\n\r\n"),
        lambda client, number: client.send(REQUEST, number, client.agent.to_bytes(4)),
        lambda client, _: client.send(REQUEST, 77, b"xx"),
        lambda client, _: client.send(1, 0, {"version": 1, "play": 1}),
        lambda client, _: [client.acquire("other", engine="x") for _ in range(300)],
    ],
    ids=["data", "credit", "kind", "id", "text", "twice", "short", "hello", "many"],
)
def test_a_client_that_breaks_the_protocol_is_closed(broker: Broker, break_it: object) -> None:
    broker.start()
    assert callable(break_it)
    with broker.client() as client, broker.client() as other:
        client.open()
        number = client.start("sleep 60")
        pid = client.frame(STARTED, number).head["pid"]
        with suppress(Ended):
            break_it(client, number)
        assert client.is_closed()
        within(10, lambda: not is_alive(pid))
        other.open()
        assert other.run("echo fine").stdout == b"fine\n"
    assert "a client was closed: " in broker.log


def test_nobody_uses_an_agent_that_he_was_not_given(broker: Broker) -> None:
    broker.start()
    with broker.client() as client, broker.client() as other:
        other.agent = client.open()
        number = other.start("echo mine")
        assert other.answer(number).kind == GONE
        other.agent = 4711
        number = other.start("echo mine")
        assert other.answer(number).kind == GONE


def test_a_client_that_does_not_greet_is_closed(broker: Broker) -> None:
    broker.start()
    with Client(broker.socket, os.getpid(), greet=False) as client:
        assert client.is_closed(12)


def test_200_idle_agents(broker: Broker) -> None:
    pid = broker.start()
    hello = b'{"version":1,"pid":1,"uid":0,"python":"3","executable":"","instance":""}'
    with broker.client() as client:
        before = rss(pid)
        for n in range(200):
            number = client.acquire(str(n))
            client.answer(number)
            client.spawn(number, ["sh", "-c", "while read -r line; do :; done"])
            client.adopt(number, hello)
            client.answer(number)
        status = client.status()
        assert len(status["agents"]) == 200
        each = (rss(pid) - before) / 200
        print(f"200 agents: {rss(pid) / MEBIBYTE:.1f} MiB, {each / 1024:.0f} KiB each")
        assert status["rss_bytes"] < (20 + 0.2 * 200) * MEBIBYTE
        client.send(CANCEL, 1)
