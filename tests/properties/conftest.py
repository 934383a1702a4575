"""Hypothesis: the same few examples in every run, so that a failure is the change's own.

`--hypothesis-profile=search` looks for more, and for others each time.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from plugins.conftest import log, sessions

__all__ = ["log", "sessions"]

settings.register_profile(
    "few",
    derandomize=True,
    max_examples=60,
    deadline=None,  # the machine may be busy
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.register_profile(
    "search", settings.get_profile("few"), derandomize=False, max_examples=2000
)
settings.load_profile("few")
