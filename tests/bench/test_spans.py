"""bench/spans.py: a table from what the clocks in the workers showed."""

from __future__ import annotations

import pytest

import spans

WORKERS = [
    {"spent": {"core: exec_command": 0.10, "Ansible: the rest of the worker": 0.010}},
    {"spent": {"core: exec_command": 0.14, "Ansible: the rest of the worker": 0.012}},
    {"spent": {"core: exec_command": 0.12, "Ansible: the rest of the worker": 0.011}},
]


def test_steps_are_medians_and_the_rest_is_the_main_process() -> None:
    steps = spans.steps(WORKERS, [0.15, 0.16, 0.17])
    assert steps["core: exec_command"] == 0.12
    assert steps[spans.OTHER] == pytest.approx(0.16 - 0.131)


def test_table_has_the_costliest_step_of_the_last_column_first() -> None:
    raw, ping = {"a": 0.001, "b": 0.002}, {"a": 0.1, "b": 0.002, "c": 0.05}
    assert spans.markdown({"raw": raw, "ping": ping}).splitlines() == [
        "| ms | raw | ping |",
        "|---|---:|---:|",
        "| a | 1 | 100 |",
        "| c | 0 | 50 |",
        "| b | 2 | 2 |",
        "| all | 3 | 152 |",
    ]


def test_ours_are_the_steps_outside_of_ansible() -> None:
    column = {"Ansible: fork the worker": 1.0, "core: exec_command": 0.1, "plugin: open": 0.2}
    assert [name for name, _ in spans.ours(column)] == ["plugin: open", "core: exec_command"]


def test_the_engines_own_share_is_taken_off() -> None:
    step = {spans.CORE: 0.25, "plugin: load it": 0.01}
    raw = spans.divided(step, 0.05, 0)
    assert raw == {
        "plugin: load it": 0.01,
        "engine: an exec, and a shell in it": 0.05,
        "core: the rest of exec_command": pytest.approx(0.2),
    }
    ping = spans.divided(step, 0.05, 0.07)
    assert ping["target: Python starts"] == pytest.approx(0.02)
    assert ping["target: the module is unpacked and runs"] == pytest.approx(0.18)
    assert sum(ping.values()) == pytest.approx(sum(step.values()))


def test_a_slow_baseline_leaves_no_negative_time() -> None:
    ping = spans.divided({spans.CORE: 0.06}, 0.05, 0.08)
    assert all(seconds >= 0 for seconds in ping.values())
