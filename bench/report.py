"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from analysis import ORACLE, Analysis, Spread, percentile
from goals import GOALS
from results import Results

KEPT = {
    "broker": "agents, one in each container",
    "target": "after a command, a ping and a copy",
    "growth": "commands in a row",
}
HEAD = """\
# Results

{date} UTC, plan `{plan}`. {cores} cores of {cpu}, {memory_gib} GiB, Linux {kernel}, \
Python {python} on the controller. [README.md](README.md) tells what the figures mean.

{versions}

"""


def markdown(results: Results, notes: str = "") -> str:
    """Return the whole page, with notes after what is the same for all."""
    analysis = Analysis(results)
    meta = results.meta
    versions = "\n".join(
        f"* {name}: " + ", ".join(f"{package} {version}" for package, version in found.items())
        for name, found in meta["versions"].items()
    )
    head = HEAD.format(**(meta | meta["machine"] | {"versions": versions}))
    parts = [goals, faster, above, details, transfers, scale, workers, kept, processes, failures]
    head += f"{notes}\n" if notes else ""
    return head + "\n".join(text for part in parts if (text := part(analysis))) + "\n"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """Return a table; all columns but the first are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with as many digits as matter."""
    if value is None:
        return "n/a"
    if value >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{value:.{digits}g}" if value else "0"


def times(ratio: Spread | None) -> str:
    """Return a ratio; with its extremes where rounds differ by more than a tenth."""
    if ratio is None:
        return ""
    text = number(ratio.median)
    if ratio.noise > 0.1:
        text += f" ({number(ratio.low)} to {number(ratio.high)})"
    return text


def rows_of(analysis: Analysis) -> list[str]:
    """Return the rows, the play without tasks left out."""
    return [name for name in analysis.names("rows") if name != "empty"]


def goals(analysis: Analysis) -> str:
    """Return what gangway is to reach, and whether it does."""
    names = [n for n in analysis.ours() if any(goal.figure(analysis, n) for goal in GOALS)]
    rows = []
    for goal in GOALS:
        cells, limits = [], set()
        for name in names:
            value, limit = goal.figure(analysis, name), goal.limit(analysis, name)
            if value is None or limit is None:
                cells.append("")
                continue
            limits.add(number(limit))
            missed = "" if goal.met(value, limit) else " **missed**"
            cells.append(number(value) + missed)
        if any(cells):
            sign = "≥" if goal.at_least else "≤"
            rows.append([goal.what, f"{sign} {' or '.join(sorted(limits))}", *cells])
    return "## Goals\n\n" + table(["what", "goal", *names], rows) if rows else ""


def faster(analysis: Analysis) -> str:
    """Return, for each engine, how many times faster gangway is than each peer."""
    parts = []
    for ours in analysis.ours():
        works = [w for w in rows_of(analysis) if analysis.times(w, ours)]
        peers = [p for p in analysis.peers(ours) if any(analysis.times(w, p) for w in works)]
        if not works or not peers:
            continue
        rows = [[w, *(times(analysis.faster(w, ours, p)) for p in peers)] for w in works]
        parts.append(f"### {ours}\n\n" + table([f"against {ours}", *peers], rows))
    if not parts:
        return ""
    return (
        "## How many times faster\n\nThe peer's time divided by gangway's on the same engine, for "
        "100 tasks or one play, Ansible's start included; above 1, gangway is faster.\n\n"
        + "\n".join(parts)
    )


def above(analysis: Analysis) -> str:
    """Return gangway's time above Ansible's start as a multiple of the floor and of Mitogen's."""
    ours = analysis.ours()
    others = [
        name
        for name, contender in analysis.contenders.items()
        if name == ORACLE or (not contender["ours"] and contender["pace"] == "fast")
    ]
    pairs = [(o, other) for other in others for o in ours]
    works = [w for w in rows_of(analysis) if not analysis.works[w]["whole"]]
    rows = []
    for work in works:
        cells = [times(analysis.above(work, one, other)) for one, other in pairs]
        if any(cells):
            rows.append([work, *cells])
    if not rows:
        return ""
    used = [i for i in range(len(pairs)) if any(row[i + 1] for row in rows)]
    head = ["work", *(f"{pairs[i][0]} ÷ {pairs[i][1]}" for i in used)]
    return (
        "## Time above Ansible's start\n\nDivided by what the other needs above the same start; "
        "below 1, gangway is faster. Nothing can be below the oracle.\n\n"
        + table(head, [[row[0], *(row[i + 1] for i in used)] for row in rows])
    )


