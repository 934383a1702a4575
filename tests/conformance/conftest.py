"""Every case here runs on every engine and every path: it takes the fixture `target`."""

from __future__ import annotations

import pytest

from support.targets import ENGINES, PATHS, Target


@pytest.fixture(scope="session", params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    """Return a way to the containers."""
    return str(request.param)


@pytest.fixture(scope="session", params=sorted(ENGINES))
def target(request: pytest.FixtureRequest, path: str) -> Target:
    """Return the containers of one engine, to be entered by one path."""
    engine = ENGINES[request.param]
    return engine(request.getfixturevalue(f"bed_{engine.bed}"), path)
