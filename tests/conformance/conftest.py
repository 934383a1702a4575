"""Every case here runs on every engine and every path: it takes the fixture `target`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import entrances as entering
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


@pytest.fixture(scope="module")
def entrances(
    target: Target, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[entering.Entrances]:
    """Return a container that asks for passwords, to be entered as `root` and as `app`."""
    with entering.entrances(target, tmp_path_factory.mktemp("etc")) as made:
        yield made
