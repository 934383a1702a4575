"""Agents on every Python that they support, over pipes, and in containers of the runc bed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support import targets
from support.frames import Agent
from support.skip import cannot_run

VERSIONS = ("3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
OLDEST, NEWEST = VERSIONS[0], VERSIONS[-1]

Start = Callable[..., Agent]


def interpreter(repository: Path, version: str) -> str:
    """Return the path of this Python."""
    find = [repository / "scripts" / "find-python", version]
    found = subprocess.run(find, stdout=subprocess.PIPE, text=True, timeout=60).stdout.strip()
    return found or cannot_run(f"the agent on Python {version}: there is none on this machine")


@pytest.fixture(scope="session", params=VERSIONS)
def python(request: pytest.FixtureRequest, repository: Path) -> str:
    """Return the path of a Python, of every version in turn."""
    return interpreter(repository, request.param)


@pytest.fixture(scope="session", params=[OLDEST, NEWEST])
def edge(request: pytest.FixtureRequest, repository: Path) -> str:
    """Return the path of the oldest Python and of the newest: for what waits."""
    return interpreter(repository, request.param)


@pytest.fixture(scope="session")
def newest(repository: Path) -> str:
    """Return the path of the newest Python: for what takes long or is the kernel's business."""
    return interpreter(repository, NEWEST)


@pytest.fixture
def start() -> Iterator[Start]:
    """Return what starts agents; at the end of the test each must end with its stream."""
    with ExitStack() as stack:

        def start(*argv: str, **options: Any) -> Agent:
            return stack.enter_context(Agent(argv, **options))

        yield start


@pytest.fixture
def agent(start: Start, python: str) -> Agent:
    """Return an agent, on every Python in turn."""
    return start(python)


@pytest.fixture
def edge_agent(start: Start, edge: str) -> Agent:
    """Return an agent on the oldest Python and on the newest."""
    return start(edge)


@pytest.fixture
def new_agent(start: Start, newest: str) -> Agent:
    """Return an agent on the newest Python."""
    return start(newest)


@pytest.fixture(scope="session")
def runc(bed_runc: dict[str, str]) -> targets.Runc:
    """Return runc's containers."""
    return targets.Runc(bed_runc)
