"""Runs one command and says what it cost."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import accounting
from accounting import Target
from engines import Engine
from taskstats import Listener, Program, descendants, programs
from tools import Job

RUN_SECONDS = 600
MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
SAID = 2000  # bytes of a failed run's last words


class Failed(Exception):
    """The command did not do it; the text says why, in its own words."""


def open_listener() -> tuple[Listener | None, str]:
    """Return the listener for processes that end, or None and the reason."""
    try:
        return Listener(), ""
    except OSError as error:
        return None, f"the kernel gives no process statistics here ({error.strerror or error})"


class Meter:
    """Measures jobs on one engine (None: on this machine alone)."""

    def __init__(self, engine: Engine | None, listener: Listener | None) -> None:
        self.engine = engine
        self.listener = listener

    def measure(
        self, job: Job, targets: list[Target], stream: str = "", seconds: float = RUN_SECONDS
    ) -> dict[str, Any]:
        """Run the job and return its figures; raise Failed with its last words.

        Seconds, KiB and bytes. `stream` names the program that carries the exec stream, `seconds`
        is what the job may take.
        """
        daemons = self.engine.daemon_pids() if self.engine else []
        known = accounting.living()
        namespaces = {target.namespace for target in targets}
        kept = accounting.clocks(accounting.left_behind(job.programs, namespaces))
        if self.listener:
            self.listener.take()
            self.listener.lost = False
        before = accounting.look(daemons, targets)
        pid, status, wall, cpu = self._run(job, seconds)
        after = accounting.look(daemons, targets)
        left = accounting.clocks(accounting.left_behind(job.programs, namespaces))
        cpu += accounting.difference(kept, left)
        if status != 0:
            raise Failed(last_words(job, status))
        spent = accounting.spent(before, after)
        ended = self._ended({pid, *daemons}) if self.listener else {}
        figures: dict[str, Any] = {
            "wall": wall,
            "cpu": self._shares(cpu, spent, ended),
            "started": spent.forks,
            "staying": self._staying(known, {pid, *daemons}, job.programs),
            **own_figures(job),
        }
        if self.listener and not self.listener.lost:
            figures["programs"] = {name: asdict(ended[name]) for name in sorted(ended)}
            figures["processes"] = sum(program.count for program in ended.values())
            if stream:
                figures["stream"] = stream_bytes(ended.get(stream, Program()))
        return figures

    def _ended(self, roots: set[int]) -> dict[str, Program]:
        """Return the programs of this run that ended; others on this machine are left out."""
        assert self.listener
        helpers = self.engine.helpers if self.engine else ()
        ours = descendants(self.listener.take(), roots, helpers, accounting.parent_of)
        return programs(ours)

    def _run(self, job: Job, seconds: float) -> tuple[int, int, float, float]:
        """Return pid and exit status, wall seconds, and CPU with what the command waited for."""
        with (job.cwd / "output").open("wb") as output:
            start = time.perf_counter()
            process = subprocess.Popen(
                job.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=job.cwd,
                env=job.env,
                start_new_session=True,
            )
            try:
                # Who wants more than half of the machine's memory would slow down everybody else.
                resource.prlimit(process.pid, resource.RLIMIT_AS, (MEMORY, MEMORY))
                self._wait(process.pid, start, seconds)
            except BaseException:
                end(process.pid)
                os.waitpid(process.pid, 0)
                process.returncode = -signal.SIGKILL
                raise
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.pid, process.returncode, wall, usage.ru_utime + usage.ru_stime

    def _wait(self, pid: int, start: float, seconds: float) -> None:
        """Wait until the process has ended, and take over the kernel's records meanwhile."""
        descriptor = os.pidfd_open(pid)
        try:
            while not select.select([descriptor], [], [], 0.5)[0]:
                if self.listener:
                    self.listener.read()
                if time.perf_counter() > start + seconds:
                    raise Failed(f"it did not end within {seconds:g} s")
        finally:
            os.close(descriptor)

    def _shares(
        self, cpu: float, spent: accounting.Spent, ended: dict[str, Program]
    ) -> dict[str, float]:
        """Divide CPU seconds: who waits for a process is charged for it, and that is taken back."""
        engine = self.engine
        shares = {"controller": cpu, "machine": spent.machine}
        if engine is None:
            return shares
        shares["target"] = spent.target
        daemons = spent.daemons
        if engine.execs_are_children:
            shares["controller"] = max(0.0, cpu - spent.target_ended)
        elif engine.daemons:
            daemons = max(0.0, daemons - spent.target_ended)
        daemons += sum(ended[name].cpu for name in engine.helpers if name in ended)
        if engine.daemons or (engine.helpers and self.listener):
            shares["engine"] = daemons
        return shares

    def _staying(
        self, known: dict[tuple[int, str], str], roots: set[int], directory: Path
    ) -> list[dict[str, Any]]:
        """Return what still runs that did not run before: agents, brokers, and leftovers.

        A broker has no parent any more, but its program is one of the contender's `directory`.
        """
        found = []
        for (pid, start), name in accounting.living().items():
            if (pid, start) in known:
                continue
            if accounting.descends(pid, lambda p: p in roots or accounting.runs_from(p, directory)):
                found.append({"name": name, **accounting.memory(pid)})
        return found


def stream_bytes(program: Program) -> int:
    """Return the bytes that passed through an engine's program: each is read once, written once."""
    return (program.read + program.written) // 2


def own_figures(job: Job) -> dict[str, Any]:
    """Return what the callback plugin wrote."""
    try:
        return json.loads(job.figures.read_text())
    except (OSError, ValueError):
        return {}


def last_words(job: Job, status: int) -> str:
    """Return the part of a failed run's output that says why, on one line."""
    text = (job.cwd / "output").read_text(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marks = ("fatal:", "ERROR", "Error", "UNREACHABLE", "error")
    telling = [line for line in lines if any(mark in line for mark in marks)]
    said = (telling or lines or ["nothing"])[0]
    return f"exit status {status}: {said[:SAID]}"


def end(pid: int) -> None:
    """End the process group of `pid`, its leader first asked and then killed."""
    for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            return
        stop = time.monotonic() + patience
        while time.monotonic() < stop and Path(f"/proc/{pid}").exists():
            if is_zombie(pid):
                return
            time.sleep(0.05)


def is_zombie(pid: int) -> bool:
    """Tell whether a process has ended and only waits to be waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
