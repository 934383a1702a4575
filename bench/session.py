"""A run of the benchmark: what it needs is made ready here, and taken away again."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import broker
import environments
from accounting import Target
from contenders import ENVIRONMENTS, GANGWAY, PLAIN, Contender
from engines import CONTAINER, ENGINES, ROOT, CannotStart, Engine
from measure import RUN_SECONDS, Failed, Meter, open_listener
from results import Results, machine, today
from tools import KEPT, Job, Place, environment, play, pyinfra
from works import DIRECTORY, WHOLE, WORKS, Plan


class Bench:
    """Contenders that can take part, their engines and environments, and the results so far."""

    def __init__(
        self, plan: Plan, contenders: list[Contender], wheel: Path | None, out: Path
    ) -> None:
        self.plan = plan
        self.contenders = [c for c in contenders if c.pace in plan.rounds]
        self.wheel = wheel
        self.out = out
        self.results = Results({"plan": plan.name}, out / "results.json")
        self.engines: dict[str, Engine] = {}
        self.targets: dict[str, list[Target]] = {}
        self.meters: dict[str, Meter] = {}
        self._stack = ExitStack()
        runtime = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="gangway-bench-"))
        self.place = Place(out / "runs", out / "runs" / "facts.json", Path(runtime))

    def __enter__(self) -> Bench:
        self._stack.enter_context(alone())
        self.out.mkdir(parents=True, exist_ok=True)
        self._stack.callback(shutil.rmtree, self.place.base, ignore_errors=True)
        try:
            self._prepare()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _prepare(self) -> None:
        wanted = {contender.environment for contender in self.contenders}
        ready = {name for name in ENVIRONMENTS if name in wanted and self._install(name)}
        if PLAIN in ready:
            self._facts()
        elif PLAIN in wanted:  # nothing to compare with: neither a floor nor Ansible's start
            raise SystemExit(f"bench: {next(iter(self.results.failures.values()))}")
        for bed in sorted({c.engine for c in self.contenders if c.environment in ready}):
            self._start(bed)
        for contender in self.contenders:
            if contender.keeps and contender.engine in self.engines and GANGWAY in ready:
                self._stack.callback(self.end_broker, contender)  # before its containers go
                break
        listener, reason = open_listener()
        if listener:
            self._stack.callback(listener.close)
        else:
            say(f"{reason}: no counts of processes, their memory and bytes")
        for name, engine in [("", None), *self.engines.items()]:
            self.meters[name] = Meter(engine, listener)
        self.results.meta |= {
            "date": today(),
            "machine": machine(),
            "contenders": {c.name: description(c) for c in self.contenders},
            "works": {
                w.name: {"title": w.title, "unit": w.unit, "whole": w.unit in WHOLE} for w in WORKS
            },
            "versions": {name: environments.versions(name) for name in sorted(ready)}
            | {"engines": engine_versions(self.engines)},
        }
        self.contenders = [c for c in self.contenders if self._fits(c)]
        self.results.write()

    def _install(self, name: str) -> bool:
        say(f"environment {name}")
        try:
            environments.prepare(name, self.wheel)
        except environments.CannotInstall as error:
            for contender in self.contenders:
                if contender.environment == name:
                    self.fail(contender, str(error))
            return False
        return True

    def _facts(self) -> None:
        """Write down this machine's facts: what the oracle answers when it is asked for some.

        The caller's environment, which may hold secrets, is no part of them.
        """
        self.place.base.mkdir(exist_ok=True)
        env = {key: os.environ[key] for key in KEPT if key in os.environ}
        argv = [str(environments.python(PLAIN)), "-m", "ansible.modules.setup"]
        with self.place.facts.open("wb") as file:
            question = b'{"ANSIBLE_MODULE_ARGS": {}}'
            subprocess.run(argv, input=question, stdout=file, check=True, timeout=120, env=env)

    def _start(self, bed: str) -> None:
        if not bed:
            Path(DIRECTORY).mkdir(exist_ok=True)  # what `local` writes
            self._stack.callback(shutil.rmtree, DIRECTORY, ignore_errors=True)
            return
        say(f"engine {bed}")
        try:
            engine = ENGINES[bed]()
            self._stack.callback(engine.close)
            engine.make()
            engine.run(f"mkdir {DIRECTORY}")
            self.targets[bed] = [engine.target()]
            self.engines[bed] = engine
        except (CannotStart, LookupError, OSError) as error:
            for contender in self.contenders:
                if contender.engine == bed:
                    self.fail(contender, str(error))

    def _fits(self, contender: Contender) -> bool:
        """Try the contender once, untimed: that also compiles what it imports."""
        if contender.name in self.results.failures:
            return False
        say(f"trying {contender.name}")
        try:
            self.try_once(contender)
        except Failed as error:
            self.fail(contender, str(error))
            return False
        return True

    def try_once(self, contender: Contender) -> None:
        """Run one command and one module; raise Failed."""
        if contender.plugin:
            found = environments.site_packages(contender.environment).glob(
                f"ansible_collections/gangway/exec/plugins/connection/{contender.plugin}"
            )
            if not list(found):
                raise Failed(f"this build has no connection plugin {contender.plugin}")
        self.measure(contender, self.trial(contender))

    def trial(self, contender: Contender) -> Job:
        """Return the job that every contender must be able to do."""
        engine = self.engine(contender)
        if contender.tool == "pyinfra":
            assert engine
            return pyinfra(contender, engine, self.place, "raw", 1, "try")
        if contender.tool == "cli":
            assert engine
            cwd = self.place.directory(contender, "try")
            argv = engine.exec(CONTAINER, "/bin/sh", "-c", "true")
            return Job(argv, engine.env, cwd, cwd)
        tasks: list[dict[str, Any]] = [
            {"ansible.builtin.raw": "true"},
            {"ansible.builtin.ping": {}},
        ]
        return play(contender, engine, self.place, "try", tasks)

    def engine(self, contender: Contender) -> Engine | None:
        """Return a contender's engine, None where it needs none."""
        return self.engines[contender.engine] if contender.engine else None

    def measure(
        self,
        contender: Contender,
        job: Job,
        targets: list[Target] | None = None,
        seconds: float = RUN_SECONDS,
    ) -> dict[str, Any]:
        """Time a job; `targets` where they are not the usual container."""
        if targets is None:
            targets = self.targets.get(contender.engine, [])
        return self.meters[contender.engine].measure(job, targets, contender.stream, seconds)

    def end_broker(self, contender: Contender) -> None:
        """End the broker of a contender and its agents, so that what follows begins without."""
        broker.stop(self.environment(contender))

    def environment(self, contender: Contender) -> dict[str, str]:
        """Return the environment of a contender's programs outside of a run."""
        engine = self.engine(contender)
        return environment(contender, engine, self.place.base, self.place)

    def fail(self, contender: Contender, reason: str) -> None:
        """Leave a contender out of all that follows, and say why."""
        if contender.name not in self.results.failures:  # the first reason is the one to tell
            say(f"{contender.name} does not take part: {reason}")
            self.results.failures[contender.name] = reason

    def taking_part(self, stage_or_work: str, tools: tuple[str, ...]) -> list[Contender]:
        """Return the contenders that do this."""
        return [c for c in self.contenders if c.tool in tools and stage_or_work not in c.leave_out]


