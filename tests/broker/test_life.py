"""How long agents and the broker stay, and what ends them."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support.broker import (
    AVAILABLE,
    DONE,
    GIVE_UP,
    GONE,
    PYTHON,
    RESET,
    START,
    STOP,
    UNUSABLE,
    Broker,
    is_alive,
    within,
)
from support.frames import PING, STARTED, WINDOW

HELLO_HEAD = b'{"version":1,"pid":1,"uid":0,"python":"3","executable":"","instance":""}'


def play() -> subprocess.Popen[bytes]:
    """Return a process that stands for a play."""
    return subprocess.Popen(["sleep", "60"])


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and not reaped, zombies included."""
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_an_agent_stays_while_its_play_lives_then_for_persist_seconds(broker: Broker) -> None:
    pid = broker.start()
    ours = play()
    with broker.client(ours.pid) as client:
        client.open(persist=1.5)
        assert client.run("true").exit == {"rc": 0}
        (agent,) = client.status()["agents"]
    time.sleep(2.5)
    assert is_alive(agent["client_pid"])
    ours.kill()
    ours.wait()
    begun = time.monotonic()
    within(5, lambda: not is_alive(agent["client_pid"]))
    assert 1.4 < time.monotonic() - begun < 12
    within(2, lambda: children(pid) == [])
    within(8, lambda: not is_alive(pid))
    assert [path.name for path in broker.runtime.iterdir()] == ["state"]


def test_a_play_that_is_over_before_it_is_known_keeps_nothing(broker: Broker) -> None:
    broker.start()
    ours = play()
    ours.kill()
    ours.wait()
    with broker.client(ours.pid) as client:
        client.open(persist=0.5)
        within(5, lambda: client.status()["agents"] == [])


def test_a_running_request_keeps_its_agent(broker: Broker) -> None:
    broker.start()
    with broker.client(1 << 22) as client:
        client.open(persist=0.2)
        number = client.start("sleep 2; echo done")
        assert client.finish(number).stdout == b"done\n"
        within(5, lambda: client.status()["agents"] == [])


def test_reset_retires_the_agents_of_its_target(broker: Broker) -> None:
    broker.start()
    with broker.client() as client, broker.client() as other:
        kept = other.open(key="other", target="other")
        idle = client.open(key="idle")
        old = client.open()
        number = client.start("read x; echo done")
        client.frame(STARTED, number)
        refused = client.acquire("refused")
        client.answer(refused)
        client.send(GIVE_UP, refused, {"reason": "no Python was found"})
        begun = time.monotonic()
        client.ask(RESET, {"target": "t"})
        assert time.monotonic() - begun < 5
        (gone,) = [client.start("echo no")]
        assert client.answer(gone).kind == GONE
        assert client.answer(client.acquire("refused")).kind == START
        assert client.open() not in (old, idle)
        client.agent = old
        assert client.finish(number, b"\n").stdout == b"done\n"
        within(5, lambda: len(other.status()["agents"]) == 3)  # one of them is being opened
        assert other.run("echo still").stdout == b"still\n" and other.open(key="other") == kept


def test_what_was_being_opened_at_a_reset_is_the_openers_alone(broker: Broker) -> None:
    broker.start()
    client, other = broker.client(), broker.client()
    number = client.acquire()
    assert client.answer(number).kind == START
    other.ask(RESET, {"target": "t"})
    client.spawn(number, ["cat"])
    client.adopt(number, HELLO_HEAD)
    assert client.answer(number).kind == AVAILABLE
    new = other.acquire()
    assert other.answer(new).kind == START
    other.send(GIVE_UP, new, {"reason": None})
    client.end()
    within(3, lambda: other.status()["agents"] == [])
    other.end()


@pytest.mark.parametrize("how", ["stop", "SIGTERM"])
def test_stop_lets_what_runs_end_and_the_next_broker_start(broker: Broker, how: str) -> None:
    """And no name of the old one is left."""
    pid = broker.start()
    with broker.client() as client:
        client.open()
        number = client.start("sleep 2; echo done")
        client.frame(STARTED, number)
        if how == "stop":
            told = "1 broker told to end once nothing runs on their agents\n"
            assert broker.cli("stop").stdout == told
        else:
            os.kill(pid, signal.SIGTERM)  # it is not answered
            within(2, lambda: broker.start() != pid)
        unusable = client.answer(client.acquire("more"))
        assert unusable.kind == UNUSABLE
        assert unusable.head == {"reason": "the broker was told to stop"}
        assert broker.start() != pid
        assert client.finish(number).stdout == b"done\n"
        assert client.is_closed()
        within(3, lambda: not is_alive(pid))
    with broker.client() as client:
        client.open()
        assert client.run("echo on").stdout == b"on\n"
    broker.cli("stop")
    within(5, lambda: [path.name for path in broker.runtime.iterdir()] == ["state"])


