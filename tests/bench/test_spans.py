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
