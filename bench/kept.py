"""What is kept between tasks, and whether it grows: a broker, and processes in a container."""

from __future__ import annotations

import subprocess
import time
from statistics import median
from typing import Any

import accounting
import broker
from contenders import Contender
from engines import CONTAINER, CannotStart, Runc
from measure import Failed, end, last_words
from session import Bench, say
from tools import Job, play
from works import DIRECTORY

SECONDS = 900
PAUSE = 4.0  # in which a play does nothing and is looked at
LOOK = 0.25
RAW = {"ansible.builtin.raw": "true"}


def run(bench: Bench) -> None:
    """Take all samples; what fails is named and the rest goes on."""
    who = [c for c in bench.taking_part("kept", ("ansible",)) if c.engine in bench.engines]
    ours = [c for c in who if c.keeps]
    for contender in ours:
        if contender.engine == "runc":  # the cheapest to have many of
            say("memory of a broker with many agents")
            one(bench, contender, "broker", lambda c=contender: many(bench, c))
    say("memory in a container")
    for contender in [*ours, *(c for c in who if c.pace == "fast" and not c.ours)]:
        one(bench, contender, "target", lambda c=contender: [in_target(bench, c)])
    for contender in ours[:1]:
        say(f"{bench.plan.long} commands in a row")
        one(bench, contender, "growth", lambda c=contender: growth(bench, c))
    bench.results.write()


def one(bench: Bench, contender: Contender, name: str, measure: Any) -> None:
    """Add what `measure` returns: {work: figures}."""
    try:
        for figures in measure():
            bench.results.add("kept", figures.pop("work", name), contender.name, 0, **figures)
    except (Failed, CannotStart, broker.NoBroker) as error:
        say(f"  {contender.name}: {error}")
        bench.results.add("kept", name, contender.name, 0, error=str(error))


def many(bench: Bench, contender: Contender) -> list[dict[str, Any]]:
    """Return the memory of a broker with each number of agents: one in each container."""
    engine = bench.engines["runc"]
    assert isinstance(engine, Runc)
    names = [f"{CONTAINER}-{number}" for number in range(max(bench.plan.kept))]
    env, found = bench.environment(contender), []
    try:
        engine.make_many(names)
        for count in bench.plan.kept:
            bench.end_broker(contender)
            job = play(
                contender, engine, bench.place, "kept", [RAW], containers=names[:count], forks=20
            )
            bench.measure(contender, job, [])
            found.append({"work": f"broker {count}", **broker_now(env)})
    finally:
        engine.remove_many([name for name in names if name in engine.made])
    return found


def broker_now(env: dict[str, str]) -> dict[str, Any]:
    """Return what a broker has now: KiB resident, and how many agents."""
    status = broker.status(env)
    return {"rss": accounting.memory(status["pid"])["rss"], "agents": len(status["agents"])}


def in_target(bench: Bench, contender: Contender) -> dict[str, Any]:
    """Return the memory of what a play keeps in its container, after a command and two modules."""
    content = {"content": f"{time.time()}\n", "dest": f"{DIRECTORY}/kept"}
    tasks = [RAW, {"ansible.builtin.ping": {}}, {"ansible.builtin.copy": content}]
    tasks.append({"ansible.builtin.pause": {"seconds": int(PAUSE)}})
    engine = bench.engines[contender.engine]
    if contender.keeps:
        bench.end_broker(contender)
    namespaces = {bench.targets[contender.engine][0].namespace}
    before = set(accounting.pids_in(namespaces))
    looks = watch(
        play(contender, engine, bench.place, "kept", tasks), lambda: look(namespaces, before)
    )
    while looks and not looks[-1]["processes"]:  # who keeps nothing may take long to end
        looks.pop()
    last = looks[-8:-1]  # while it paused
    if not last:
        raise Failed("it keeps no process in the container")
    return {
        "pss": median(seen["pss"] for seen in last),
        "processes": median(seen["processes"] for seen in last),
    }


def look(namespaces: set[str], before: set[int]) -> dict[str, int]:
    """Return how many processes are in the container that were not, and their KiB (PSS)."""
    found = [pid for pid in accounting.pids_in(namespaces) if pid not in before]
    return {"pss": sum(accounting.memory(pid)["pss"] for pid in found), "processes": len(found)}


def watch(job: Job, look: Any) -> list[dict[str, int]]:
    """Run a job, and look again and again until it has ended."""
    with (job.cwd / "output").open("wb") as output:
        process = subprocess.Popen(
            job.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=job.cwd,
            env=job.env,
            start_new_session=True,
        )
    stop, looks = time.monotonic() + SECONDS, []
    try:
        while process.poll() is None:
            if time.monotonic() > stop:
                raise Failed(f"it did not end within {SECONDS} s")
            looks.append(look())
            time.sleep(LOOK)
    except BaseException:
        end(process.pid)
        process.wait()
        raise
    if process.returncode:
        raise Failed(last_words(job, process.returncode))
    return looks


def growth(bench: Bench, contender: Contender) -> list[dict[str, Any]]:
    """Return the memory of broker and agent after a tenth of many commands, and after all.

    Ten to a task: so there are as many workers as tasks, and ten requests from each.
    """
    engine = bench.engines[contender.engine]
    env = bench.environment(contender)
    namespaces = {bench.targets[contender.engine][0].namespace}
    bench.end_broker(contender)
    before = set(accounting.pids_in(namespaces))
    total, found = bench.plan.long, []
    for part in (total // 10, total - total // 10):
        loop = "{{ range(10) | list }}"
        tasks = [{**RAW, "loop": loop} for _ in range(part // 10)]
        job = play(contender, engine, bench.place, "kept", tasks)
        figures = bench.measure(contender, job, seconds=SECONDS)
        done = part + (found[0]["commands"] if found else 0)
        found.append(
            {
                "work": f"growth {done}",
                "commands": done,
                "wall": figures["wall"],
                **broker_now(env),
                **look(namespaces, before),
            }
        )
    return found
