"""Draws the results, as SVG and PNG. Run by an environment of its own that has matplotlib.

python plots.py RESULTS.json DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from analysis import ORACLE, Analysis
from results import load

OURS, FLOOR, OTHERS = "#1b6ca8", "#9aa5ad", "#d9a441"


def main() -> None:
    """Write a bar chart for each kind of work, one for transfers, and the scaling curve."""
    analysis, directory = Analysis(load(Path(sys.argv[1]))), Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "gangway", "savefig.bbox": "tight"})
    for work in analysis.names("rows"):
        bars(analysis, work, directory)
    for transfer in analysis.names("transfers"):
        rates(analysis, transfer, directory)
    if analysis.names("scale"):
        curve(analysis, directory)


def color(analysis: Analysis, name: str) -> str:
    """Return a contender's colour: ours, the floor, and everyone else."""
    if name == ORACLE or analysis.contenders[name]["tool"] == "cli":
        return FLOOR
    return OURS if analysis.contenders[name]["ours"] else OTHERS


def bars(analysis: Analysis, work: str, directory: Path) -> None:
    """Draw what each contender needs for a kind of work."""
    found = {n: s for n in analysis.doers("rows", work) if (s := analysis.each(work, n))}
    if not found:
        return
    whole, unit = analysis.works[work]["whole"], analysis.works[work]["unit"]
    factor, label = (1, "seconds") if whole else (1e3, f"ms each {unit}, above Ansible's start")
    values = {
        name: (s.median * factor, (s.median - s.low) * factor, (s.high - s.median) * factor)
        for name, s in found.items()
    }
    draw(analysis, values, analysis.works[work]["title"], label, directory / work)


def rates(analysis: Analysis, transfer: str, directory: Path) -> None:
    """Draw the speed of a transfer."""
    found = {
        n: s for n in analysis.doers("transfers", transfer) if (s := analysis.rate(transfer, n))
    }
    if not found:
        return
    values = {n: (s.median, s.median - s.low, s.high - s.median) for n, s in found.items()}
    path = directory / f"transfer-{transfer.replace(' ', '-')}"
    draw(analysis, values, f"{transfer} MiB", "MiB a second", path)


def draw(
    analysis: Analysis,
    values: dict[str, tuple[float, float, float]],
    title: str,
    label: str,
    path: Path,
) -> None:
    """Draw one bar for each contender, with the extremes of its rounds."""
    names = sorted(values, key=lambda name: values[name][0], reverse=True)
    figure, axes = plt.subplots(figsize=(7, 0.6 + 0.3 * len(names)))
    middles = [values[name][0] for name in names]
    errors = [[values[name][1] for name in names], [values[name][2] for name in names]]
    axes.barh(names, middles, xerr=errors, color=[color(analysis, n) for n in names], capsize=2)
    for place, middle in enumerate(middles):
        axes.annotate(f" {middle:.3g}", (middle, place), va="bottom", fontsize=7, textcoords="data")
    axes.set(title=title, xlabel=label)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def curve(analysis: Analysis, directory: Path) -> None:
    """Draw the time of a play over the number of containers, one line for each number of forks."""
    figure, axes = plt.subplots(figsize=(7, 4))
    lines: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for row in analysis.names("scale"):
        targets, forks = map(int, row.split())
        for name in analysis.doers("scale", row):
            for sample in analysis.samples("scale", row, name):
                lines.setdefault((name, forks), []).append((targets, sample["wall"]))
    for (name, forks), points in sorted(lines.items()):
        points.sort()
        style = {5: ":", 20: "--"}.get(forks, "-")
        axes.plot(*zip(*points, strict=True), style, marker="o", color=color(analysis, name))
        axes.lines[-1].set_label(f"{name}, {forks} forks")
    axes.set(title="one raw and one ping on each container", xlabel="containers", ylabel="seconds")
    axes.set(xscale="log", yscale="log")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, directory / "scale")


def save(figure: plt.Figure, path: Path) -> None:
    """Write both forms; without a date, so that the same results are the same bytes."""
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=120, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
