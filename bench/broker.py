"""gangway's broker as its own command shows it, in the environment that a contender runs in."""

from __future__ import annotations

import json
import subprocess
from typing import Any

SECONDS = 30


class NoBroker(Exception):
    """The command failed; the text is what it said."""


def command(env: dict[str, str], *arguments: str) -> str:
    """Run `gangway broker …`, which PATH leads to; return its stdout."""
    try:
        done = subprocess.run(
            ["gangway", "broker", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=env,
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoBroker(f"gangway broker {' '.join(arguments)}: {error}") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise NoBroker(f"gangway broker {' '.join(arguments)}: {said}")
    return done.stdout


def stop(env: dict[str, str]) -> None:
    """End the broker and its agents; none is fine too."""
    command(env, "stop")


def status(env: dict[str, str]) -> dict[str, Any]:
    """Return what the broker says of itself: `pid`, `rss_bytes`, `agents`."""
    return json.loads(command(env, "status", "--json"))