def test_status_tells_what_there_is(broker: Broker) -> None:
    assert json.loads(broker.cli("status", "--json").stdout) == []
    pid = broker.start()
    with broker.client() as client:
        client.open()
        client.run("true")
        (one,) = json.loads(broker.cli("status", "--json").stdout)
        assert one["pid"] == pid and 1 << 20 < one["rss_bytes"] < 40 << 20
        (agent,) = one["agents"]
        assert agent["label"] == "test container k" and agent["serves"] == "commands"
        assert (agent["requests"], agent["running"]) == (1, 0) and agent["age"] >= agent["idle"]
        shown = broker.cli("status").stdout
        assert f"broker {pid}: 1 agent, " in shown and "test container k" in shown


def test_asking_what_there_is_keeps_no_broker(broker: Broker) -> None:
    """Neither does a connection that stays."""
    pid = broker.start()
    with broker.client() as client:
        client.status()
        end = time.monotonic() + 30
        while is_alive(pid):
            assert time.monotonic() < end
            assert broker.cli("status", "--json").returncode == 0
            time.sleep(0.2)
        assert client.is_closed()


def test_who_came_for_an_agent_and_looks_meanwhile_keeps_it(broker: Broker) -> None:
    pid = broker.start()
    with broker.client() as client:
        client.status()
        number = client.acquire()
        client.answer(number)
        client.send(GIVE_UP, number, {"reason": "no Python was found"})
        assert client.answer(client.acquire()).kind == UNUSABLE
        client.status()
        time.sleep(7)
        assert client.answer(client.acquire()).kind == UNUSABLE
    within(8, lambda: not is_alive(pid))


def test_stop_of_an_idle_broker_is_quick(broker: Broker) -> None:
    pid = broker.start()
    with broker.client() as client:
        client.open()
        (agent,) = client.status()["agents"]
        client.send(STOP, 99)
        assert client.frame(DONE, 99)
    within(3, lambda: not is_alive(pid) and not is_alive(agent["client_pid"]))
    assert not broker.directory.exists()


def test_the_oldest_idle_agent_makes_room(broker: Broker) -> None:
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128 + 3 * 6))  # noqa: E731
    out, err = broker.starter(preexec_fn=limit).communicate(timeout=20)
    assert out, err
    pid = int(out)
    broker.pids.add(pid)
    with broker.client() as client:
        agents = {key: client.open(key=key) for key in "abc"}
        client.agent = agents["a"]
        client.run("true")  # now b is the oldest
        client.open(key="d")
        labels = [agent["label"][-1] for agent in client.status()["agents"]]
        assert labels == ["a", "c", "d"]
        within(5, lambda: len(children(pid)) == 3)
        for key in "acd":
            client.open(key=key)
            client.start("sleep 60")
        frame = client.answer(client.acquire("e"))
        assert frame.kind == UNUSABLE and frame.head["reason"].startswith(
            "the broker keeps 3 agents"
        )


def test_an_agent_that_does_not_end_is_killed(broker: Broker) -> None:
    pid = broker.start()
    with broker.client() as client:
        client.fake("import time; print(flush=True); time.sleep(60)")
        (agent,) = client.status()["agents"]
        begun = time.monotonic()
        client.ask(RESET, {"target": "t"})
        within(8, lambda: not is_alive(agent["client_pid"]))
        assert 4.5 < time.monotonic() - begun < 25
        within(1, lambda: children(pid) == [])


def test_silence_is_broken_every_15_seconds(broker: Broker) -> None:
    broker.start()
    seen = broker.runtime / "seen"
    with broker.client() as client:
        client.fake(
            f"import os; print(flush=True); f = open({str(seen)!r}, 'wb', 0)\n"
            "while (b := os.read(0, 99)): f.write(b); os.write(1, b'\\3' + bytes(8))"
        )
        within(18, lambda: seen.exists() and seen.read_bytes() != b"")
        assert seen.read_bytes() == bytes([PING]) + bytes(8)


