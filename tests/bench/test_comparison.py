"""bench/comparison.py: what a change did, and whether two runs agree."""

from __future__ import annotations

import pytest

import comparison
from analysis import Analysis
from results import Results

OURS = {"engine": "docker", "tool": "ansible", "pace": "fast", "ours": True, "direct": False}
CONTENDERS = {
    "gangway docker": OURS,
    "peer": OURS | {"ours": False},
    "oracle": OURS | {"ours": False, "engine": ""},
}
WORKS = {
    "empty": {"title": "nothing", "unit": "play", "whole": True},
    "ping": {"title": "ping", "unit": "task", "whole": False},
}


def make(ours: list[float], machine: float = 1.0) -> Analysis:
    """Return results in which gangway's 100 pings take these seconds above the start-up."""
    results = Results({"contenders": CONTENDERS, "works": WORKS})
    for turn, seconds in enumerate(ours):
        for work, name, wall in (
            ("empty", "oracle", 0.5),
            ("ping", "oracle", 2.5),
            ("ping", "peer", 20.5),
            ("ping", "gangway docker", 0.5 + seconds),
        ):
            count = 1 if work == "empty" else 100
            results.add("rows", work, name, turn, count=count, wall=wall * machine)
    return Analysis(results)


def moved(before: Analysis, after: Analysis) -> dict[str, float]:
    """Return {contender: after ÷ before} of what moved in multiples of the oracle."""
    changes = comparison.against_oracle(before, after)
    return {change.contender: round(change.ratio, 3) for change in changes if change.moved}


def test_a_change_is_seen() -> None:
    before, after = make([4.0, 4.1, 3.9]), make([2.0, 2.1, 1.9])
    assert moved(before, after) == {"gangway docker": 0.5}
    text = comparison.markdown(before, after)
    assert "| ping, gangway docker | 40 | 20 | 0.50 | 0.50 |" in text
    assert text.rstrip().endswith("faster |")


def test_noise_is_no_change() -> None:
    before, after = make([4.0, 5.2, 3.1]), make([4.8, 4.1, 5.9])
    assert moved(before, after) == {}
    assert comparison.markdown(before, after) == "Nothing moved by more than the noise.\n"
    assert "ping, gangway docker" in comparison.markdown(before, after, everything=True)


def test_a_slower_machine_is_no_change() -> None:
    before, after = make([4.0, 4.1, 3.9]), make([4.0, 4.1, 3.9], machine=1.5)
    assert moved(before, after) == {}
    assert comparison.markdown(before, after) == "Nothing moved by more than the noise.\n"


@pytest.mark.parametrize(("seconds", "disagree"), [(4.3, 0), (6.0, 2)])
def test_two_runs_agree_or_not(seconds: float, disagree: int) -> None:
    """Of the two ratios, against the peer and against the oracle."""
    lines, agree = comparison.disagreements(make([4.0]), make([seconds]), 15)
    assert len(lines) == disagree
    assert agree == 2 - disagree


def test_a_row_that_only_one_run_has_is_left_out() -> None:
    before, after = make([4.0]), make([4.0])
    after.results.samples[:] = [s for s in after.results.samples if s["contender"] != "peer"]
    lines, agree = comparison.disagreements(before, Analysis(after.results), 15)
    assert (lines, agree) == ([], 1)
