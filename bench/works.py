"""What is done: one row of the table each. A new row is one line more here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# In the container; each run has names of its own below it, so that every copy is a new file.
DIRECTORY = "/tmp/gangway-bench"

Task = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """One kind of work.

    `counts` says how many units a run has, by the pace of the contender. `tasks` returns the tasks
    of a play for a count and the name of the run. `fresh` work gets a container that nobody has
    entered before. `how` is play, adhoc (no playbook) or site (the example).
    """

    name: str
    title: str
    unit: str
    counts: dict[str, int]
    tasks: Callable[[int, str], list[Task]]
    fresh: bool = False
    how: str = "play"
    # Whether what a run before has left behind may help: a broker and its agents.
    warm: bool = False
    # Rounds at most: what takes long is done less often.
    rounds: int = 99

    def count(self, pace: str, share: float = 1.0) -> int:
        """Return how many units a run has; `share` of the usual."""
        return max(1, round(self.counts[pace] * share))


def repeated(action: str, arguments: Callable[[int, str], Any]) -> Callable[[int, str], list[Task]]:
    """Return a function that makes a task with new arguments as often as it is told to."""
    return lambda count, run: [{action: arguments(i, run)} for i in range(count)]


def loop(count: int, run: str) -> list[Task]:
    """Return one task with a loop."""
    items = "{{ range(" + str(count) + ") | list }}"
    return [{"ansible.builtin.command": "true", "loop": items}]


def role(count: int, run: str) -> list[Task]:
    """Return the role with 40 tasks."""
    return [
        {"ansible.builtin.gather_facts": {}},
        {"ansible.builtin.import_role": {"name": str(HERE / "playbooks/service")}},
    ]


WORKS = [
    Work(
        name="empty",
        title="a play without tasks: what Ansible needs to start",
        unit="play",
        counts={"fast": 1, "pipelined": 1, "plain": 1},
        tasks=lambda count, run: [],
    ),
    Work(
        name="raw",
        title="raw: one command, no module",
        unit="task",
        counts={"fast": 100, "pipelined": 20, "plain": 15},
        tasks=repeated("ansible.builtin.raw", lambda i, run: "true"),
    ),
    Work(
        name="ping",
        title="ping: the smallest module",
        unit="task",
        counts={"fast": 100, "pipelined": 8, "plain": 4},
        tasks=repeated("ansible.builtin.ping", lambda i, run: {}),
    ),
    Work(
        name="copy",
        title="copy: a new small file each",
        unit="task",
        counts={"fast": 100, "pipelined": 4, "plain": 3},
        tasks=repeated(
            "ansible.builtin.copy",
            lambda i, run: {"content": f"{run} {i}\n", "dest": f"{DIRECTORY}/{run}-{i}"},
        ),
    ),
    Work(
        name="template",
        title="template: a new small file each",
        unit="task",
        counts={"fast": 100, "pipelined": 4, "plain": 3},
        tasks=repeated(
            "ansible.builtin.template",
            lambda i, run: {
                "src": str(HERE / "playbooks/templates/small.j2"),
                "dest": f"{DIRECTORY}/{run}-{i}",
            },
        ),
        rounds=1,
    ),
    Work(
        name="stat",
        title="stat: a module that looks at a file",
        unit="task",
        counts={"fast": 100, "pipelined": 8, "plain": 4},
        tasks=repeated("ansible.builtin.stat", lambda i, run: {"path": "/etc/passwd"}),
        rounds=1,
    ),
    Work(
        name="loop",
        title="command: one task with a loop",
        unit="item",
        counts={"fast": 100, "pipelined": 8, "plain": 5},
        tasks=loop,
    ),
    Work(
        name="facts",
        title="gather_facts",
        unit="task",
        counts={"fast": 4, "pipelined": 2, "plain": 2},
        tasks=repeated("ansible.builtin.gather_facts", lambda i, run: {}),
        rounds=2,
    ),
    Work(
        name="cold",
        title="first task (ping) in a container that nobody has entered",
        unit="play",
        counts={"fast": 1, "pipelined": 1, "plain": 1},
        tasks=repeated("ansible.builtin.ping", lambda i, run: {}),
        fresh=True,
        rounds=3,
    ),
    Work(
        name="adhoc",
        title="ansible -m ping, by hand",
        unit="play",
        counts={"fast": 1, "pipelined": 1, "plain": 1},
        tasks=lambda count, run: [],
        how="adhoc",
        rounds=3,
    ),
    Work(
        name="again",
        title="ansible -m ping once more, warm: within a minute of the one before",
        unit="play",
        counts={"fast": 1, "pipelined": 1, "plain": 1},
        tasks=lambda count, run: [],
        how="adhoc",
        warm=True,
        rounds=3,
    ),
    Work(
        name="role",
        title="a role of 40 tasks: configuration, users, cron, a service",
        unit="play",
        counts={"fast": 1, "pipelined": 1, "plain": 1},
        tasks=role,
        fresh=True,
        rounds=1,
    ),
    Work(
        name="site",
        title="examples/site.yml: three containers, 35 tasks, 20 MiB",
        unit="play",
        counts={"fast": 1, "pipelined": 1, "plain": 1},
        tasks=lambda count, run: [],
        how="site",
        rounds=1,
    ),
]
# Rows whose figures include Ansible's start and are not divided by anything.
WHOLE = frozenset({"play"})
TRANSFERS = ("put", "fetch")
MIB = 1 << 20


@dataclass(frozen=True)
class Plan:
    """How much of it: `full`, `short` for what matters most, `quick` for a look, `tiny` for tests.

    `rounds` has how many by the pace of a contender; a pace that is missing takes no part. `sizes`
    are transfers in MiB with how many of each; `scale` has pairs of targets and forks.
    """

    name: str
    rounds: dict[str, int]
    share: float
    leave_out: frozenset[str]
    sizes: dict[int, int]
    transfer_rounds: int
    scale: tuple[tuple[int, int], ...]
    scale_rounds: int
    forked: int  # workers per contender that the cost of a worker is taken from
    kept: tuple[int, ...]  # agents that a broker is measured with
    long: int  # tasks in a row after which nothing may have grown


PLANS = {
    "full": Plan(
        name="full",
        rounds={"fast": 4, "pipelined": 2, "plain": 2},
        share=1.0,
        leave_out=frozenset(),
        sizes={1: 5, 100: 2, 1024: 1},
        transfer_rounds=1,
        scale=(
            *((1, 5), (10, 5), (10, 20), (50, 5), (50, 20), (50, 50)),
            *((200, 20), (200, 50)),
        ),
        scale_rounds=1,
        forked=30,
        kept=(1, 50, 200),
        long=10_000,
    ),
    "short": Plan(
        name="short",
        rounds={"fast": 2, "pipelined": 2, "plain": 1},
        share=1.0,
        leave_out=frozenset({"template", "stat", "facts", "role", "site"}),
        sizes={1: 3, 100: 1},
        transfer_rounds=1,
        scale=((1, 5), (50, 20)),
        scale_rounds=1,
        forked=20,
        kept=(1, 50, 200),
        long=3_000,
    ),
    "quick": Plan(
        name="quick",
        rounds={"fast": 1, "pipelined": 1},
        share=0.5,
        leave_out=frozenset({"template", "stat", "cold", "role", "site"}),
        sizes={1: 3, 100: 1},
        transfer_rounds=1,
        scale=((1, 5), (10, 5), (10, 20)),
        scale_rounds=1,
        forked=10,
        kept=(1, 10),
        long=1_000,
    ),
    "tiny": Plan(
        name="tiny",
        rounds={"fast": 1, "pipelined": 1, "plain": 1},
        share=0.03,
        leave_out=frozenset(),
        sizes={1: 1},
        transfer_rounds=1,
        scale=((1, 5), (3, 5)),
        scale_rounds=1,
        forked=3,
        kept=(1, 3),
        long=100,
    ),
}
