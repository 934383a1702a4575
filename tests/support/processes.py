"""Processes in a container, seen without the container's help."""

from __future__ import annotations

import time

import pytest

from support.targets import Target


def running(target: Target, container: str, command: str) -> list[str]:
    """Return the ids of processes in the container whose command line begins with `command`.

    A zombie has none: PID 1 of these containers reaps nobody.
    """
    pattern = command.replace(".", r"\.").replace(" ", ".")
    look = f"grep -alse '^{pattern}' /proc/[0-9]*/cmdline || test $? -lt 3"
    return [path.split("/")[2] for path in target.run(container, look).decode().split()]


def wait_until_gone(target: Target, container: str, command: str, seconds: float = 10) -> None:
    """Fail the test when such a process still runs after `seconds`."""
    end = time.monotonic() + seconds
    while found := running(target, container, command):
        if time.monotonic() > end:
            pytest.fail(f"{command!r} still runs in {container}: {found}")
        time.sleep(0.2)
