"""Several runs of pytest at once on one machine (scripts/test), with one set of beds.

Containers and files that tests make have the run's process id in their names. What cannot be had
twice is waited for: a test with the marker `alone` runs while no other run is in a test, and
`held` keeps a name for one of them.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(*, alone: bool) -> Iterator[None]:
    """Run a test inside the block: beside those of other runs, or alone."""
    # Who wants to be alone keeps the queue meanwhile: the others could go on for ever.
    how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with _locked("queue", fcntl.LOCK_EX) as queue, _locked("tests", how):
        fcntl.flock(queue, fcntl.LOCK_UN)
        yield


@contextmanager
def held(name: str) -> Iterator[None]:
    """Wait until no other run holds `name`, and hold it inside the block."""
    with _locked(name, fcntl.LOCK_EX):
        yield


@contextmanager
def _locked(name: str, how: int) -> Iterator[int]:
    path = Path(tempfile.gettempdir()) / f"gangway-tests-{os.geteuid()}-{name}.lock"
    with path.open("a") as file:
        fcntl.flock(file, how)
        yield file.fileno()
