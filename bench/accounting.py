"""Whose CPU time it was, from /proc and the control groups: controller, engine or target.

Seconds throughout. Nothing here runs while a contender is timed: two looks, before and after.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Target:
    """A container as the kernel sees it: its PID namespace and the file of its CPU time."""

    namespace: str
    cpu_file: Path


@dataclass(frozen=True)
class Look:
    """What the clocks showed at one moment."""

    machine: float
    forks: int
    # (pid, start): own seconds and those of the children that it has waited for.
    daemons: dict[tuple[int, str], tuple[float, float]]
    targets: float
    # The part of `targets` of processes that are alive: nobody has waited for them yet.
    alive: float


def look(daemons: Iterable[int], targets: Iterable[Target]) -> Look:
    """Read all clocks."""
    machine, forks = machine_clock()
    clocks = {}
    for pid in daemons:
        with suppress(OSError):
            start, own, children = process_clock(pid)
            clocks[pid, start] = (own, children)
    targets = list(targets)
    namespaces = {target.namespace for target in targets}
    alive = 0.0
    for pid in pids_in(namespaces) if namespaces else ():
        with suppress(OSError):
            _, own, children = process_clock(pid)
            alive += own + children
    used = sum(target_clock(target) for target in targets)
    return Look(machine, forks, clocks, used, alive)


@dataclass(frozen=True)
class Spent:
    """Seconds of CPU between two looks, and processes and threads started."""

    machine: float
    forks: int
    daemons: float
    target: float
    # Of `target`, what its processes' parents outside have waited for, so count as their own.
    target_ended: float


def spent(before: Look, after: Look) -> Spent:
    """Return what was spent between two looks; a daemon that came in between counts in full."""
    daemons = 0.0
    for key, (own, children) in after.daemons.items():
        own_before, children_before = before.daemons.get(key, (0.0, 0.0))
        daemons += own - own_before + children - children_before
    target = after.targets - before.targets
    ended = max(0.0, target - (after.alive - before.alive))
    return Spent(
        machine=after.machine - before.machine,
        forks=after.forks - before.forks,
        daemons=daemons,
        target=target,
        target_ended=ended,
    )


def machine_clock() -> tuple[float, int]:
    """Return the busy time of all CPUs since boot, and how many tasks were ever started."""
    lines = Path("/proc/stat").read_text().splitlines()
    user, nice, system, _idle, _iowait, irq, softirq = map(int, lines[0].split()[1:8])
    forks = next(int(line.split()[1]) for line in lines if line.startswith("processes "))
    return (user + nice + system + irq + softirq) * TICK, forks


def process_clock(pid: int) -> tuple[str, float, float]:
    """Return a process's start, its CPU time, and that of the children it has waited for."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text.rpartition(")")[2].split()  # proc(5): the name before it may hold anything
    utime, stime, cutime, cstime = (int(field) * TICK for field in fields[11:15])
    return fields[19], utime + stime, cutime + cstime


def target_clock(target: Target) -> float:
    """Return the CPU time of a container since it was made, 0 when it is gone."""
    try:
        text = target.cpu_file.read_text()
    except OSError:
        return 0.0
    if target.cpu_file.name == "cpuacct.usage":
        return int(text) / 1e9
    fields = dict(line.split() for line in text.splitlines())
    return int(fields["usage_usec"]) / 1e6


def pids() -> Iterator[int]:
    """Yield every process."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def pids_in(namespaces: set[str]) -> Iterator[int]:
    """Yield the processes in these PID namespaces, named as the link in /proc has them."""
    for pid in pids():
        with suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/pid") in namespaces:
                yield pid


def find_target(namespace: str) -> Target:
    """Return the container that has this PID namespace; LookupError when there is none."""
    for pid in pids_in({namespace}):
        with suppress(OSError):
            return Target(namespace, cpu_file(Path(f"/proc/{pid}/cgroup").read_text()))
    raise LookupError(f"no process is in the container's PID namespace {namespace}")


def cpu_file(groups: str) -> Path:
    """Return the file with the CPU time of these control groups (/proc/PID/cgroup): v1 or v2."""
    unified = None
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpuacct" in controllers.split(","):
            return mount_of("cgroup", "cpuacct") / path.lstrip("/") / "cpuacct.usage"
        if not controllers:
            unified = path
    if unified is None:
        raise LookupError("the container is in no control group that counts CPU time")
    return mount_of("cgroup2", "") / unified.lstrip("/") / "cpu.stat"


def mount_of(kind: str, option: str) -> Path:
    """Return where a control group hierarchy is mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, mounted, options = line.split()[:4]
        if mounted == kind and (not option or option in options.split(",")):
            return Path(point)
    raise LookupError(f"no {kind} with {option or 'the unified hierarchy'} is mounted")


def daemons_of(state: Path, programs: Iterable[str]) -> list[int]:
    """Return the processes of `programs` that name a path below `state`: a bed's daemons."""
    found = []
    for pid in pids():
        with suppress(OSError):
            program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
            if program in programs:
                command = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes())
                if f"{state}/" in command:
                    found.append(pid)
    return found


def living() -> dict[tuple[int, str], str]:
    """Return {(pid, start): name} of everything that runs."""
    found = {}
    for pid in pids():
        with suppress(OSError):
            text = Path(f"/proc/{pid}/stat").read_text()
            start = text.rpartition(")")[2].split()[19]
            found[pid, start] = text[text.index("(") + 1 : text.rindex(")")]
    return found


def parent_of(pid: int) -> int:
    """Return the parent of a process, 0 if it is gone."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def runs_from(pid: int, directory: Path) -> bool:
    """Tell whether a process's program or first argument lies below a directory."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return any(os.fsdecode(word).startswith(f"{directory}/") for word in words[:2])
    return False


def descends(pid: int, known: Callable[[int], bool]) -> bool:
    """Tell whether a process or one of its ancestors is `known`."""
    while pid > 1:
        if known(pid):
            return True
        pid = parent_of(pid)
    return False


def left_behind(directory: Path, namespaces: set[str]) -> list[int]:
    """Return a broker that runs from `directory` and the exec streams that it keeps.

    What it started inside a container is in one of these PID namespaces, and not the controller's.
    """
    found = []
    for pid in pids():
        with suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/pid") in namespaces:
                continue
            if descends(pid, lambda p: runs_from(p, directory)):
                found.append(pid)
    return found


def clocks(pids: Iterable[int]) -> dict[tuple[int, str], float]:
    """Return the seconds of CPU of processes, with those of the children they waited for."""
    found = {}
    for pid in pids:
        with suppress(OSError):
            start, own, children = process_clock(pid)
            found[pid, start] = own + children
    return found


def difference(before: dict[tuple[int, str], float], after: dict[tuple[int, str], float]) -> float:
    """Return what clocks went on by; one that came in between counts in full."""
    return sum(seconds - before.get(key, 0.0) for key, seconds in after.items())


def memory(pid: int) -> dict[str, int]:
    """Return KiB of a process: `peak` and `rss`, its share `pss` of what is shared."""
    result = {"peak": 0, "rss": 0, "pss": 0}
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                result["peak"] = int(line.split()[1])
            if line.startswith("VmRSS:"):
                result["rss"] = int(line.split()[1])
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                result["pss"] = int(line.split()[1])
    return result
