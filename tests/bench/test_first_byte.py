"""bench/first_byte.py: a broker that answers calls without any engine."""

from __future__ import annotations

import os
import struct
import tempfile
import time
from collections.abc import Iterator

import pytest

import first_byte
from support.targets import Runc


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return a control directory; the imitation sets the same variables once more."""
    with tempfile.TemporaryDirectory(prefix="gangway-") as directory:  # short: a socket's path
        for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
            monkeypatch.setenv(name, directory)
        yield directory


def test_two_workers_are_clocked(directory: str) -> None:
    target = Runc({"GANGWAY_RUNC_ROOT": "/nowhere"}, "agent")
    with first_byte.imitation(directory) as reader:
        for _ in range(2):
            begun = time.perf_counter()
            session = target.session("none")
            assert session.exec_command(b"true") == (0, b"", b"")
            session.close()
            first, request = struct.unpack("dd", os.read(reader, 16))
            assert begun < first < request < time.perf_counter()
