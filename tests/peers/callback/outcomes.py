"""A callback plugin that writes how each task ended on each host, as lines of JSON."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: outcomes
type: notification
short_description: Write how each task ended on each host
description:
  - Appends one JSON object per task and host to the file that E(OUTCOMES) names.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Runs wherever its directory is among the callback plugins."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "outcomes"

    def __init__(self) -> None:
        super().__init__()
        self._started: dict[tuple[str, str], float] = {}

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Remember when a host began with a task."""
        self._started[host.name, task._uuid] = time.monotonic()

    def v2_runner_on_ok(self, result: Any) -> None:
        """Record a success."""
        self._record(result, "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Record a failure."""
        self._record(result, "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Record a host that could not be reached."""
        self._record(result, "unreachable")

    def _record(self, result: Any, ended: str) -> None:
        host, task = result.host.name, result.task
        line = {
            "task": task.name,
            "host": host,
            "ended": ended,
            "seconds": time.monotonic() - self._started[host, task._uuid],
            "result": dict(result.result),
        }
        with open(os.environ["OUTCOMES"], "a") as file:
            file.write(json.dumps(line, default=str) + "\n")
