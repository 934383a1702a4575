# Copyright (c) 2026 The gangway authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes how long each task took, from its start to its result, to the file in BENCH_TASKS."""

from __future__ import annotations

DOCUMENTATION = """
name: bench_tasks
type: aggregate
short_description: Task durations for the benchmark
description: Writes them at the end, as JSON, to the file that E(BENCH_TASKS) names.
"""

import json
import os
import time

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    """Keeps all in memory until the play is over, so that the disk has no part in it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "bench_tasks"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._started: dict[tuple[str, str], float] = {}
        self._tasks: list[float] = []
        self._items: list[float] = []
        self._ends: list[float] = []
        self._last_item: float | None = None
        self._results: list[dict] = []

    def v2_runner_on_start(self, host, task):
        """Note the time."""
        self._started[host.get_name(), task._uuid] = self._last_item = time.perf_counter()

    def _end(self, result):
        now = time.perf_counter()
        started = self._started.pop((result.host.get_name(), result.task._uuid), None)
        if started is not None:
            self._tasks.append(now - started)
            if not result.result.get("results"):  # a loop's items have ended before
                self._ends.append(now)
        figures = result.result.get("bench_transfer")
        if figures:
            self._results.append(figures)

    def v2_runner_on_ok(self, result):
        """Take the duration of a task."""
        self._end(result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        """Take it also when the task failed: the recap tells."""
        self._end(result)

    def v2_runner_item_on_ok(self, result):
        """Take the time since the item before."""
        now = time.perf_counter()
        self._items.append(now - (self._last_item or now))
        self._ends.append(now)
        self._last_item = now

    def v2_playbook_on_stats(self, stats):
        """Write everything."""
        path = os.environ.get("BENCH_TASKS")
        if path:
            figures = {"tasks": self._tasks, "items": self._items, "results": self._results}
            if self._ends:
                # From the end of the first to that of the last, and how many that were.
                figures["span"] = [self._ends[-1] - self._ends[0], len(self._ends) - 1]
            with open(path, "w") as file:
                json.dump(figures, file)
