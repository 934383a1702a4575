"""What gangway is to reach, beside what it reached. Pure: no I/O."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

from analysis import ORACLE, Analysis, Spread

MITOGEN = "mitogen docker"
MODULES = ("ping", "copy", "template", "stat", "loop", "facts")

Figure = Callable[[Analysis, str], float | None]


@dataclass(frozen=True)
class Goal:
    """One figure of a contender of ours: at least, or at most, `limit`."""

    what: str
    limit: Figure
    at_least: bool
    figure: Figure

    def met(self, value: float, limit: float) -> bool:
        """Tell whether a value is good enough."""
        return operator.ge(value, limit) if self.at_least else operator.le(value, limit)


def fixed(limit: float) -> Figure:
    """Return a limit that is the same for all."""
    return lambda analysis, ours: limit


def middle(found: Spread | None) -> float | None:
    """Return the median of the rounds."""
    return found.median if found else None


def above(work: str, other: str, limit: float) -> Goal:
    """Return a goal for the time above Ansible's start, as a multiple of the other's."""
    return Goal(
        f"{work}, time above Ansible's start ÷ {other}",
        fixed(limit),
        False,
        lambda a, ours: middle(a.above(work, ours, other)),
    )


def peer_of(analysis: Analysis, ours: str, pipelined: bool) -> str | None:
    """Return the collection's command line plugin for the same engine."""
    pace = "pipelined" if pipelined else "plain"
    found = [
        name
        for name in analysis.peers(ours)
        if "_api" not in name
        and analysis.contenders[name]["tool"] == "ansible"
        and analysis.contenders[name]["pace"] == pace
        and not analysis.contenders[name]["ours"]
    ]
    return found[0] if found else None


def against_peer(work: str, pipelined: bool, limit: float, ratio: str = "times as fast as") -> Goal:
    """Return a goal against the collection's plugin: for 100 tasks, or for the play."""

    def figure(analysis: Analysis, ours: str) -> float | None:
        peer = peer_of(analysis, ours, pipelined)
        return middle(analysis.faster(work, ours, peer)) if peer else None

    name = "pipelined" if pipelined else "default"
    return Goal(f"{work}, {ratio} the {name} peer", fixed(limit), True, figure)


def raw_above_pipelined(analysis: Analysis, ours: str) -> float | None:
    """Return the time above Ansible's start as a part of the pipelined peer's."""
    peer = peer_of(analysis, ours, True)
    return middle(analysis.above("raw", ours, peer)) if peer else None


def against_dd(transfer: str) -> Figure:
    """Return the rate of a transfer as a part of what `dd` reaches."""

    def figure(analysis: Analysis, ours: str) -> float | None:
        one = analysis.rate(transfer, ours)
        other = analysis.rate(transfer, analysis.program(ours))
        return one.median / other.median if one and other else None

    return figure


def broker(count: int) -> Goal:
    """Return the goal for the memory of a broker with so many agents."""

    def figure(analysis: Analysis, ours: str) -> float | None:
        samples = analysis.samples("kept", f"broker {count}", ours)
        return samples[0]["rss"] / 1024 if samples else None

    limit = fixed(20 + 0.2 * count)
    return Goal(f"broker with {count} agents, MiB", limit, False, figure)


def pss(analysis: Analysis, name: str) -> float | None:
    """Return the MiB that a contender's processes have in a container."""
    samples = analysis.samples("kept", "target", name)
    return samples[0]["pss"] / 1024 if samples else None


GOALS = [
    above("raw", MITOGEN, 0.45),
    above("ping", MITOGEN, 0.7),
    above("copy", MITOGEN, 0.9),
    above("loop", MITOGEN, 0.8),
    above("raw", ORACLE, 1.15),
    above("ping", ORACLE, 1.4),
    above("copy", ORACLE, 1.7),
    Goal(
        "raw, time above Ansible's start ÷ the pipelined peer's",
        fixed(0.15),
        False,
        raw_above_pipelined,
    ),
    against_peer("raw", True, 6),
    *(against_peer(work, False, 12) for work in MODULES),
    *(against_peer(work, True, 5) for work in MODULES),
    *(against_peer(work, True, 1, "as fast as") for work in ("cold", "adhoc")),
    *(
        Goal(
            f"{work}, times as fast as pyinfra @docker",
            fixed(4),
            True,
            lambda a, ours, work=work: middle(a.faster(work, ours, "pyinfra @docker")),
        )
        for work in ("raw", "copy")
    ),
    *(
        Goal(
            f"{way} 1024 MiB ÷ dd",
            lambda a, ours: 0.6 if a.contenders[ours]["engine"] == "runc" else 0.9,
            True,
            against_dd(f"{way} 1024"),
        )
        for way in ("put", "fetch")
    ),
    *(broker(count) for count in (1, 50, 200)),
    Goal("memory in the container, MiB", lambda a, ours: pss(a, MITOGEN), False, pss),
]
