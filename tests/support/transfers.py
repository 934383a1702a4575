"""Proofs that a session works: all three of its calls."""

from __future__ import annotations

import os
from pathlib import Path

from ansible_gangway import _core


def assert_works(session: _core.Session, directory: Path, size: int = 1 << 20) -> None:
    """Run a command, put a file of `size` bytes and fetch it back; `directory` is a local one."""
    local, back = directory / "local", directory / "back"
    local.write_bytes(os.urandom(size))
    remote = f"/tmp/gangway-works-{os.getpid()}".encode()
    assert session.exec_command(b"cat; exit 3", b"in\0\xff") == (3, b"in\0\xff", b"")
    try:
        assert session.put_file(bytes(local), remote) is None
        assert session.fetch_file(remote, bytes(back)) is None
        assert back.read_bytes() == local.read_bytes()
    finally:
        session.exec_command(b"rm " + remote)
