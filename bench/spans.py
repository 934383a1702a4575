"""What the clocks in a worker showed, as a table: steps, and the engine's own share. Pure."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import Any

from report import number, table

OTHER = "Ansible: strategy, queue and callbacks"


def steps(workers: list[dict[str, Any]], tasks: list[float]) -> dict[str, float]:
    """Return the median seconds of each step, from what the workers wrote.

    `tasks` are durations as the main process saw them; what no worker had is its own.
    """
    found = defaultdict(list)
    for worker in workers:
        for name, seconds in worker["spent"].items():
            found[name].append(seconds)
    result = {name: median(values) for name, values in found.items()}
    inside = [sum(worker["spent"].values()) for worker in workers]
    if tasks and inside:
        result[OTHER] = max(0.0, median(tasks) - median(inside))
    return result


CORE = "core: exec_command"


def divided(step: dict[str, float], shell: float, python: float) -> dict[str, float]:
    """Divide the core's time by what the engine needs without Ansible and gangway.

    `shell` and `python` are seconds of an exec that starts a shell, or a Python, which ends at
    once. What is left of a raw task is gangway's own; of a module it is the module, too.
    """
    result = dict(step)
    whole = result.pop(CORE, 0.0)
    result["engine: an exec, and a shell in it"] = min(whole, shell)
    rest = whole - min(whole, shell)
    if python:
        result["target: Python starts"] = min(rest, max(0.0, python - shell))
        result["target: the module is unpacked and runs"] = max(0.0, rest - (python - shell))
    else:
        result["core: the rest of exec_command"] = rest
    return result


def markdown(columns: dict[str, dict[str, float]]) -> str:
    """Return a table of milliseconds: one line for each step, the costliest first."""
    names = {name for column in columns.values() for name in column}
    last = list(columns.values())[-1]
    rows = [
        [name, *(number(column.get(name, 0.0) * 1e3) for column in columns.values())]
        for name in sorted(names, key=lambda n: (-last.get(n, 0.0), n))
    ]
    rows.append(["all", *(number(sum(column.values()) * 1e3) for column in columns.values())])
    return table(["ms", *columns], rows)


def ours(column: dict[str, float]) -> list[tuple[str, float]]:
    """Return the steps that are not Ansible's, the costliest first."""
    found = [(name, seconds) for name, seconds in column.items() if "Ansible:" not in name]
    return sorted(found, key=lambda item: -item[1])
