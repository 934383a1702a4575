"""What an ansible-core repeats of what the newest one runs, where there are many variants of it."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable

import pytest
from ansible.release import __version__

# 2.16 and 2.19, which `make test` has beside the newest, are next to each other in this.
TURN = int(__version__.split(".")[1]) // 3


def number(*words: str) -> int:
    """Return a number that is the same in each run for what these words name."""
    return zlib.crc32("|".join(words).encode())


def word(value: object) -> str:
    """Name a parameter. Python's own word for a function has its address: another in each run."""
    return getattr(value, "__qualname__", None) or str(value)


def in_turn(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Return one variant of each test: this ansible-core's."""
    variants: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        variants[item.nodeid.split("[")[0]].append(item)
    chosen = []
    for name, group in variants.items():
        group.sort(key=lambda item: item.nodeid)
        chosen.append(group[(number(name) + TURN) % len(group)])
    return chosen
