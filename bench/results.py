"""What a run of the benchmark found, as JSON: the one form that reports, plots and compare read.

    {"meta": {"date", "plan", "machine": {…}, "versions": {environment: {package: version}}},
     "failures": {contender: reason},
     "samples": [{"stage", "work", "contender", "round", "count", …figures}]}

`stage` is rows, transfers, scale or workers. A sample has `error` in the place of figures when a
contender failed at one thing only. Seconds, KiB and bytes.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

Sample = dict[str, Any]


class Results:
    """Grows during a run; written after every stage, so that an interrupted run is not lost."""

    def __init__(self, meta: dict[str, Any], path: Path | None = None) -> None:
        self.meta = meta
        self.failures: dict[str, str] = {}
        self.samples: list[Sample] = []
        self.path = path

    def add(self, stage: str, work: str, contender: str, turn: int, **figures: Any) -> None:
        """Take one sample."""
        sample = {"stage": stage, "work": work, "contender": contender, "round": turn}
        self.samples.append(sample | figures)

    def write(self) -> None:
        """Write the file, whole or not at all."""
        assert self.path
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.dictionary(), indent=1) + "\n")
        part.replace(self.path)

    def dictionary(self) -> dict[str, Any]:
        """Return what is written."""
        return {"meta": self.meta, "failures": self.failures, "samples": self.samples}


def load(path: Path) -> Results:
    """Read what `write` wrote; ValueError names what is wrong with it."""
    try:
        data = json.loads(path.read_text())
        results = Results(data["meta"], path)
        results.failures, results.samples = data["failures"], data["samples"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no result of bench/run: {error!r}") from None
    return results


def machine() -> dict[str, Any]:
    """Describe the machine by what matters for speed; no names."""
    memory = Path("/proc/meminfo").read_text().split("\n", 1)[0].split()[1]
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cores": os.cpu_count(),
        "cpu": models[0] if models else platform.machine(),
        "memory_gib": round(int(memory) / (1 << 20)),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
    }


def today() -> str:
    """Return the date and time, UTC."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M")
