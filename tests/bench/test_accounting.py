"""bench/accounting.py: whose CPU time it was."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import accounting
from accounting import Look, Target


def test_daemons_are_charged_for_their_children_too() -> None:
    before = Look(10.0, 100, {(1, "a"): (1.0, 2.0)}, 5.0, 0.0)
    after = Look(14.0, 150, {(1, "a"): (1.5, 3.0), (2, "b"): (0.25, 0.0)}, 6.0, 0.0)
    spent = accounting.spent(before, after)
    assert (spent.machine, spent.forks, spent.daemons) == (4.0, 50, 1.75)
    assert (spent.target, spent.target_ended) == (1.0, 1.0)


def test_who_lives_has_been_waited_for_by_nobody() -> None:
    """An agent's time is the target's, and in no parent's account yet."""
    spent = accounting.spent(Look(0, 0, {}, 1.0, 0.25), Look(0, 0, {}, 3.0, 1.75))
    assert spent.target == 2.0
    assert spent.target_ended == 0.5


def test_own_clock_runs() -> None:
    start, before, _ = accounting.process_clock(os.getpid())
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    again, after, _ = accounting.process_clock(os.getpid())
    assert start == again
    assert 0.05 <= after - before < 1


def test_own_process_is_living_and_has_a_parent() -> None:
    start, _, _ = accounting.process_clock(os.getpid())
    assert (os.getpid(), start) in accounting.living()
    assert accounting.parent_of(os.getpid()) == os.getppid()
    assert accounting.memory(os.getpid())["peak"] > 5000


@pytest.mark.parametrize(
    ("groups", "hierarchy", "expected"),
    [
        ("3:cpu,cpuacct:/box\n0::/x\n", ("cgroup", "cpuacct"), "/v1/box/cpuacct.usage"),
        ("5:memory:/box\n0::/box\n", ("cgroup2", ""), "/v2/box/cpu.stat"),
    ],
)
def test_both_kinds_of_control_groups(
    groups: str, hierarchy: tuple[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = {("cgroup", "cpuacct"): Path("/v1"), ("cgroup2", ""): Path("/v2")}
    asked = []

    def mount_of(kind: str, option: str) -> Path:
        asked.append((kind, option))
        return mounts[kind, option]

    monkeypatch.setattr(accounting, "mount_of", mount_of)
    assert accounting.cpu_file(groups) == Path(expected)
    assert asked == [hierarchy]


def test_clocks_of_both_kinds_are_seconds(tmp_path: Path) -> None:
    (tmp_path / "cpuacct.usage").write_text("1500000000\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    files = [tmp_path / "cpuacct.usage", tmp_path / "cpu.stat", tmp_path / "gone"]
    assert [accounting.target_clock(Target("", file)) for file in files] == [1.5, 2.5, 0.0]
