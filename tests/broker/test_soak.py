"""Ten thousand commands through one agent, and what they leave in it and in the broker."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_gangway import _core
from support.broker import Broker
from support.targets import Runc

COUNT = 10_000
IN_A_TASK = 10


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_commands_make_neither_broker_nor_agent_grow(
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    bed_runc: dict[str, str],
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, broker.env[name])
    target = Runc(bed_runc, "agent")

    def state() -> dict[str, Any]:
        (text,) = _core.broker_status()
        found: dict[str, Any] = json.loads(text)
        return found

    def look() -> dict[str, int]:
        """Return KiB of resident memory and open descriptors of both."""
        (agent,) = state()["agents"]
        there = f"grep VmRSS /proc/{agent['pid']}/status; ls /proc/{agent['pid']}/fd | wc -l"
        words = target.run("target", there).split()
        here = Path(f"/proc/{state()['pid']}")
        rss = re.search(r"VmRSS:\s*(\d+)", here.joinpath("status").read_text())
        assert rss
        return {
            "broker, KiB": int(rss[1]),
            "agent, KiB": int(words[1]),
            "broker, descriptors": len(list(here.joinpath("fd").iterdir())),
            "agent, descriptors": int(words[3]),
        }

    for number in range(COUNT // IN_A_TASK):
        if number * IN_A_TASK == COUNT // 10:
            before = look()
            broker.pids.add(state()["pid"])
        session = target.session()  # a task's
        for turn in range(IN_A_TASK):
            said = b"%d %d" % (number, turn)
            assert session.exec_command(b"cat; exit %d" % turn, said) == (turn, said, b"")
        session.close()
    after = look()
    (agent,) = state()["agents"]
    assert agent["requests"] == COUNT
    record_testsuite_property("soak_commands", [before, after])
    print(f"after {COUNT // 10} commands {before}, after {COUNT} {after}")
    for name, value in before.items():
        assert after[name] < 1.1 * value + ("descriptors" in name), (before, after)
