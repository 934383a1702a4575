"""A stand-in for the native module's sessions, and one for Ansible's display.

They only record: these tests are about what a plugin makes of its options and of Ansible's
calls. What the calls do is tested on real engines.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import ansible_gangway.connection
from ansible_gangway import _core
from plugins.loading import ENGINES, connection


class RecordingSession:
    """Keeps what it is asked, and answers what it is told to."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments
        self.calls: list[tuple[Any, ...]] = []
        self.answer: Any = (0, b"", b"")
        self.closed = False
        self.way = ""
        self.said: list[str] = []

    def _call(self, *call: Any) -> Any:
        self.calls.append(call)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def exec_command(self, command: bytes, stdin: bytes | None, become: Any) -> Any:
        """Record a call of exec_command."""
        return self._call("exec", command, stdin, become)

    def prepare(self, **arguments: Any) -> None:
        """Record a call of prepare."""
        self._call("prepare", arguments)

    def put_file(self, in_path: bytes, out_path: bytes) -> Any:
        """Record a call of put_file."""
        return self._call("put", in_path, out_path)

    def fetch_file(self, in_path: bytes, out_path: bytes) -> Any:
        """Record a call of fetch_file."""
        return self._call("fetch", in_path, out_path)

    def path(self) -> str:
        """Return the way that the last call took."""
        return self.way

    def warnings(self) -> list[str]:
        """Return what is to be said, once."""
        said, self.said = self.said, []
        return said

    def reset(self) -> None:
        """Record a call of reset."""
        self.calls.append(("reset",))

    def close(self) -> None:
        """Record that it was closed."""
        self.closed = True


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[RecordingSession]:
    """Put recording sessions behind the plugins; return those that were opened, in order."""
    opened: list[RecordingSession] = []

    def open_session(**arguments: Any) -> RecordingSession:
        opened.append(RecordingSession(arguments))
        return opened[-1]

    core = SimpleNamespace(
        __version__=_core.__version__,
        Error=_core.Error,
        ConnectionFailed=_core.ConnectionFailed,
        FileMissing=_core.FileMissing,
        Agents=dict,
        **dict.fromkeys(ENGINES, open_session),
    )
    monkeypatch.setattr(ansible_gangway.connection, "_core", core)
    return opened


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str | None]]:
    """Return what the plugins log: (level, text, host)."""
    lines: list[tuple[str, str, str | None]] = []

    def record(level: str) -> Callable[..., None]:
        return lambda text, host=None: lines.append((level, text, host))

    display = SimpleNamespace(**{level: record(level) for level in ("v", "vvv", "warning")})
    monkeypatch.setattr(ansible_gangway.connection, "display", display)
    monkeypatch.setattr(sys.modules[type(connection("kubectl")).__module__], "display", display)
    return lines