COLUMNS = [
    *("contender", "n", "100 take, s", "each, ms", "÷ oracle"),
    *("task median", "p95", "p99", "max, ms"),
    *("CPU controller", "engine", "target, ms"),
    *("processes", "stream, KiB", "CLI, MiB"),
]


def details(analysis: Analysis) -> str:
    """Return a table for each row."""
    parts = ["## Each kind of work\n"]
    for work in analysis.names("rows"):
        whole = analysis.works[work]["whole"]
        head = list(COLUMNS)
        if whole:
            head[2], head[3] = "takes, s", "ms"
        rows = [detail(analysis, work, name) for name in analysis.doers("rows", work)]
        parts.append(f"### {work}\n\n{analysis.works[work]['title']}\n\n" + table(head, rows))
    return "\n".join(parts)


def detail(analysis: Analysis, work: str, name: str) -> list[str]:
    """Return a contender's line in the table of one kind of work."""
    error = analysis.error("rows", work, name)
    samples = analysis.samples("rows", work, name)
    if not samples:
        return [name, f"failed: {cell(error)}", *[""] * (len(COLUMNS) - 2)]
    durations = analysis.durations(work, name)
    usual, each = analysis.usual(work, name), analysis.each(work, name)
    tasks = [percentile(durations, p) * 1e3 for p in (50, 95, 99, 100)] if durations else [None] * 4
    cpu = [analysis.cost(work, name, "cpu", part) for part in ("controller", "engine", "target")]
    stream = analysis.cost(work, name, "stream")
    program = analysis.programs(work, name).get(analysis.contenders[name]["stream"])
    whole = analysis.works[work]["whole"]
    return [
        name,
        str(samples[0]["count"]),
        number(usual.median if usual else None),
        number(each.median * 1e3 if each else None),
        "" if whole or name == ORACLE else times(analysis.above(work, name, ORACLE)),
        *(number(t) for t in tasks),
        *(number(None if c is None else c * 1e3) for c in cpu),
        number(analysis.cost(work, name, "processes")),
        number(None if stream is None else stream / 1024),
        number(program["peak_kib"] / 1024 if program else None),
    ]


def cell(text: str) -> str:
    """Return a text that is safe in a table and not too long."""
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= 200 else text[:199] + "…"


def transfers(analysis: Analysis) -> str:
    """Return MiB a second, and the same as a part of what `dd` reaches."""
    names = analysis.names("transfers")
    if not names:
        return ""
    who = [
        c for c in analysis.contenders if any(c in analysis.doers("transfers", n) for n in names)
    ]
    rows = []
    for name in who:
        base = analysis.program(name)
        row = [name]
        for transfer in names:
            rate = analysis.rate(transfer, name)
            floor = analysis.rate(transfer, base) if base else None
            if rate is None:
                row.append(cell(analysis.error("transfers", transfer, name)))
            elif floor and name != base:
                row.append(f"{number(rate.median)} ({rate.median / floor.median:.2f})")
            else:
                row.append(number(rate.median))
        rows.append(row)
    head = ["contender", *(f"{name} MiB" for name in names)]
    return (
        "## Transfers\n\nMiB a second, in brackets as a part of what `dd` through the engine's own "
        "exec reaches.\n\n" + table(head, rows)
    )


