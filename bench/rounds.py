"""The rows of the table: every contender in turn does the same work, again and again.

One round after the other, and within a round one kind of work after the other, so that whatever
slows the machine down for a while meets all contenders alike. Ratios are taken within a round.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import tools
from broker import NoBroker
from contenders import Contender
from engines import CONTAINER, CannotStart
from measure import Failed
from session import Bench, say
from works import WORKS, Work

FRESH = f"{CONTAINER}-fresh"


def run(bench: Bench, names: list[str], rounds: int | None = None) -> None:
    """Do the plan's rounds, of the works whose names are given or of all."""
    works = [w for w in WORKS if (w.name in names if names else w.name not in bench.plan.leave_out)]
    if works and works[0] is not WORKS[0]:
        works = [WORKS[0], *works]  # the start-up is taken off all others
    tired: set[tuple[str, str]] = set()  # what failed is not tried again
    total = rounds or max(bench.plan.rounds.values())
    for turn in range(total):
        for work in works:
            if turn >= work.rounds:
                continue
            say(f"round {turn + 1} of {total}: {work.title}")
            for contender in order(bench, work, turn, rounds):
                pair = (work.name, contender.name)
                if pair not in tired and not once(bench, work, contender, turn):
                    tired.add(pair)
            bench.results.write()


def order(bench: Bench, work: Work, turn: int, rounds: int | None = None) -> list[Contender]:
    """Return who does this work; another one begins in each round."""
    found = bench.taking_part(work.name, ("ansible", "pyinfra"))
    if rounds is None:
        found = [c for c in found if turn < bench.plan.rounds[c.pace]]
    if work.how == "site":  # the example knows no other engines
        found = [c for c in found if c.engine in ("runc", "docker", "kubernetes")]
    shift = turn * 5 % max(1, len(found))
    return found[shift:] + found[:shift]


def once(bench: Bench, work: Work, contender: Contender, turn: int) -> bool:
    """Let a contender do a work once; tell whether it could."""
    count = work.count(contender.pace, bench.plan.share)
    try:
        figures = figures_of(bench, work, contender, count, f"{turn}-{len(bench.results.samples)}")
    except (Failed, CannotStart, NoBroker, LookupError) as error:
        say(f"  {contender.name}: {error}")
        bench.results.add("rows", work.name, contender.name, turn, count=count, error=str(error))
        return False
    bench.results.add("rows", work.name, contender.name, turn, count=count, **figures)
    return True


def figures_of(
    bench: Bench, work: Work, contender: Contender, count: int, name: str
) -> dict[str, Any]:
    """Return the figures of one run, which is called `name` in its files."""
    engine = bench.engine(contender)
    container, targets = CONTAINER, None
    with ExitStack() as stack:
        if work.fresh and engine:
            container = FRESH
            stack.callback(engine.remove, FRESH)
            engine.make(FRESH)
            targets = [engine.target(FRESH)]
        if contender.keeps:
            bench.end_broker(contender)
        job = tools.job(contender, engine, bench.place, work, count, name, container)
        if work.warm:
            bench.measure(contender, job, targets)
        if work.how == "site":
            assert engine
            tools.stop_site(engine, job)
            stack.callback(tools.stop_site, engine, job)
            targets = []
        figures = bench.measure(contender, job, targets)
        if work.how == "site":
            # Its containers start on the way, so that what they used cannot be told apart.
            figures["cpu"] = {"machine": figures["cpu"]["machine"]}
        return figures
