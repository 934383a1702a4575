"""Whether a command in a container still runs."""

from __future__ import annotations

import time

from support.targets import Target

# PID 1 of the beds' containers reaps nobody, so an orphan that ended stays there as a zombie.
ALIVE = "grep -q '^State:[^Z]*$' /proc/{pid}/status 2>/dev/null && echo alive; true"


def ended_within(target: Target, pid: str, seconds: float) -> bool:
    """Wait until the process `pid` of the container `target` has ended; False when it has not."""
    deadline = time.monotonic() + seconds
    while target.run("target", ALIVE.format(pid=pid)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def written(target: Target, path: str, seconds: float = 20, container: str = "target") -> str:
    """Wait until the file `path` in a container of `target` has content, and return it."""
    deadline = time.monotonic() + seconds
    while not (text := target.run(container, f"cat {path} 2>/dev/null; true").decode().strip()):
        assert time.monotonic() < deadline, f"{path} was not written within {seconds} s"
        time.sleep(0.1)
    return text
