"""Agents on every Python that they support, over pipes, and in containers of the runc bed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support import targets
from support.frames import Agent
from support.interpreters import NEWEST, OLDEST, VERSIONS, interpreter

Start = Callable[..., Agent]


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
