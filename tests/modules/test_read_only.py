"""On the bundle that `runc spec` writes modules run through the agent, and only so."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from modules.twins import AGENT, HOSTS, PLAIN, Twins
from support import beds
from support.ansible import Ansible
from support.targets import Runc

NONE = "No usable temporary directory found in"


@pytest.fixture
def bundles(bed_runc: dict[str, str], ansible: Ansible, tmp_path: Path) -> Iterator[Twins]:
    """Return two containers with a read-only root, no new privileges and few capabilities."""
    names = {host: f"gangway-modules-{os.getpid()}1-{host}" for host in HOSTS}
    with ExitStack() as stack:
        for name in names.values():
            beds.call("runc", "create", name, "--readonly")
            stack.callback(beds.call, "runc", "delete", name)
        variables = {"one": PLAIN, "other": AGENT}
        yield Twins(Runc(bed_runc), ansible, names, tmp_path, variables, time.time())


def test_read_only(bundles: Twins) -> None:
    tasks = [
        {"name": "ping", "ping": {}},
        {"name": "command", "command": "sh -c 'pwd; env; exit 3'"},
        {"name": "setup", "setup": {"gather_subset": ["min"]}},
        {"name": "stat", "stat": {"path": "/etc/passwd"}},
        {"name": "slurp", "slurp": {"src": "/etc/hostname"}},
        {"name": "refused", "file": {"path": "/tmp/x", "state": "touch"}},
        {"name": "written", "file": {"path": "/dev/shm/x", "state": "touch", "mode": "0640"}},
        {"name": "getent", "getent": {"database": "passwd", "key": "app"}},
        {"name": "state", "process_state": {}},
        {"name": "raises", "leak": {"how": "raises"}},
    ]
    run = bundles.play(tasks)
    for task in tasks:
        ((ended, result),) = run.sides[task["name"]]["one"].ended
        assert ended == "failed" and NONE in str(result), (task, result)
        assert NONE not in str(run.result(task["name"]))
    assert run.result("ping")["ping"] == "pong"
    assert (run.result("command")["rc"], run.result("command")["stdout_lines"][0]) == (3, "/")
    assert run.result("setup")["ansible_facts"]["ansible_distribution"] == "Debian"
    assert run.result("stat")["stat"]["exists"]
    assert run.sides["refused"]["other"].ended[0][0] == "failed"
    assert run.result("written")["mode"] == "0640"
    raised = run.result("raises")
    # Before ansible-core 2.19 only the traceback has it.
    assert "as asked: \u6c49" in raised.get("module_stderr", "") + raised["msg"], raised
    state = run.result("state")["state"]
    assert state["system"]["status NoNewPrivs"] == "1"
    assert bundles.target.run(bundles.containers["other"], "ls -A /dev/shm") == b"x\n"
