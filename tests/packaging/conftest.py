"""The wheel that is released, as tests of the packaging see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.skip import cannot_run


@pytest.fixture(scope="session")
def wheel(repository: Path) -> Path:
    """Return the one wheel in dist/."""
    wheels = list((repository / "dist").glob("*.whl"))
    if not wheels:
        cannot_run("there is no wheel in dist/; run `make wheel`")
    assert len(wheels) == 1, wheels
    return wheels[0]
