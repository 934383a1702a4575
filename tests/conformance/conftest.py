"""Every case here runs on every engine: it takes the fixture `target`."""

from __future__ import annotations

import pytest

from support.targets import ENGINES, Target


@pytest.fixture(scope="session", params=sorted(ENGINES))
def target(request: pytest.FixtureRequest) -> Target:
    """Return the containers of one engine."""
    engine = ENGINES[request.param]
    return engine(request.getfixturevalue(f"bed_{engine.bed}"))
