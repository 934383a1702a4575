"""Warm interpreters over pipes, on every Python that they support."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.ansible import IS_NEWEST
from support.interpreters import NEWEST, OLDEST, VERSIONS, interpreter
from support.modules import OUTSIDE, Modules

# With an older ansible-core the others are for `make soak`.
OFTEN = VERSIONS if IS_NEWEST else (OLDEST, NEWEST)
# Where what comes by stdin is tried as a file, too: what Python does with one changed with these.
WITH_FILES = ("3.6", "3.8", "3.11", "3.13") if OFTEN == VERSIONS else OFTEN
as_files = pytest.mark.parametrize("python", WITH_FILES, indirect=True, scope="session")


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(version, marks=() if version in OFTEN else pytest.mark.soak)
        for version in VERSIONS
    ],
)
def python(request: pytest.FixtureRequest, repository: Path) -> str:
    """Return the path of a Python, of every version in turn."""
    return interpreter(repository, request.param)


@pytest.fixture(scope="session")
def newest(repository: Path) -> str:
    """Return the path of the newest Python."""
    return interpreter(repository, NEWEST)


@pytest.fixture(scope="session")
def warm(python: str) -> Iterator[Modules]:
    """Return a warm interpreter that all tests with this Python share, whatever they do in it."""
    with Modules([python], env=OUTSIDE) as modules:
        yield modules


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of a module that comes as a file, in a directory of its own."""
    (tmp_path / "of a task").mkdir()
    return tmp_path / "of a task" / "AnsiballZ_x.py"


@pytest.fixture
def fresh(newest: str) -> Iterator[Modules]:
    """Return a warm interpreter of the newest Python that this test may spoil."""
    with Modules([newest]) as modules:
        yield modules