@contextmanager
def alone() -> Iterator[None]:
    """Hold the machine-wide lock: two runs would measure each other."""
    with (environments.cache() / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit("bench: another run is under way") from None
        yield


def newest_wheel() -> Path | None:
    """Return what `make wheel` built."""
    wheels = sorted((ROOT / "dist").glob("ansible_gangway-*.whl"), key=lambda w: w.stat().st_mtime)
    return wheels[-1] if wheels else None


def description(contender: Contender) -> dict[str, Any]:
    """Return what a report has to know of a contender."""
    keys = ("engine", "tool", "pace", "stream", "ours", "direct")
    return {key: getattr(contender, key) for key in keys}


def engine_versions(engines: dict[str, Engine]) -> dict[str, str]:
    """Ask each engine's program for its version."""
    questions = {
        "runc": ["runc", "--version"],
        "docker": ["docker", "version", "--format", "{{.Client.Version}} with {{.Server.Version}}"],
        "podman": ["podman", "--version"],
        "kubernetes": ["kubectl", "version", "--output=json"],
    }
    found = {}
    for name, engine in engines.items():
        done = subprocess.run(
            questions[name],
            env=engine.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        line = (done.stdout.splitlines() or ["?"])[0].split("version ")[-1]
        if name == "kubernetes":
            line = json.loads(done.stdout)["serverVersion"]["gitVersion"]
        found[name] = line
    return found


START = time.monotonic()


def say(line: str) -> None:
    """Tell the user how far it is."""
    minutes, seconds = divmod(int(time.monotonic() - START), 60)
    print(f"[{minutes:2}:{seconds:02}] {line}", file=sys.stderr, flush=True)
