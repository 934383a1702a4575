"""A broker for each test, in a directory of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.broker import Broker


@pytest.fixture
def broker() -> Iterator[Broker]:
    """Return a broker that is not started; what was started is killed at the end."""
    where = Path(tempfile.mkdtemp(prefix="gangway-test-"))  # short: sockets have short paths
    broker = Broker(where)
    yield broker
    broker.end()
    shutil.rmtree(where)
