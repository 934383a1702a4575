"""What only the path through agents has: something that stays between two tasks, and may break."""

from __future__ import annotations

import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ansible_gangway import _core
from support import inventory
from support.alive import written
from support.ansible import Ansible
from support.captured import capture
from support.targets import Target

pytestmark = pytest.mark.parametrize("by_path", ["agent"], indirect=True)
# The engine that needs the least, where what is tested is the broker and the agent.
on_runc = pytest.mark.parametrize("target", ["runc"], indirect=True)

UNKNOWN = "its outcome is unknown and it was not repeated"
# Part of the command line of every agent.
BOOT = r"import sys;sys\.path"


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the test brokers of its own; return their directory."""
    with tempfile.TemporaryDirectory(prefix="gangway-") as directory:  # a socket's path is short
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        yield Path(directory) / "gangway"
        _core.broker_stop()


def agents_in(target: Target, container: str) -> list[str]:
    """Return the agents that run in the container, seen without gangway."""
    look = f"grep -alE '{BOOT}' /proc/[0-9]*/cmdline; true"
    return [path.split("/")[2] for path in target.run(container, look).decode().split()]


def brokers() -> list[dict[str, Any]]:
    """Return what the brokers say of themselves."""
    return list(map(json.loads, _core.broker_status()))


def wait_until(condition: Any, what: str, seconds: float = 40) -> None:
    """Fail the test unless `condition()` is true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.2)


def test_nothing_is_left(target: Target, ansible: Ansible, control: Path, tmp_path: Path) -> None:
    """After `persist` seconds: no process in the container, no socket, no broker."""
    with target.container(f"gangway-left-{os.getpid()}") as name:
        before = set(target.run(name, "ls -A / /tmp /root /var/tmp /dev/shm").split())
        variables = target.variables(name) | {"ansible_gangway_persist": 1}
        hosts = inventory.write(tmp_path / "hosts.json", all={"box": variables})
        tasks = [{"ansible.builtin.raw": "true"}, {"ansible.builtin.ping": {}}]
        play = [{"hosts": "all", "gather_facts": False, "tasks": tasks}]
        (tmp_path / "play.json").write_text(json.dumps(play))
        result = ansible.playbook(tmp_path / "play.json", "-i", hosts, "-vvv", env=target.env)
        assert result.rc == 0, str(result)
        assert re.search(r"(agent|interpreter) \d+ \(Python", result.stdout), str(result)
        # Not by asking brokers: to be asked keeps one for another moment.
        wait_until(lambda: not list(control.glob("*")), "the socket is gone")
        assert brokers() == []
        assert agents_in(target, name) == []
        after = set(target.run(name, "ls -A / /tmp /root /var/tmp /dev/shm").split())
        assert after - before <= {b".ansible"}  # Ansible's own


def test_an_interpreter_opens_ahead_of_its_module(
    target: Target, control: Path, tmp_path: Path
) -> None:
    """In a container that nobody has entered, before the first call; the module then has it."""
    (text,) = capture(tmp_path / "play", [{"ping": {}}])

    def processes() -> dict[str, int]:
        (broker,) = brokers()
        return {agent["serves"]: agent["client_pid"] for agent in broker["agents"]}

    with target.container(f"gangway-ahead-{os.getpid()}") as name:
        session = target.session(name)
        session.prepare(pythons=[b"python0.0", b"python3"])
        opening = processes()
        assert set(opening) == {"commands", "modules"}
        python = session.exec_command(b"command -v python3")[1].strip()
        assert session.exec_command(b"/bin/sh -c " + python, text)[0] == 0
        assert session.path().startswith("interpreter ") and session.path().endswith(", opened)")
        assert processes() == opening


def test_a_killed_broker_leaves_no_agent(target: Target, control: Path) -> None:
    """They see the end of their stream, and are not there for the minute that they wait in vain."""
    with target.container(f"gangway-orphan-{os.getpid()}") as name:
        target.session(name).exec_command(b"true")
        [broker] = brokers()
        assert len(agents_in(target, name)) == 1
        os.kill(broker["pid"], signal.SIGKILL)
        wait_until(lambda: agents_in(target, name) == [], "the agent is gone", 30)


@on_runc
def test_reset_connection_ends_the_agents(
    target: Target, ansible: Ansible, control: Path, tmp_path: Path
) -> None:
    """Those of the container, at once; the next task has another."""
    with target.container(f"gangway-reset-{os.getpid()}") as name:
        count = {"ansible.builtin.raw": f"grep -alE '{BOOT}' /proc/[0-9]*/cmdline", "register": "r"}
        tasks = [
            count | {"register": "one"},
            {"ansible.builtin.meta": "reset_connection"},
            count | {"register": "two"},
            {"ansible.builtin.assert": {"that": "one.stdout != two.stdout"}},
        ]
        hosts = inventory.write(tmp_path / "hosts.json", all={"box": target.variables(name)})
        play = [{"hosts": "all", "gather_facts": False, "tasks": tasks}]
        (tmp_path / "play.json").write_text(json.dumps(play))
        result = ansible.playbook(tmp_path / "play.json", "-i", hosts, env=target.env)
        assert result.rc == 0, str(result)


@on_runc
@pytest.mark.parametrize("broken", ["broker", "agent", "client"])
def test_what_is_killed_under_a_command(target: Target, control: Path, broken: str) -> None:
    """The outcome is unknown, nothing is run twice, and the next call works."""
    with target.container(f"gangway-killed-{os.getpid()}") as name:
        session = target.session(name)
        session.exec_command(b"true")
        command = b"echo run >>/tmp/runs; sleep 30"
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(session.exec_command, command)
            written(target, "/tmp/runs", container=name)
            [broker] = brokers()
            if broken == "agent":
                target.run(name, f"kill -KILL {agents_in(target, name)[0]}")
            elif broken == "client":
                os.kill(broker["agents"][0]["client_pid"], signal.SIGKILL)
            else:
                os.kill(broker["pid"], signal.SIGKILL)
            with pytest.raises(_core.ConnectionFailed, match=UNKNOWN):
                call.result(30)
        assert session.exec_command(b"cat /tmp/runs") == (0, b"run\n", b"")
