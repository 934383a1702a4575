"""The broker, an agent or a worker is killed at each stage of a call on a real engine.

What was interrupted says that its outcome is unknown, nothing runs twice, and the next call works.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ansible_gangway import _core
from support.broker import Broker, is_alive, within
from support.processes import running, wait_until_gone
from support.targets import Runc, Target

UNKNOWN = "its outcome is unknown and it was not repeated"
AGENT = "python3 -IS -c"
NAME = f"gangway-crash-{os.getpid()}"  # no other test's agents are in it


@pytest.fixture(scope="module", params=[Runc], ids=["runc"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """Return the engine whose container is entered through agents."""
    engine: type[Target] = request.param
    made = engine(request.getfixturevalue(f"bed_{engine.bed}"), "agent")
    with made.container(NAME):
        yield made


@pytest.fixture
def here(broker: Broker, monkeypatch: pytest.MonkeyPatch, target: Target) -> Iterator[Broker]:
    """Return the broker that sessions of this process find or start."""
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, broker.env[name])
    # The environment is part of what opens a session: workers have the same.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    target.run(NAME, "rm -f /tmp/ran /tmp/go")
    wait_until_gone(target, NAME, AGENT)  # of a broker that was killed just now
    yield broker
    broker.pids |= {state["pid"] for state in states()}


def states() -> list[dict[str, Any]]:
    """Return what the brokers say of themselves."""
    return [json.loads(text) for text in _core.broker_status()]


def state() -> dict[str, Any]:
    """Return what the one broker says of itself."""
    (one,) = states()
    return one


def kill(pid: int) -> None:
    """Kill a process and wait for its end."""
    os.kill(pid, signal.SIGKILL)
    within(5, lambda: not is_alive(pid))


def kill_broker(target: Target) -> None:
    kill(state()["pid"])


def kill_client(target: Target) -> None:
    kill(state()["agents"][0]["client_pid"])


def kill_agent(target: Target) -> None:
    (agent,) = state()["agents"]
    target.run(NAME, f"kill -9 {agent['pid']}")
    within(5, lambda: not is_alive(agent["client_pid"]))  # until then nobody here can know


VICTIMS: list[Callable[[Target], None]] = [kill_broker, kill_client, kill_agent]
each_victim = pytest.mark.parametrize("kill_one", VICTIMS)


def in_background(call: Callable[[], Any]) -> Future[Any]:
    """Run a call in a thread."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future


@each_victim
def test_between_two_calls(
    here: Broker, target: Target, kill_one: Callable[[Target], None]
) -> None:
    session = target.session(NAME)
    assert session.exec_command(b"echo one >>/tmp/ran; echo one")[1] == b"one\n"
    assert session.path().startswith("agent "), session.path()
    kill_one(target)
    assert session.exec_command(b"echo two >>/tmp/ran; echo two")[1] == b"two\n"
    assert target.session(NAME).exec_command(b"cat /tmp/ran")[1] == b"one\ntwo\n"
    assert len(state()["agents"]) == 1
    within(10, lambda: len(running(target, NAME, AGENT)) <= 1)


@each_victim
def test_under_a_command(here: Broker, target: Target, kill_one: Callable[[Target], None]) -> None:
    session = target.session(NAME)
    command = (
        b"echo ran >>/tmp/ran; while test ! -e /tmp/go; do sleep .1; done; echo end >>/tmp/ran"
    )
    call = in_background(lambda: session.exec_command(command))
    within(20, lambda: target.run(NAME, "cat /tmp/ran 2>/dev/null; true") == b"ran\n")
    kill_one(target)
    with pytest.raises(_core.ConnectionFailed, match=UNKNOWN):
        call.result(30)
    assert session.exec_command(b"cat /tmp/ran; : >/tmp/go")[1] == b"ran\n"
    # It was not ended by the loss of its stream, as without an agent.
    within(10, lambda: target.run(NAME, "cat /tmp/ran") == b"ran\nend\n")
    assert len(state()["agents"]) == 1


