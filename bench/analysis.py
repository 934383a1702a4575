"""From samples to figures: medians, percentiles, and ratios within a round. Pure: no I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from results import Results, Sample

ORACLE = "oracle"
USUAL = 100  # units: what "100 tasks take" is about


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the smallest value that `percent` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, and the least and the greatest."""

    median: float
    low: float
    high: float

    @property
    def noise(self) -> float:
        """Return how far a round was from the median at most, as a part of it."""
        if not self.median:
            return 0.0
        return max(self.high - self.median, self.median - self.low) / self.median


def spread(values: Iterable[float]) -> Spread | None:
    """Return the spread of values, None if there are none."""
    found = list(values)
    return Spread(median(found), min(found), max(found)) if found else None


@dataclass(frozen=True)
class Time:
    """What one run took: `usual` seconds for 100 units, and `each` of them above the start-up.

    A run of fewer is carried on at the pace that it had after its first unit, so that what comes
    once counts once. For work that is not counted in units both are the time of the run.
    """

    each: float
    usual: float


class Analysis:
    """Looks things up in results."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.contenders: dict[str, dict[str, Any]] = results.meta["contenders"]
        self.works: dict[str, dict[str, Any]] = results.meta["works"]
        self._samples: dict[tuple[str, str, str], list[Sample]] = {}
        for sample in results.samples:
            key = (sample["stage"], sample["work"], sample["contender"])
            self._samples.setdefault(key, []).append(sample)
        self._times = {
            key[1:]: self._times_of(*key[1:]) for key in self._samples if key[0] == "rows"
        }

    # Samples.

    def samples(self, stage: str, work: str, contender: str) -> list[Sample]:
        """Return the samples that have figures."""
        found = self._samples.get((stage, work, contender), [])
        return [sample for sample in found if "error" not in sample]

    def error(self, stage: str, work: str, contender: str) -> str:
        """Return why a contender could not do this, '' if it could or did not try."""
        found = self._samples.get((stage, work, contender), [])
        return next((sample["error"] for sample in found if "error" in sample), "")

    def names(self, stage: str) -> list[str]:
        """Return what was done in a stage, in its order."""
        return list(dict.fromkeys(key[1] for key in self._samples if key[0] == stage))

    def doers(self, stage: str, work: str) -> list[str]:
        """Return who did it or tried, in the order of the table of contenders."""
        found = {key[2] for key in self._samples if key[:2] == (stage, work)}
        return [name for name in self.contenders if name in found]

    def ours(self) -> list[str]:
        """Return gangway's own with an agent, which is how it is by default."""
        return [
            name
            for name, contender in self.contenders.items()
            if contender["ours"] and not contender["direct"]
        ]

    def peers(self, name: str) -> list[str]:
        """Return who else works on the same engine, gangway without an agent included."""
        engine = self.contenders[name]["engine"]
        return [
            other
            for other, contender in self.contenders.items()
            if contender["engine"] == engine and contender["tool"] != "cli" and other != name
        ]

    def program(self, name: str) -> str:
        """Return who uses the same engine's own program, '' where nobody does."""
        engine = self.contenders[name]["engine"]
        same = (n for n, c in self.contenders.items() if c["engine"] == engine)
        return next((n for n in same if self.contenders[n]["tool"] == "cli"), "")

    # Times.

    def start(self, contender: str, turn: int) -> Sample | None:
        """Return the play without tasks that is taken off: of plain Ansible, or of the other tool.

        Not the contender's own: what it adds to Ansible's start is its own doing.
        """
        other = ORACLE if self.contenders[contender]["tool"] == "ansible" else contender
        found = {s["round"]: s for s in self.samples("rows", "empty", other)}
        return found.get(turn)

    def _times_of(self, work: str, contender: str) -> dict[int, Time]:
        times = {}
        for sample in self.samples("rows", work, contender):
            wall = sample["wall"]
            if self.works[work]["whole"]:
                times[sample["round"]] = Time(wall, wall)
                continue
            start = self.start(contender, sample["round"])
            if start:
                missing = USUAL - sample["count"]
                usual = wall + missing * pace(sample, start["wall"]) if missing > 0 else wall
                times[sample["round"]] = Time(max(1e-6, (usual - start["wall"]) / USUAL), usual)
        return times

    def times(self, work: str, contender: str) -> dict[int, Time]:
        """Return what a contender needed, by round."""
        return self._times.get((work, contender), {})

    def each(self, work: str, contender: str) -> Spread | None:
        """Return the seconds a unit, above the start-up."""
        return spread(time.each for time in self.times(work, contender).values())

    def usual(self, work: str, contender: str) -> Spread | None:
        """Return the seconds that 100 units take, start-up included."""
        return spread(time.usual for time in self.times(work, contender).values())

    # Ratios.

    def ratio(self, work: str, one: str, other: str, key: Callable[[Time], float]) -> Spread | None:
        """Return `one` divided by `other`, taken within each round."""
        ones, others = self.times(work, one), self.times(work, other)
        return spread(key(ones[turn]) / key(others[turn]) for turn in ones if turn in others)

    def faster(self, work: str, ours: str, peer: str) -> Spread | None:
        """Return how many times as long the peer takes for the usual amount, start-up included."""
        return self.ratio(work, peer, ours, lambda time: time.usual)

    def above(self, work: str, ours: str, other: str) -> Spread | None:
        """Return our time above the start-up as a multiple of the other's."""
        return self.ratio(work, ours, other, lambda time: time.each)

    def rate(self, transfer: str, contender: str) -> Spread | None:
        """Return MiB a second; each single transfer counts, the first of several too."""
        size = int(transfer.split()[1])
        return spread(
            size / sample["seconds"] for sample in self.samples("transfers", transfer, contender)
        )

    # What it cost.

    def cost(self, work: str, contender: str, *path: str) -> float | None:
        """Return the median of a figure for one unit, less what the play without tasks had."""
        found = []
        for sample in self.samples("rows", work, contender):
            value = dig(sample, path)
            if value is None:
                continue
            start = None if self.works[work]["whole"] else self.start(contender, sample["round"])
            base = dig(start, path) if start else None
            found.append(max(0.0, value - (base or 0.0)) / sample["count"])
        return median(found) if found else None

    def durations(self, work: str, contender: str) -> list[float]:
        """Return how long each task took, or each item of a loop, over all rounds."""
        key = "items" if self.works[work]["unit"] == "item" else "tasks"
        return [s for sample in self.samples("rows", work, contender) for s in sample.get(key, [])]

    def programs(self, work: str, contender: str) -> dict[str, dict[str, float]]:
        """Return the programs that ended during the work in every round: count and peak memory."""
        samples = [s["programs"] for s in self.samples("rows", work, contender) if "programs" in s]
        if not samples:
            return {}
        common = set(samples[0]).intersection(*samples)
        return {
            name: {
                "count": median(s[name]["count"] for s in samples),
                "peak_kib": max(s[name]["peak_kib"] for s in samples),
            }
            for name in sorted(common)
        }

    def staying(self, work: str, contender: str) -> list[str]:
        """Return the programs that stayed after the work in every round."""
        samples = self.samples("rows", work, contender)
        names = [{process["name"] for process in s.get("staying", [])} for s in samples]
        return sorted(set.intersection(*names)) if names else []


def pace(sample: Sample, start: float) -> float:
    """Return the seconds of one more unit: from the end of the first to the end of the last."""
    seconds, units = sample.get("span", (0.0, 0))
    if units:
        return seconds / units
    return max(0.0, sample["wall"] - start) / sample["count"]


def dig(sample: Sample | None, path: Sequence[str]) -> float | None:
    """Return a figure in nested dictionaries, None if it is not there."""
    value: Any = sample
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return float(value)
