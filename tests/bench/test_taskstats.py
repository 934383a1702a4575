"""bench/taskstats.py: records of the kernel, made here as linux/taskstats.h lays them out."""

from __future__ import annotations

import os
import struct
import subprocess
import sys

import pytest

import taskstats
from support.skip import cannot_run
from taskstats import Ended


def record(pid: int, parent: int, name: str, **figures: int) -> bytes:
    """Return the datagram for the end of one thread."""
    stats = bytearray(400)
    struct.pack_into("=H", stats, 0, figures.pop("version", 14))
    encoded = name.encode()
    stats[taskstats.COMM : taskstats.COMM + len(encoded)] = encoded
    struct.pack_into("=I", stats, taskstats.PPID, parent)
    struct.pack_into("=I", stats, taskstats.TGID, pid)
    for key, value in figures.items():
        struct.pack_into("=Q", stats, getattr(taskstats, key), value)

    def attribute(kind: int, value: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(value), kind) + value

    inner = attribute(1, struct.pack("=I", pid)) + attribute(taskstats.STATS, bytes(stats))
    body = struct.pack("=BBH", 2, 1, 0) + attribute(taskstats.AGGR_PID, inner)
    return struct.pack("=IHHII", 16 + len(body), 31, 0, 0, 0) + body


def processes(*records: bytes) -> list[Ended]:
    """Return what a listener makes of these records."""
    found: dict[int, Ended] = {}
    for stats in (s for r in records for s in taskstats.statistics_in(r)):
        taskstats.merge(stats, found)
    return list(found.values())


def test_threads_are_added_to_their_process() -> None:
    one = record(7, 5, "docker", UTIME=1000, STIME=500, HIWATER_RSS=300, READ_CHAR=10)
    two = record(7, 5, "docker", UTIME=2000, HIWATER_RSS=200, READ_CHAR=5, WRITE_CHAR=1)
    (ended,) = processes(one + two)
    assert ended == Ended(7, 5, "docker", pytest.approx(0.0035), 300, 15, 1)


def test_the_kernels_own_threads_and_old_kernels_are_left_out() -> None:
    assert processes(record(7, 2, "kworker"), record(8, 1, "x", version=9)) == []


def test_half_a_record_is_nothing() -> None:
    assert processes(record(7, 5, "docker")[:40], b"\0" * 20) == []


def test_descendants_are_found_through_the_living_too() -> None:
    ended = [
        Ended(10, 1, "root"),
        Ended(11, 10, "worker"),
        Ended(12, 11, "docker"),
        Ended(20, 15, "in-agent"),  # 15 is alive, a child of the root
        Ended(30, 1, "conmon"),
        Ended(31, 30, "runc"),
        Ended(40, 1, "stranger"),
        Ended(41, 41, "its own parent"),
    ]
    found = taskstats.descendants(ended, {10}, ["conmon"], lambda pid: {15: 10}.get(pid, 0))
    assert [process.pid for process in found] == [10, 11, 12, 20, 30, 31]


def test_programs_add_up() -> None:
    found = taskstats.programs([Ended(1, 0, "a", 0.5, 10, 1, 2), Ended(2, 0, "a", 0.25, 30, 3, 4)])
    assert found == {"a": taskstats.Program(2, 0.75, 30, 4, 6)}


def test_the_kernel_reports_a_process_that_ends() -> None:
    try:
        listener = taskstats.Listener()
    except OSError as error:
        cannot_run(f"no process statistics: {error}")
    try:
        script = "import os; b = bytearray(50 << 20); os.write(1, bytes(1 << 20))"
        argv = [sys.executable, "-S", "-c", script]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            assert process.stdout and len(process.stdout.read()) == 1 << 20
        (ended,) = [e for e in listener.take() if e.pid == process.pid]
    finally:
        listener.close()
    assert ended.parent == os.getpid()
    assert ended.written == 1 << 20
    assert 50 << 10 < ended.peak_kib < 200 << 10
