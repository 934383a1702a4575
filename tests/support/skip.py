"""What a test does where something it needs is not there."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

REQUIRE_ALL = os.environ.get("GANGWAY_REQUIRE_ALL") == "1"


def cannot_run(reason: str) -> NoReturn:
    """Skip the test for `reason`; where everything is required, fail it."""
    if REQUIRE_ALL:
        pytest.fail(f"{reason} (GANGWAY_REQUIRE_ALL=1)", pytrace=False)
    pytest.skip(reason)
