"""How `gangway doctor` looks: one bounded command at a time, and a finding for each subject."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from typing import Literal, NamedTuple

TIMEOUT = 5.0
"""Seconds that a probe may take."""


class Finding(NamedTuple):
    """What was found about one subject, and what to do where that is not as it should be.

    `absent` is not there and need not be, `problem` stands in the way of one engine or name,
    `broken` of everything.
    """

    subject: str
    state: Literal["ok", "absent", "problem", "broken"]
    text: str
    advice: str | None = None


class Answer(NamedTuple):
    """How a command ended."""

    ok: bool
    stdout: str
    reason: str
    """One line that says why it is not ok; secrets in URLs are hidden."""


def run(command: list[str], timeout: float = TIMEOUT, cwd: str | None = None) -> Answer:
    """Run a command, without a terminal to ask on, and for no longer than `timeout` seconds."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            text=True,
            errors="replace",
            # A group of its own to end: a client may have started ssh or a credential plugin.
            start_new_session=True,
        )
    except OSError as exc:
        return Answer(False, "", f"{command[0]} cannot be run: {exc.strerror}")
    with process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException as exc:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(exc, subprocess.TimeoutExpired):
                return Answer(False, "", f"no answer within {timeout:g} seconds")
            raise
    if process.returncode == 0:
        return Answer(True, stdout, "")
    lines = stderr.strip().splitlines() or [f"exit status {process.returncode}"]
    return Answer(False, stdout, without_secrets(lines[-1])[:300])


def without_secrets(text: str) -> str:
    """Hide the password of every URL in a text."""
    return re.sub(r"(://[^/@\s:]*):[^/@\s]*@", r"\1:***@", text)
