"""bench/report.py: the page, from results as bench/run writes them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

import report
from analysis import Spread
from contenders import CONTENDERS, ENVIRONMENTS
from engines import ENGINES
from results import Results, load
from session import description
from works import PLANS, WHOLE, WORKS


def results() -> Results:
    """Return results with something in every part of the page."""
    meta = {
        "date": "2026-01-01 00:00",
        "plan": "tiny",
        "machine": {"cores": 2, "cpu": "a CPU", "memory_gib": 8, "kernel": "6.1", "python": "3.13"},
        "versions": {"mitogen": {"mitogen": "0.3"}},
        "contenders": {c.name: description(c) for c in CONTENDERS},
        "works": {
            w.name: {"title": w.title, "unit": w.unit, "whole": w.unit in WHOLE} for w in WORKS
        },
    }
    found = Results(meta)
    for name, wall in (
        ("oracle", 2.5),
        ("gangway docker", 4.5),
        ("mitogen docker", 6.5),
        ("community.docker.docker", 40.5),
    ):
        found.add("rows", "empty", name, 0, count=1, wall=0.5)
        ran = {"docker": {"count": 100, "peak_kib": 30 << 10}}
        cpu = {"controller": 1.0, "engine": 2.0, "target": 3.0}
        figures = {"tasks": [0.02] * 100, "programs": ran, "processes": 100, "stream": 102400}
        found.add("rows", "ping", name, 0, count=100, wall=wall, cpu=cpu, **figures)
    found.add("rows", "role", "gangway docker", 0, count=1, wall=10.0)
    found.add("rows", "role", "community.docker.docker", 0, count=1, error="it | broke\nhere")
    found.add("transfers", "put 1024", "dd through docker exec", 0, seconds=2.0)
    found.add("transfers", "put 1024", "gangway docker", 0, seconds=2.5)
    found.add("transfers", "put 1024", "mitogen docker", 0, error="too slow")
    found.add("kept", "broker 200", "gangway runc", 0, rss=61 << 10, agents=200)
    found.add("kept", "target", "gangway docker", 0, pss=7 << 10, processes=2)
    found.add("kept", "target", "mitogen docker", 0, pss=9 << 10, processes=1)
    found.add("scale", "200 20", "gangway runc", 0, wall=12.0)
    found.add("workers", "connect", "gangway docker", 0, seconds=[0.001, 0.003, 0.002])
    found.add("workers", "steps", "mitogen docker", 0, error="it connects elsewhere")
    found.failures["pyinfra @docker"] = "no such package"
    return found


def test_page_has_every_figure() -> None:
    page = report.markdown(results())
    for line in (
        "2 cores of a CPU, 8 GiB, Linux 6.1, Python 3.13 on the controller.",
        "* mitogen: mitogen 0.3",
        "| what | goal | gangway runc | gangway docker |",
        "| ping, time above Ansible's start ÷ mitogen docker | ≤ 0.7 |  | 0.667 |",  # 4 / 6
        "| ping, time above Ansible's start ÷ oracle | ≤ 1.4 |  | 2 **missed** |",
        "| ping, times as fast as the default peer | ≥ 12 |  | 9 **missed** |",
        "| put 1024 MiB ÷ dd | ≥ 0.9 |  | 0.8 **missed** |",
        "| broker with 200 agents, MiB | ≤ 60 | 61 **missed** |  |",
        "| memory in the container, MiB | ≤ 9 |  | 7 |",
        "| agents, one in each container, gangway runc |  | 200 | 61 |  |  |",
        "| ping | 9 | 1.44 |",  # 40.5 / 4.5 and 6.5 / 4.5
        "| work | gangway docker ÷ mitogen docker | gangway docker ÷ oracle |",
        "| ping | 0.667 | 2 |",  # 4 / 6 and 4 / 2
        "| gangway docker | 100 | 4.5 | 40 | 2 | 20 | 20 | 20 | 20 | 10 | 20 | 30 | 1 | 1 | 30 |",
        "| community.docker.docker | failed: it \\| broke here |",
        "| dd through docker exec | 512 |",
        "| gangway docker | 410 (0.80) |",
        "| mitogen docker | too slow |",
        "| 200 | 20 | 12 |",
        "| gangway docker | 2 |",
        "| mitogen docker: it connects elsewhere | n/a |",
        "* pyinfra @docker: no such package",
        "| gangway docker | docker 30 |  |",
    ):
        assert line in page, line


def test_a_table_has_as_many_cells_in_each_line() -> None:
    lines = report.markdown(results()).replace("\\|", "").splitlines()
    for one, other in pairwise(lines):
        if one.startswith("|") and other.startswith("|"):
            assert one.count("|") == other.count("|"), other


def test_ratio_tells_its_extremes_when_rounds_differ() -> None:
    assert report.times(Spread(2, 1.95, 2.1)) == "2"
    assert report.times(Spread(2, 1.5, 2.5)) == "2 (1.5 to 2.5)"
    assert report.times(None) == ""


def test_numbers_have_three_digits() -> None:
    found = [report.number(n) for n in (0, 0.0123456, 1.23456, 99.94, 123.4, 123456, None)]
    assert found == ["0", "0.0123", "1.23", "99.9", "123", "123456", "n/a"]


def test_results_survive_the_disk(tmp_path: Path) -> None:
    before = results()
    before.path = tmp_path / "results.json"
    before.write()
    assert load(before.path).dictionary() == before.dictionary()


def test_what_is_no_result_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"other\.json is no result"):
        load(path)


def test_contenders_and_works_fit_together() -> None:
    """A line that is added names what exists."""
    assert len({c.name for c in CONTENDERS}) == len(CONTENDERS)
    names = {work.name for work in WORKS} | {"transfer", "scale", "workers", "kept"}
    for contender in CONTENDERS:
        assert contender.engine in {"", *ENGINES}
        assert contender.environment in ENVIRONMENTS
        assert contender.leave_out <= names
        assert all(contender.pace in work.counts for work in WORKS)
    for plan in PLANS.values():
        assert plan.leave_out <= names
