"""`gangway broker`: what this user's brokers keep, and an end to it."""

from __future__ import annotations

import json
import sys
from typing import Any

from ansible_gangway import _core

NONE = "no broker runs"
_COLUMNS = (
    ("TARGET", "label"),
    ("FOR", "serves"),
    ("STATE", "state"),
    ("PID", "pid"),
    ("PYTHON", "python"),
    ("CLIENT", "client_pid"),
    ("AGE", "age"),
    ("IDLE", "idle"),
    ("RUNNING", "running"),
    ("REQUESTS", "requests"),
)


def status(as_json: bool) -> int:
    """Print each broker and its agents; return 1 when something else listens in their place."""
    brokers: list[dict[str, Any]] = [json.loads(text) for text in _core.broker_status()]
    if as_json:
        print(json.dumps(brokers, indent=2))
    elif not brokers:
        print(NONE)
    for broker in brokers:
        if "error" in broker:
            print(f"gangway broker: {broker['error']}", file=sys.stderr)
        elif not as_json:
            print(*_lines(broker), sep="\n")
    return 1 if any("error" in broker for broker in brokers) else 0


def stop() -> int:
    """Tell all brokers to end; what runs is not interrupted."""
    try:
        count = _core.broker_stop()
    except _core.Error as error:
        print(f"gangway broker: {error}", file=sys.stderr)
        return 1
    brokers = "1 broker" if count == 1 else f"{count} brokers"
    print(f"{brokers} told to end once nothing runs on their agents" if count else NONE)
    return 0


def _lines(broker: dict[str, Any]) -> list[str]:
    agents = broker["agents"]
    count = "1 agent" if len(agents) == 1 else f"{len(agents)} agents"
    mebibytes = broker["rss_bytes"] / (1 << 20)
    head = f"broker {broker['pid']}: {count}, {mebibytes:.1f} MiB, up {_span(broker['age'])}"
    if not agents:
        return [head]
    rows = [[title for title, _ in _COLUMNS]]
    rows += [[_cell(key, agent[key]) for _, key in _COLUMNS] for agent in agents]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return [head, *(f"  {line}" for line in lines)]


def _cell(key: str, value: Any) -> str:
    if key in ("age", "idle"):
        return _span(value)
    text = str(value)  # a container may have a hand in it: nothing that a terminal would obey
    return "".join(c if c.isprintable() else "?" for c in text) or "-"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
