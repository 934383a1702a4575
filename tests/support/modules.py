"""Modules through a warm agent, and the same through a new interpreter."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.frames import WANT, Agent, Result

# The environment of interpreters: pytest changes one variable of its own while they run, and with
# the other nothing that is left in a buffer could get lost.
UNLIKE = ("PYTEST_CURRENT_TEST", "PYTHONUNBUFFERED")
OUTSIDE = {name: value for name, value in os.environ.items() if name not in UNLIKE}

# As the client cuts: the archive alone, and what stands before the call.
CUTS = re.compile(
    rb"""\A(.*?)(\n\n\nif __name__ == "__main__":\n    _ansiballz_main\(\n.*\nzip_data=')"""
    rb"""([^']*)('.*)\Z"""
    rb"""|\A(.*\n    ZIPDATA = ')([^']*)('.*)\Z""",
    re.DOTALL,
)


def cut(text: bytes) -> list[tuple[bytes, bool]]:
    """Return the parts of a module's text, and which of them are kept."""
    found = CUTS.match(text)
    if not found:
        return [(text, False)]
    if found[1] is not None:
        return [(found[1], True), (found[2], False), (found[3], True), (found[4], False)]
    return [(found[5], False), (found[6], True), (found[7], False)]


class Modules(Agent):
    """An agent that serves modules."""

    def __init__(self, argv: list[str], change: str = "", **popen: Any) -> None:
        # A session of its own, as an exec has; without it Python's vfork lets 32 and 33 be ignored.
        super().__init__(argv, change, serves="modules", start_new_session=True, **popen)
        self.sent = 0  # bytes of the last module's parts

    def module(self, text: bytes, env: Mapping[str, str] = {}) -> Result:
        """Run a module's text to its end."""
        number, wanted = self.start_module(text, env)
        return self.finish(number, wanted or b"", end=wanted is not None)

    def file(self, path: Path, env: Mapping[str, str] = {}) -> Result:
        """Run a module that is a file to its end."""
        number = self.request("module", env=pairs(env), file=os.fsencode(path))
        return self.finish(number, end=False)

    def start_module(self, text: bytes, env: Mapping[str, str] = {}) -> tuple[int, bytes | None]:
        """Send a module's text; return the request's id and what the agent asks for."""
        encode = base64.b64encode
        parts, kept = [], []
        self.sent = 0
        for part, keep in cut(text):
            if keep:
                kept.append(part)
                sha256 = hashlib.sha256(part).hexdigest()
                parts.append({"sha256": sha256, "length": len(part)})
            else:
                parts.append({"text": encode(part).decode()})
                self.sent += len(part)
        number = self.request("module", env=pairs(env), parts=parts)
        while (frame := self.next_frame()).id != number:
            self.kept.append(frame)
        if frame.kind != WANT:
            self.kept.append(frame)
            return number, None
        wanted = b"".join(kept[index] for index in frame.head["parts"])
        self.sent += len(wanted)
        return number, wanted


def pairs(env: Mapping[str, str]) -> list[list[str]]:
    """Return variables as a request has them."""
    return [[base64.b64encode(text.encode()).decode() for text in pair] for pair in env.items()]


def plainly(python: str, text: bytes, file: Path | None = None, **run: Any) -> Result:
    """Run a module's text with a new interpreter: from stdin, or from a file that has it."""
    if file:
        file.write_bytes(text)
    argv, stdin = ([python, file], b"") if file else ([python], text)
    done = subprocess.run(argv, input=stdin, capture_output=True, **run)
    code = done.returncode
    return Result({"rc": code if code >= 0 else 128 - code}, done.stdout, done.stderr)


__all__ = ["OUTSIDE", "Modules", "cut", "plainly"]
