"""bench/analysis.py: figures from samples."""

from __future__ import annotations

from typing import Any

import pytest

from analysis import Analysis, Spread, percentile, spread
from results import Results


def contender(engine: str, tool: str, pace: str, *, ours: bool = False) -> dict[str, Any]:
    """Return what results hold of a contender."""
    return {"engine": engine, "tool": tool, "pace": pace, "ours": ours, "direct": False}


CONTENDERS = {
    "gangway docker": contender("docker", "ansible", "pipelined", ours=True),
    "gangway docker direct": contender("docker", "ansible", "pipelined", ours=True)
    | {"direct": True},
    "peer": contender("docker", "ansible", "plain"),
    "peer on runc": contender("runc", "ansible", "plain"),
    "pyinfra": contender("docker", "pyinfra", "pipelined"),
    "dd": contender("docker", "cli", "pipelined"),
    "oracle": contender("", "ansible", "fast"),
}
WORKS = {
    "empty": {"title": "nothing", "unit": "play", "whole": True},
    "ping": {"title": "ping", "unit": "task", "whole": False},
    "loop": {"title": "loop", "unit": "item", "whole": False},
    "role": {"title": "role", "unit": "play", "whole": True},
}


def make(*rows: tuple[str, str, int, int, float], **more: Any) -> Analysis:
    """Return results with samples: work, contender, round, count, wall seconds."""
    results = Results({"contenders": CONTENDERS, "works": WORKS})
    for work, contender, turn, count, wall in rows:
        results.add("rows", work, contender, turn, count=count, wall=wall, **more)
    return Analysis(results)


def test_percentile_is_a_value_that_occurred() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (0, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]
    assert percentile([7.0], 95) == 7
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_spread_is_the_median_and_the_extremes() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2, 1, 3)
    assert spread([]) is None
    assert Spread(2, 1, 3.5).noise == 0.75


def test_start_of_ansible_is_taken_off_and_100_are_counted() -> None:
    analysis = make(("empty", "oracle", 0, 1, 0.5), ("ping", "peer", 0, 100, 20.5))
    assert analysis.usual("ping", "peer") == Spread(20.5, 20.5, 20.5)
    each = analysis.each("ping", "peer")
    assert each and each.median == pytest.approx(0.2)


def test_fewer_tasks_go_on_at_the_pace_after_the_first() -> None:
    """What comes once, here one second, is not multiplied."""
    results = Results({"contenders": CONTENDERS, "works": WORKS})
    results.add("rows", "empty", "oracle", 0, count=1, wall=0.5)
    results.add("rows", "ping", "peer", 0, count=10, wall=0.5 + 1 + 10 * 0.1, span=[0.9, 9])
    usual = Analysis(results).usual("ping", "peer")
    assert usual and usual.median == pytest.approx(0.5 + 1 + 100 * 0.1)


def test_another_tool_starts_on_its_own() -> None:
    analysis = make(
        ("empty", "oracle", 0, 1, 0.5),
        ("empty", "pyinfra", 0, 1, 2.0),
        ("ping", "pyinfra", 0, 10, 3.0),
    )
    each = analysis.each("ping", "pyinfra")
    assert each and each.median == pytest.approx(0.1)


def test_without_a_start_there_is_no_figure() -> None:
    analysis = make(("ping", "peer", 0, 100, 20.5))
    assert analysis.each("ping", "peer") is None


def test_ratio_is_taken_within_a_round() -> None:
    """A machine that becomes twice as slow changes no ratio."""
    rows = []
    for turn, slow in enumerate((1.0, 2.0, 1.5)):
        rows += [
            ("empty", "oracle", turn, 1, 0.5 * slow),
            ("ping", "oracle", turn, 100, 2.5 * slow),
            ("ping", "peer", turn, 100, 20.5 * slow),
            ("ping", "gangway docker", turn, 100, 4.5 * slow),
        ]
    analysis = make(*rows)
    faster = analysis.faster("ping", "gangway docker", "peer")
    above = analysis.above("ping", "gangway docker", "oracle")
    assert faster and faster.median == pytest.approx(20.5 / 4.5) and faster.noise < 1e-9
    assert above and above.median == pytest.approx(2.0) and above.noise < 1e-9


def test_rounds_that_only_one_has_count_for_neither() -> None:
    analysis = make(
        ("role", "gangway docker", 0, 1, 2.0),
        ("role", "gangway docker", 1, 1, 200.0),
        ("role", "peer", 0, 1, 6.0),
    )
    faster = analysis.faster("role", "gangway docker", "peer")
    assert faster == Spread(3, 3, 3)
    assert analysis.faster("role", "gangway docker", "oracle") is None


def test_peers_are_those_on_the_same_engine() -> None:
    peers = ["gangway docker direct", "peer", "pyinfra"]
    assert make().peers("gangway docker") == peers
    assert make().ours() == ["gangway docker"]


def test_failed_samples_have_no_figures_but_a_reason() -> None:
    results = Results({"contenders": CONTENDERS, "works": WORKS})
    results.add("rows", "ping", "peer", 0, count=10, error="it said no")
    analysis = Analysis(results)
    assert analysis.samples("rows", "ping", "peer") == []
    assert analysis.error("rows", "ping", "peer") == "it said no"
    assert analysis.doers("rows", "ping") == ["peer"]


def test_cost_is_for_one_unit_less_the_start() -> None:
    results = Results({"contenders": CONTENDERS, "works": WORKS})
    results.add("rows", "empty", "oracle", 0, count=1, wall=0.5, cpu={"controller": 0.4})
    cpu = {"controller": 1.4, "target": 3.0}
    results.add("rows", "ping", "peer", 0, count=10, wall=2.5, cpu=cpu)
    analysis = Analysis(results)
    assert analysis.cost("ping", "peer", "cpu", "controller") == pytest.approx(0.1)
    assert analysis.cost("ping", "peer", "cpu", "target") == pytest.approx(0.3)
    assert analysis.cost("ping", "peer", "stream") is None


def test_durations_of_a_loop_are_those_of_its_items() -> None:
    analysis = make(("loop", "peer", 0, 3, 1.0), tasks=[0.9], items=[0.3, 0.2, 0.4])
    assert analysis.durations("loop", "peer") == [0.3, 0.2, 0.4]


def test_programs_are_those_of_every_round() -> None:
    results = Results({"contenders": CONTENDERS, "works": WORKS})
    one, other = {"count": 10, "peak_kib": 20}, {"count": 12, "peak_kib": 30}
    results.add("rows", "ping", "peer", 0, count=9, wall=1.0, programs={"docker": one, "x": one})
    results.add("rows", "ping", "peer", 1, count=9, wall=1.0, programs={"docker": other})
    assert Analysis(results).programs("ping", "peer") == {"docker": {"count": 11, "peak_kib": 30}}


def test_rate_is_in_mebibytes_a_second() -> None:
    results = Results({"contenders": CONTENDERS, "works": WORKS})
    results.add("transfers", "put 100", "dd", 0, seconds=0.5)
    results.add("transfers", "put 100", "dd", 1, seconds=0.4)
    results.add("transfers", "put 100", "dd", 2, seconds=1.0)
    assert Analysis(results).rate("put 100", "dd") == Spread(200, 100, 250)