def test_an_agent_that_leaves_by_itself_is_forgotten_and_reaped(broker: Broker) -> None:
    pid = broker.start()
    with broker.client() as client:
        client.open()
        (agent,) = client.status()["agents"]
        os.kill(agent["client_pid"], signal.SIGTERM)
        within(5, lambda: client.status()["agents"] == [])
        within(2, lambda: children(pid) == [])
        assert client.open()


def test_nothing_is_given_to_an_agent_whose_client_has_ended(broker: Broker) -> None:
    """Even when the broker learns of both at once, and the pipe has another reader."""
    pid = broker.start()
    ran = broker.runtime / "ran"
    argv = ["sh", "-c", 'exec 3<&0; "$0" "$@" <&3 & wait', *PYTHON]
    for turn in range(20):
        with broker.client() as client:
            client.open(argv, key=str(turn), target=str(turn))
            (agent,) = client.status()["agents"]
            assert client.run("true").exit == {"rc": 0}  # so it is not asked whether it is there
            os.kill(pid, signal.SIGSTOP)
            try:
                os.kill(agent["client_pid"], signal.SIGKILL)
                within(5, lambda pid=agent["client_pid"]: not is_alive(pid))
                number = client.start(f"echo ran >{ran}")
            finally:
                os.kill(pid, signal.SIGCONT)
            assert client.answer(number).kind == GONE
            within(5, lambda client=client: client.status()["agents"] == [])
    assert not ran.exists()


def test_an_agent_that_hears_nothing_any_more_is_ended(broker: Broker) -> None:
    broker.start()
    with broker.client() as client:
        client.fake("import os, time; os.close(0); print(flush=True); time.sleep(60)")
        (agent,) = client.status()["agents"]
        number = client.start("true")
        gone = client.answer(number)
        assert gone.kind == GONE and gone.head == {"said": "it has ended"}
        assert client.status()["agents"] == []
        within(8, lambda: not is_alive(agent["client_pid"]))


def test_three_thousand_requests_do_not_make_it_grow(broker: Broker) -> None:
    pid = broker.start()
    size = lambda: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) << 12  # noqa: E731
    echo = (
        "import os, struct, sys; print(flush=True); b = b''\n"
        "while 1:\n"
        "    b += os.read(0, 1 << 20) or sys.exit()\n"
        "    while len(b) >= 9:\n"
        "        k, i, n = struct.unpack_from('>BII', b)\n"
        "        if len(b) < 9 + n: break\n"
        "        b = b[9 + n:]\n"
        "        if k == 2: os.write(1, struct.pack('>BII', 3, 0, 0))\n"
        "        if k == 16: os.write(1, struct.pack('>BII', 33, i, 3) + b'abc'\n"
        "            + struct.pack('>BII', 35, i, 2) + b'{}')"
    )
    with broker.client() as client:
        client.fake(echo)
        for _ in range(100):
            client.finish(client.request("exec"))
        before, begun = size(), time.monotonic()
        for _ in range(3000):
            client.finish(client.request("exec"))
        each = (time.monotonic() - begun) / 3000
        print(f"{each * 1e6:.0f} µs a request, the test's own part included")
        assert size() - before < 512 << 10


def test_the_log_is_bounded_private_and_not_needed(broker: Broker) -> None:
    log = broker.state / "gangway" / "broker.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"x" * (1 << 20) + b"\n")
    pid = broker.start()
    assert log.stat().st_size < 1000
    os.kill(pid, signal.SIGKILL)
    within(5, lambda: not is_alive(pid))
    log.unlink()
    broker.start()
    assert log.stat().st_mode & 0o777 == 0o600
    with broker.client() as client:
        client.open(argv=[*PYTHON], label='runc container \x1b[31m\n"web"')
        client.run("echo secret $TOKEN")
    assert "secret" not in broker.log and "\x1b" not in broker.log
    assert 'runc container \\u{1b}[31m\\n"web" opened for commands, 3.' in broker.log


def test_it_starts_without_a_home(broker: Broker) -> None:
    env = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(broker.runtime)}
    for home in ({}, {"HOME": "/proc/nowhere"}, {"HOME": "relative"}):
        out, err = broker.starter(env={**env, **home}).communicate(timeout=20)
        assert out, err
        broker.pids.add(int(out))
        os.kill(int(out), signal.SIGKILL)
    assert WINDOW
