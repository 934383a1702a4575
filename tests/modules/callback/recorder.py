"""A stdout callback that writes all that tasks and connections returned, as lines of JSON.

It is the only callback, so no other one has taken warnings out of a result before it is written.
Loaded before Ansible forks its workers, it also puts a recorder around each call on a container:
what a module printed, before Ansible parsed it.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
from collections.abc import Callable
from typing import Any

from ansible.plugins.callback import CallbackBase

from ansible_gangway.connection import ContainerConnection

DOCUMENTATION = """
name: recorder
type: stdout
short_description: Write all that tasks and connections returned
description:
  - Appends one JSON object per result and per call to the file that E(RECORDED) names.
"""


def write(**line: Any) -> None:
    """Append one line, in one piece: several processes write to the file."""
    file = os.open(os.environ["RECORDED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, json.dumps(line, default=str).encode() + b"\n")
    finally:
        os.close(file)


def text(value: bytes | str) -> str:
    """Return bytes as text that has each of them."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def recorded(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return `method` of a connection with a line written about each call."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        worker = multiprocessing.current_process()
        task, host = getattr(worker, "_task", None), getattr(worker, "_host", None)
        line: dict[str, Any] = {
            "call": name,
            "task": task and task.name,
            "host": host and host.name,
            "arguments": [text(word) for word in args[:1]],
        }
        try:
            result = method(self, *args, **kwargs)
        except BaseException as exc:
            write(**line, raised=f"{type(exc).__name__}: {exc}", path=path(self))
            raise
        if name == "exec_command":
            line["stdin"] = bool(kwargs.get("in_data"))
            line |= {"rc": result[0], "stdout": text(result[1]), "stderr": text(result[2])}
        write(**line, path=path(self))
        return result

    return call


def path(connection: Any) -> str:
    """Return what the session says of its last call: through an agent, or direct and why."""
    say = getattr(connection._session, "path", None)
    return say() if say else ""


for name in ("exec_command", "put_file", "fetch_file"):
    setattr(ContainerConnection, name, recorded(name, getattr(ContainerConnection, name)))


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Writes how each task ended on each host; of a loop, each item too."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "recorder"

    def v2_runner_on_ok(self, result: Any) -> None:
        """Record a success."""
        self._record(result, "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Record a failure."""
        self._record(result, "failed")

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Record a task that had nothing to do."""
        self._record(result, "skipped")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Record a host that could not be reached."""
        self._record(result, "unreachable")

    def _record(self, result: Any, ended: str) -> None:
        task, host = result._task, result._host
        write(task=task.name, host=host.name, ended=ended, result=dict(result._result))
