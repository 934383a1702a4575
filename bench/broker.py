"""gangway's broker as its own command shows it, in the environment that a contender runs in."""

from __future__ import annotations

import json
import subprocess
import time
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
    """End the broker and its agents, and wait until it is gone; none is fine too."""
    command(env, "stop")
    patience = time.monotonic() + SECONDS
    while json.loads(command(env, "status", "--json")):
        if time.monotonic() > patience:
            raise NoBroker(f"the broker has not ended within {SECONDS} s")
        time.sleep(0.1)


def status(env: dict[str, str]) -> dict[str, Any]:
    """Return what the broker says of itself: `pid`, `rss_bytes`, `agents`."""
    brokers = json.loads(command(env, "status", "--json"))
    if len(brokers) != 1:
        raise NoBroker(f"{len(brokers)} brokers run in the place of one")
    return brokers[0]
