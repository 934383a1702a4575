# Copyright (c) 2026 The gangway authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes where each task's time went, step by step, into the directory BENCH_SPANS.

It puts clocks around functions of Ansible's worker and of the connection plugin. A step's time is
its own: what it called and what has a clock too is taken off.
"""

from __future__ import annotations

DOCUMENTATION = """
name: bench_spans
type: aggregate
short_description: Where a worker's time goes
description: One JSON file for each worker, in the directory that E(BENCH_SPANS) names.
"""

import cProfile
import functools
import json
import os
import sys
import time

from ansible.executor.process.worker import WorkerProcess
from ansible.executor.task_executor import TaskExecutor
from ansible.executor.task_queue_manager import FinalQueue
from ansible.plugins.action import ActionBase
from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import connection_loader

LOAD = "plugin: load it, its options' documentation and the core"
CONNECTION = {
    "_open_session": "plugin: open the session",
    "exec_command": "plugin: exec_command around the core",
    "put_file": "plugin: put_file around the core",
    "fetch_file": "plugin: fetch_file around the core",
}


class Clock:
    """Adds up the own time of steps that may be nested."""

    def __init__(self):
        self.spent = {}
        self._open = []

    def run(self, name, function, *args, **kwargs):
        """Call the function as a part of the step `name`."""
        start = time.perf_counter()
        self._open.append(0.0)
        try:
            return function(*args, **kwargs)
        finally:
            whole = time.perf_counter() - start
            own = whole - self._open.pop()
            if self._open:
                self._open[-1] += whole
            self.spent[name] = self.spent.get(name, 0.0) + own


clock = Clock()


def put_on(owner, attribute, name):
    """Put the clock around a function."""
    function = getattr(owner, attribute)

    @functools.wraps(function)
    def timed(*args, **kwargs):
        return clock.run(name, function, *args, **kwargs)

    setattr(owner, attribute, timed)


def put_on_connection(connection):
    """Put clocks on the plugin that a worker has just loaded, and on its way into the core."""
    kind = type(connection)
    for attribute, name in CONNECTION.items():
        if hasattr(kind, attribute):
            put_on(kind, attribute, name)
    base = sys.modules.get("ansible_gangway.connection")
    if base:
        call = base._call

        def timed(function, *args, **kwargs):
            return clock.run(f"core: {function.__name__}", call, function, *args, **kwargs)

        base._call = timed


class CallbackModule(CallbackBase):
    """Starts in Ansible's main process, before any worker is forked from it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "bench_spans"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        directory = os.environ["BENCH_SPANS"]
        get, run, start = (
            connection_loader.get_with_context,
            WorkerProcess._run,
            WorkerProcess.start,
        )

        def get_with_clocks(*args, **kwargs):
            found = clock.run(LOAD, get, *args, **kwargs)
            put_on_connection(found[0])
            return found

        def start_noting(worker):
            worker.bench_started = time.perf_counter()
            return start(worker)

        def run_and_write(worker):
            clock.spent["Ansible: fork the worker"] = time.perf_counter() - worker.bench_started
            profile = cProfile.Profile() if "BENCH_CPROFILE" in os.environ else None
            if profile:
                profile.enable()
            try:
                return clock.run("Ansible: the rest of the worker", run, worker)
            finally:
                # The last worker may be ended while it writes: half a file has another name.
                path = f"{directory}/{os.getpid()}"
                if profile:
                    profile.disable()
                    profile.dump_stats(f"{path}.part")
                    os.rename(f"{path}.part", f"{path}.prof")
                with open(f"{path}.part", "w") as file:
                    json.dump({"action": worker._task.action, "spent": clock.spent}, file)
                os.rename(f"{path}.part", f"{path}.json")

        connection_loader.get_with_context = get_with_clocks
        WorkerProcess.start, WorkerProcess._run = start_noting, run_and_write
        put_on(TaskExecutor, "_set_connection_options", "Ansible: set the plugin's options")
        put_on(ActionBase, "_configure_module", "Ansible: build the module")
        put_on(FinalQueue, "send_task_result", "Ansible: send the result")
