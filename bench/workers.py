"""What a worker pays before its first byte, for each plugin, without a play around it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import environments
from contenders import Contender
from engines import CONTAINER
from session import Bench, say
from tools import environment, variables

SCRIPT = Path(__file__).with_name("worker_cost.py")
SECONDS = 120


def run(bench: Bench) -> None:
    """Measure every plugin that a worker loads; warm, where something is kept."""
    say("what a worker pays before its first byte")
    seen = set()
    for contender in bench.taking_part("workers", ("ansible",)):
        plugin = (contender.environment, contender.connection)
        if plugin in seen:  # pipelining makes no difference here
            continue
        seen.add(plugin)
        if contender.environment == "mitogen":
            reason = "its connection is made by a process of its own, not by the worker"
            bench.results.add("workers", "steps", contender.name, 0, error=reason)
            continue
        one(bench, contender)
    bench.results.write()


def one(bench: Bench, contender: Contender) -> None:
    """Measure one plugin."""
    engine = bench.engine(contender)
    cwd = bench.place.directory(contender, "worker")
    argv = [
        str(environments.python(contender.environment)),
        str(SCRIPT),
        contender.connection,
        json.dumps(variables(contender, engine, CONTAINER)),
        str(bench.plan.forked),
    ]
    if contender.ours:
        argv.append("ansible_gangway._core")
    if contender.keeps:
        argv.append("broker")
    env = environment(contender, engine, cwd, bench.place)
    if contender.keeps:  # the first worker, which is not counted, starts it
        bench.end_broker(contender)
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=env,
        cwd=cwd,
        timeout=SECONDS,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        say(f"  {contender.name}: {reason}")
        bench.results.add("workers", "steps", contender.name, 0, error=reason)
        return
    for step, seconds in json.loads(done.stdout.splitlines()[-1]).items():
        bench.results.add("workers", step, contender.name, 0, seconds=seconds)
