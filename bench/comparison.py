"""What changed between two results: which ratios moved by more than the noise. Pure: no I/O."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from analysis import ORACLE, Analysis, Spread, spread
from report import number, table

# What differs by less is never called a change: two rounds may agree by chance.
LEAST = 0.05


@dataclass(frozen=True)
class Change:
    """One figure in both results: `ratio` is the second divided by the first."""

    work: str
    contender: str
    before: float
    after: float
    noise: float

    @property
    def ratio(self) -> float:
        """Return the second divided by the first."""
        return self.after / self.before

    @property
    def moved(self) -> bool:
        """Tell whether the change is larger than what rounds of the same differ by."""
        return abs(math.log(self.ratio)) > math.log1p(max(LEAST, self.noise))


def times(before: Analysis, after: Analysis) -> list[Change]:
    """Compare the time of a unit above the start-up, in seconds."""
    return changes(before, after, lambda a, work, name: a.each(work, name))


def against_oracle(before: Analysis, after: Analysis) -> list[Change]:
    """Compare multiples of the oracle's time: that leaves out how fast the machine was that day.

    For a whole play, and for the oracle itself, they are multiples of Ansible's start.
    """

    def multiple(analysis: Analysis, work: str, name: str) -> Spread | None:
        if name != ORACLE and not analysis.works[work]["whole"]:
            return analysis.above(work, name, ORACLE)
        starts = analysis.times("empty", ORACLE)
        found = analysis.times(work, name)
        return spread(found[t].usual / starts[t].usual for t in found if t in starts)

    return changes(before, after, multiple)


def changes(
    before: Analysis, after: Analysis, figure: Callable[[Analysis, str, str], Spread | None]
) -> list[Change]:
    """Compare a figure wherever both results have it."""
    found = []
    for work in before.names("rows"):
        if work not in after.works:
            continue
        for name in before.doers("rows", work):
            if name not in after.contenders:
                continue
            one, other = figure(before, work, name), figure(after, work, name)
            if one and other:
                noise = one.noise + other.noise
                found.append(Change(work, name, one.median, other.median, noise))
    return found


def published_ratios(analysis: Analysis) -> dict[tuple[str, str, str], Spread]:
    """Return the ratios of the report's first two tables."""
    found = {}
    for ours in analysis.ours():
        for work in analysis.names("rows"):
            if work == "empty":
                continue
            for peer in analysis.peers(ours):
                if ratio := analysis.faster(work, ours, peer):
                    found[work, ours, peer] = ratio
            if not analysis.works[work]["whole"] and (ratio := analysis.above(work, ours, ORACLE)):
                found[work, ours, ORACLE] = ratio
    return found


def disagreements(before: Analysis, after: Analysis, percent: float) -> tuple[list[str], int]:
    """Return the published ratios whose medians differ by more, and how many do not."""
    ones, others = published_ratios(before), published_ratios(after)
    lines, agree = [], 0
    for key in ones:
        if key not in others:
            continue
        one, other = ones[key].median, others[key].median
        if abs(math.log(other / one)) > math.log1p(percent / 100):
            work, ours, peer = key
            lines.append(f"{work}, {ours} and {peer}: {number(one)} and {number(other)}")
        else:
            agree += 1
    return lines, agree


def markdown(before: Analysis, after: Analysis, *, everything: bool = False) -> str:
    """Return what moved, or with `everything` all that both have."""
    multiples = {(c.work, c.contender): c for c in against_oracle(before, after)}
    rows = []
    for change in times(before, after):
        relative = multiples.get((change.work, change.contender))
        moved = change.moved and relative is not None and relative.moved
        if not (moved or everything):
            continue
        verdict = ("faster" if change.ratio < 1 else "slower") if moved else ""
        rows.append(
            [
                f"{change.work}, {change.contender}",
                number(change.before * 1e3),
                number(change.after * 1e3),
                f"{change.ratio:.2f}",
                f"{relative.ratio:.2f}" if relative else "",
                f"{max(LEAST, change.noise):.2f}",
                verdict,
            ]
        )
    head = ["work", "before, ms", "after, ms", "after ÷ before"]
    head += ["the same in multiples of the oracle", "noise", ""]
    if not rows:
        return "Nothing moved by more than the noise.\n"
    return table(head, rows)