def test_a_broker_that_is_stopped_under_a_command(here: Broker, target: Target) -> None:
    """A running command may be silent for as long as it likes, its broker may not."""
    session = target.session(NAME)
    assert session.exec_command(b"sleep 20; echo slow")[1] == b"slow\n"
    command = b"echo ran >>/tmp/ran; while test ! -e /tmp/go; do sleep .1; done"
    call = in_background(lambda: session.exec_command(command))
    within(20, lambda: target.run(NAME, "cat /tmp/ran 2>/dev/null; true") == b"ran\n")
    pid = state()["pid"]
    here.pids.add(pid)
    begun = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(_core.ConnectionFailed, match=f"has not answered for 45 seconds.*{UNKNOWN}"):
        call.result(60)
    assert 40 < time.monotonic() - begun < 60
    os.kill(pid, signal.SIGCONT)
    # The request of a client that has left is cancelled as soon as the broker can.
    wait_until_gone(target, NAME, "/bin/sh -c echo ran")
    assert session.exec_command(b"cat /tmp/ran")[1] == b"ran\n"


def test_the_broker_while_an_agent_is_opened(here: Broker, target: Target) -> None:
    slow = here.runtime / target.engine
    wait = f"while test ! -e {here.runtime}/go; do sleep .05; done"
    held = f'case " $* " in *" exec "*) : >{here.runtime}/reached; {wait};; esac'
    slow.write_text(f'#!/bin/sh\n{held}\nexec {target.engine} "$@"\n')
    slow.chmod(0o755)
    session = target.session(NAME, executable=os.fsencode(slow))
    call = in_background(lambda: session.exec_command(b"echo ran >>/tmp/ran; echo out"))
    within(20, lambda: here.runtime.joinpath("reached").exists() and states() != [])
    within(20, lambda: any(agent["client_pid"] for agent in state()["agents"]))
    kill_broker(target)
    here.runtime.joinpath("go").touch()
    assert call.result(60) == (0, b"out\n", b"")
    assert target.run(NAME, "cat /tmp/ran") == b"ran\n"


def test_a_worker_under_a_command(here: Broker, target: Target) -> None:
    target.session(NAME).exec_command(b"true")
    program = (
        "import json, sys; from support.targets import target_of\n"
        "target_of(*json.loads(sys.argv[1])).session(sys.argv[2]).exec_command(b'exec sleep 4711')"
    )
    worker = subprocess.Popen([sys.executable, "-c", program, json.dumps(target.recipe), NAME])
    within(20, lambda: running(target, NAME, "sleep 4711") != [])
    (before,) = state()["agents"]
    worker.kill()
    worker.wait()
    wait_until_gone(target, NAME, "sleep 4711")
    session = target.session(NAME)
    assert session.exec_command(b"echo on")[1] == b"on\n"
    (agent,) = state()["agents"]
    assert agent["pid"] == before["pid"] and agent["running"] == 0


def test_a_worker_while_it_opens_an_agent(here: Broker, target: Target) -> None:
    slow = here.runtime / target.engine
    held = 'case " $* " in *" exec "*) exec sleep 4712;; esac'
    slow.write_text(f'#!/bin/sh\n{held}\nexec {target.engine} "$@"\n')
    slow.chmod(0o755)
    program = (
        "import json, os, sys; from support.targets import target_of\n"
        "target = target_of(*json.loads(sys.argv[1]))\n"
        "session = target.session(sys.argv[2], executable=os.fsencode(sys.argv[3]))\n"
        "session.exec_command(b'true')"
    )
    arguments = [json.dumps(target.recipe), NAME, str(slow)]
    worker = subprocess.Popen([sys.executable, "-c", program, *arguments])
    within(20, lambda: states() != [] and state()["agents"] != [])
    within(20, lambda: state()["agents"][0]["client_pid"] != 0)
    (opening,) = state()["agents"]
    worker.kill()
    worker.wait()
    within(5, lambda: state()["agents"] == [] and not is_alive(opening["client_pid"]))


def test_nothing_is_left_after_persist_seconds(here: Broker, target: Target) -> None:
    play = subprocess.Popen(["sleep", "60"])
    agents = _core.Agents(
        python=os.fsencode(sys.executable),
        package=os.fsencode(Path(_core.__file__).parent.parent),
        persist=1.0,
        play=play.pid,
    )
    session = target.session(NAME, agents=agents)
    assert session.exec_command(b"echo on")[1] == b"on\n" and session.path().startswith("agent ")
    pid = state()["pid"]
    del session
    time.sleep(2)
    assert len(running(target, NAME, AGENT)) == 1
    play.kill()
    play.wait()
    wait_until_gone(target, NAME, AGENT, 5)
    within(10, lambda: not is_alive(pid))
    assert [path.name for path in here.runtime.iterdir()] == ["state"]
