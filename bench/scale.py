"""Many containers at once: runc's, because they are the cheapest to have many of."""

from __future__ import annotations

from broker import NoBroker
from contenders import Contender
from engines import CONTAINER, CannotStart, Runc
from measure import Failed
from session import Bench, say
from tools import play

# One command and one module for every host.
TASKS = [{"ansible.builtin.raw": "true"}, {"ansible.builtin.ping": {}}]


def run(bench: Bench) -> None:
    """Run the same two tasks on more and more containers, with few and with many workers."""
    who = [c for c in bench.taking_part("scale", ("ansible",)) if c.engine in ("runc", "")]
    engine = bench.engines.get("runc")
    if not isinstance(engine, Runc):
        say("no scaling: it needs runc")
        return
    most = max(targets for targets, _ in bench.plan.scale)
    names = [f"{CONTAINER}-{number}" for number in range(most)]
    say(f"making {most} containers")
    try:
        engine.make_many(names)
        found = [engine.target(name) for name in names]
        for turn in range(bench.plan.scale_rounds):
            for targets, forks in bench.plan.scale:
                say(f"{targets} containers, {forks} forks")
                for contender in who:
                    job = play(
                        contender,
                        bench.engine(contender),
                        bench.place,
                        "scale",
                        TASKS,
                        containers=names[:targets],
                        forks=forks,
                    )
                    row = f"{targets} {forks}"
                    used = found[:targets] if contender.engine else []
                    add(bench, contender, row, turn, job, used)
    except CannotStart as error:
        say(f"no scaling: {error}")
    finally:
        engine.remove_many([name for name in names if name in engine.made])
    bench.results.write()


def add(bench: Bench, contender: Contender, row: str, turn: int, job: object, used: list) -> None:
    """Take one sample."""
    try:
        if contender.keeps:
            bench.end_broker(contender)
        figures = bench.measure(contender, job, used)
    except (Failed, NoBroker) as error:
        say(f"  {contender.name}: {error}")
        bench.results.add("scale", row, contender.name, turn, error=str(error))
        return
    bench.results.add("scale", row, contender.name, turn, **figures)
