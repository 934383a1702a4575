"""Modules that leave something behind or end badly: the next one does not notice.

After each, library/process_state.py returns all that a module can see of its process.
"""

from __future__ import annotations

from typing import Any

import pytest

from modules.twins import Twins
from support import processes
from support.ansible import IS_NEWEST

# What a module leaves behind is not ansible-core's.
pytestmark = [] if IS_NEWEST else [pytest.mark.soak]

STATE = "process_state"
# Functions of library/leak.py.
LEAKS = (
    *("threads", "daemon", "descriptors", "settings", "patched", "at_exit", "os_exit", "segfault"),
    *("killed", "memory", "writes", "junk_only", "endless", "endless_deaf", "reads", "closes"),
    *("fork_exit", "fork_raise", "fork_returns", "fork_stays", "raises", "exits_with_text"),
    *("exits_with_number", "interrupted", "children", "group", "session", "thread_raises"),
    "recursion",
)
# The result depends on whether a shell is the interpreter's parent.
BESIDE_SHELL = {"segfault", "killed", "group", "session"}
# Keywords of the task.
MORE: dict[str, dict[str, Any]] = {"endless": {"timeout": 3}, "endless_deaf": {"timeout": 3}}


def tasks() -> list[dict[str, Any]]:
    """Return each leak with the state before the first and after each of them."""
    found: list[dict[str, Any]] = [{"name": "at first", STATE: {}}]
    for how in LEAKS:
        arguments = {"how": how, "file": f"/srv/leaks/{how}"}
        module = "leak_beside_shell" if how in BESIDE_SHELL else "leak"
        found.append({"name": how, module: arguments, **MORE.get(how, {})})
        found.append({"name": f"after {how}", STATE: {}})
    return found


@pytest.mark.timeout(900)
def test_leaks(pair: Twins, names: dict[str, Any]) -> None:
    for container in pair.containers.values():
        pair.target.run(container, "mkdir -p /srv/leaks")
    run = pair.same(tasks(), **names)
    assert run.result("at first")["state"]["python"]["umask"] == "0022"
    for container in pair.containers.values():
        for nap in ("sleep 4242", "sleep 4243"):
            assert len(processes.running(pair.target, container, nap)) == 1
    assert without_agents(pair.processes("other")) == pair.processes("one")


def without_agents(lines: list[str]) -> list[str]:
    """Leave out interpreters with a program on their command line, and the shells before them."""
    return [line for line in lines if "import sys;sys.path[:]=" not in line]
