"""The Pythons that agents run on, and the part of them that a case runs on by default."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.sample import number, word
from support.skip import cannot_run

VERSIONS = ("3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
OLDEST, *BETWEEN, NEWEST = VERSIONS


def interpreter(repository: Path, version: str) -> str:
    """Return the path of this Python."""
    find = [repository / "scripts" / "find-python", version]
    found = subprocess.run(find, stdout=subprocess.PIPE, text=True, timeout=60).stdout.strip()
    return found or cannot_run(f"agents on Python {version}: there is none on this machine")


def is_sampled(item: pytest.Item) -> bool:
    """Tell whether a sample has a test: on the oldest, the newest, and one in turn of the others.

    Its Python is the parameter `python`.
    """
    params: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    version = params.get("python")
    if version not in BETWEEN:
        return True
    rest = sorted(f"{name}={word(value)}" for name, value in params.items() if name != "python")
    case = number(item.nodeid.split("[")[0], *rest)
    return bool(BETWEEN[case % len(BETWEEN)] == version)