def scale(analysis: Analysis) -> str:
    """Return the seconds of a play on many containers."""
    names = analysis.names("scale")
    if not names:
        return ""
    who = [c for c in analysis.contenders if any(c in analysis.doers("scale", n) for n in names)]
    rows = []
    for name in names:
        targets, forks = name.split()
        row = [targets, forks]
        for contender in who:
            found = spread_of(s["wall"] for s in analysis.samples("scale", name, contender))
            row.append(number(found) if found else cell(analysis.error("scale", name, contender)))
        rows.append(row)
    head = ["containers", "forks", *(f"{name}, s" for name in who)]
    return "## Many containers\n\nOne raw and one ping on each.\n\n" + table(head, rows)


def workers(analysis: Analysis) -> str:
    """Return what a worker pays before its first byte."""
    steps = [name for name in analysis.names("workers") if name != "steps"]
    who = [
        c
        for c in analysis.contenders
        if any(c in analysis.doers("workers", n) for n in [*steps, "steps"])
    ]
    if not who:
        return ""
    rows = []
    for name in who:
        cells = []
        for step in steps:
            found = [x for s in analysis.samples("workers", step, name) for x in s["seconds"]]
            cells.append(number(median(found) * 1e3) if found else "n/a")
        error = analysis.error("workers", "steps", name)
        rows.append([name + (f": {cell(error)}" if error else ""), *cells])
    return (
        "## What a worker pays before its first byte\n\nMedian ms; Ansible forks a worker for each "
        "task.\n\n" + table(["contender", *steps], rows)
    )


def kept(analysis: Analysis) -> str:
    """Return the memory of what stays between tasks."""
    rows = []
    for work in analysis.names("kept"):
        title = KEPT.get(work.split()[0], work)
        for name in analysis.doers("kept", work):
            if error := analysis.error("kept", work, name):
                rows.append([f"{title}, {name}: {cell(error)}", *[""] * 5])
            for sample in analysis.samples("kept", work, name):
                counts = [number(sample[k]) if k in sample else "" for k in ("commands", "agents")]
                memory = [number(sample[k] / 1024) if k in sample else "" for k in ("rss", "pss")]
                there = number(sample["processes"]) if "processes" in sample else ""
                rows.append([f"{title}, {name}", *counts, *memory, there])
    if not rows:
        return ""
    head = ["", "commands", "agents", "broker, MiB", "in the container, MiB", "processes there"]
    return (
        "## What is kept between tasks\n\nResident memory of the broker; in the container the sum "
        "of each process's proportional share (PSS), with nothing running.\n\n" + table(head, rows)
    )


def processes(analysis: Analysis) -> str:
    """Return the programs that ran for a ping, how often, and how large they became."""
    if "ping" not in analysis.names("rows"):
        return ""
    lines = []
    for name in analysis.doers("rows", "ping"):
        samples = analysis.samples("rows", "ping", name)
        if not samples:
            continue
        count = samples[0]["count"]
        found = analysis.programs("ping", name)
        base = analysis.programs("empty", ORACLE)
        listed = []
        for program, figures in sorted(found.items(), key=lambda item: -item[1]["peak_kib"]):
            often = figures["count"] - base.get(program, {"count": 0})["count"]
            if often / count >= 0.5:
                listed.append(f"{program} {number(figures['peak_kib'] / 1024)}")
        stay = ", ".join(analysis.staying("ping", name))
        lines.append([name, ", ".join(listed) or "n/a", stay])
    return (
        "## What runs for a ping\n\nPrograms that a task starts, with the MiB of memory that they "
        "had at most, and those that stay after the play. The kernel's names have 15 bytes; "
        "`ansible-playboo` is Ansible's worker.\n\n"
        "| contender | for each task, MiB | stay |\n|---|---|---|\n"
        + "".join("| " + " | ".join(line) + " |\n" for line in lines)
    )


def failures(analysis: Analysis) -> str:
    """Return who did not take part, and why."""
    found = analysis.results.failures
    if not found:
        return ""
    lines = [f"* {name}: {cell(reason)}" for name, reason in found.items()]
    return "## Did not take part\n\n" + "\n".join(lines) + "\n"


def spread_of(values: Iterable[float]) -> float | None:
    """Return the median, None if there are no values."""
    found = list(values)
    return median(found) if found else None
