"""The modules of ansible-core return the same, and do the same, on both paths.

The newest ansible-core runs all of cases/ on runc; `make soak` also the others, each in check mode,
for real and again, pipelined and not: that takes hours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from modules import twins
from modules.twins import HERE, Twins
from support.ansible import IS_NEWEST

FILES = sorted(path.stem for path in (HERE / "cases").glob("*.yml"))
# What the smaller root file system of Docker's containers has the programs for.
ON_DOCKER = ("commands", "files", "text", "transfer", "accounts")
# What runs without --soak.
OFTEN = set(FILES) if IS_NEWEST else set()
OFTEN_ON_DOCKER = {"text"} if IS_NEWEST else set()


def sample(names: Iterable[str], often: set[str]) -> list[Any]:
    """Return parameters of a test; those not in `often` are for `make soak`."""
    rarely = pytest.mark.soak
    return [pytest.param(name, marks=() if name in often else rarely) for name in names]


def expanded(tasks: list[dict[str, Any]], everything: bool) -> list[dict[str, Any]]:
    """Return each task with its diff; before it in check mode, the first of each module."""
    found, seen = [], set()
    for task in tasks:
        soak = task.pop("soak", False)
        if soak and not everything:
            continue
        name, module = task["name"], twins.module_of(task)
        if (everything or module not in seen) and module != "include_role":  # which takes neither
            found.append(
                {**task, "name": f"{name} in check mode", "check_mode": True, "diff": True}
            )
            seen.add(module)
        found.append(task if module == "include_role" else {**task, "diff": True})
        if everything:
            found.append({**task, "name": f"{name} again"})
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sample(FILES, OFTEN))
def test_cases(name: str, pair: Twins, names: dict[str, Any]) -> None:
    pair.same(expanded(twins.cases(name), everything=False), **names)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sample(ON_DOCKER, OFTEN_ON_DOCKER))
def test_cases_on_docker(name: str, docker_pair: Twins, names: dict[str, Any]) -> None:
    docker_pair.same(expanded(twins.cases(name), everything=False), **names)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_all(name: str, pipelining: bool, pair: Twins, names: dict[str, Any]) -> None:
    variables = {**names, "ansible_pipelining": pipelining}
    pair.same(expanded(twins.cases(name), everything=True), **variables)


def test_there_are_enough() -> None:
    """At least sixty modules and actions of ansible-core are among the cases."""
    modules = {twins.module_of(task) for name in FILES for task in twins.cases(name)}
    assert len(modules) >= 60
