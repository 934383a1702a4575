"""What the kernel says of every process that ends: CPU, peak memory, bytes read and written.

Linux sends a record for each thread that ends, of the whole machine and of containers too, to a
netlink listener that may have it (root, CONFIG_TASKSTATS): nothing is polled and nothing missed.
Format: linux/taskstats.h, to which fields are only ever appended, and genetlink.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

NETLINK_GENERIC = 16
GENL_ID_CTRL = 16
NLMSG_ERROR = 2
SO_RCVBUFFORCE = 33
NETLINK_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
GENERIC_HEADER = struct.Struct("=BBH")  # command, version, reserved
ATTRIBUTE = struct.Struct("=HH")  # length with this head, type
REGISTER_CPUMASK, DEREGISTER_CPUMASK = 3, 4  # attributes of TASKSTATS_CMD_GET
AGGR_PID, STATS = 4, 3
# struct taskstats: offsets of the fields that are read, and the first version that has the last.
COMM, PPID, UTIME, STIME, HIWATER_RSS, READ_CHAR, WRITE_CHAR, TGID = (
    *(80, 132, 152, 160, 200, 216, 224),
    368,
)
FIRST_VERSION = 12


@dataclass
class Ended:
    """A process that ended: seconds of CPU, peak memory in KiB, bytes. A name has 15 bytes."""

    pid: int
    parent: int
    name: str
    cpu: float = 0.0
    peak_kib: int = 0
    read: int = 0
    written: int = 0


@dataclass
class Program:
    """All processes of one name."""

    count: int = 0
    cpu: float = 0.0
    peak_kib: int = 0
    read: int = 0
    written: int = 0


def programs(ended: Iterable[Ended]) -> dict[str, Program]:
    """Add up processes by name."""
    found: dict[str, Program] = {}
    for process in ended:
        program = found.setdefault(process.name, Program())
        program.count += 1
        program.cpu += process.cpu
        program.peak_kib = max(program.peak_kib, process.peak_kib)
        program.read += process.read
        program.written += process.written
    return found


def descendants(
    ended: list[Ended], roots: set[int], names: Iterable[str], parent_of: Callable[[int], int]
) -> list[Ended]:
    """Return those of `ended` that descend from `roots`, or are called one of `names`.

    `parent_of` says who the parent of a process is that has not ended (0: it is unknown). A daemon
    that lets go of its parent has none that would lead anywhere, hence the names.
    """
    parents = {process.pid: process.parent for process in ended}
    named = {process.pid for process in ended if process.name in set(names)}

    def belongs(pid: int) -> bool:
        for _ in range(64):  # a number may have been used twice: no chain is endless
            if pid in roots or pid in named:
                return True
            if pid <= 1:
                return False
            pid = parents.get(pid) or parent_of(pid)
        return False

    return [process for process in ended if belongs(process.pid)]


class Listener:
    """Collects records from when it is made; `take` returns them as processes."""

    def __init__(self) -> None:
        """Raise OSError, with the reason, where the kernel does not give them."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        try:
            # Large enough for what ends between two calls of `read`.
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
            self._socket.bind((0, 0))
            self._socket.settimeout(5)
            self._family = self._family_id()
            with open("/sys/devices/system/cpu/possible") as file:
                self._cpus = file.read().strip().encode() + b"\0"
            self._command(self._family, 1, REGISTER_CPUMASK, self._cpus)
            self._socket.setblocking(False)
        except OSError:
            self._socket.close()
            raise
        self._records: list[bytes] = []
        self.lost = False

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    def read(self) -> None:
        """Take over what has come; cheap, because nothing is looked at yet."""
        while True:
            try:
                self._records.append(self._socket.recv(65536))
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: more came than the socket holds
                self.lost = True

    def take(self) -> list[Ended]:
        """Return the processes that ended since the last call."""
        self.read()
        records, self._records = self._records, []
        processes: dict[int, Ended] = {}
        for stats in (s for record in records for s in statistics_in(record)):
            merge(stats, processes)
        return list(processes.values())

    def _family_id(self) -> int:
        reply = self._command(GENL_ID_CTRL, 3, 2, b"TASKSTATS\0")  # CTRL_CMD_GETFAMILY, by name
        for kind, value in attributes(reply[NETLINK_HEADER.size + GENERIC_HEADER.size :]):
            if kind == 1:  # CTRL_ATTR_FAMILY_ID
                return struct.unpack("=H", value)[0]
        raise OSError("the kernel has no TASKSTATS")

    def _command(self, kind: int, command: int, attribute: int, value: bytes) -> bytes:
        """Send a command with one attribute and return the kernel's answer."""
        padded = value + bytes(-len(value) % 4)
        body = GENERIC_HEADER.pack(command, 1, 0)
        body += ATTRIBUTE.pack(ATTRIBUTE.size + len(value), attribute) + padded
        acknowledge = 5 if attribute == REGISTER_CPUMASK else 1  # NLM_F_REQUEST, NLM_F_ACK
        head = NETLINK_HEADER.pack(NETLINK_HEADER.size + len(body), kind, acknowledge, 1, 0)
        self._socket.send(head + body)
        answer = self._socket.recv(65536)
        if NETLINK_HEADER.unpack_from(answer)[1] == NLMSG_ERROR:
            error = -struct.unpack_from("=i", answer, NETLINK_HEADER.size)[0]
            if error:
                raise OSError(error, os.strerror(error))
        return answer


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the netlink attributes in `data`: type and value."""
    at = 0
    while at + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if length < ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[at + ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def statistics_in(record: bytes) -> Iterator[bytes]:
    """Yield each `struct taskstats` of a thread in a datagram."""
    at = 0
    while at + NETLINK_HEADER.size <= len(record):
        length = NETLINK_HEADER.unpack_from(record, at)[0]
        if length < NETLINK_HEADER.size:
            return
        for kind, value in attributes(record[at + NETLINK_HEADER.size + 4 : at + length]):
            if kind == AGGR_PID:
                yield from (v for k, v in attributes(value) if k == STATS)
        at += (length + 3) & ~3


def merge(stats: bytes, processes: dict[int, Ended]) -> None:
    """Add one thread to its process, which the first of its threads to end names."""
    if struct.unpack_from("=H", stats)[0] < FIRST_VERSION or len(stats) < TGID + 4:
        return
    (pid,) = struct.unpack_from("=I", stats, TGID)
    (parent,) = struct.unpack_from("=I", stats, PPID)
    if parent == 2:  # kthreadd: the kernel's own
        return
    name = stats[COMM : COMM + 32].split(b"\0", 1)[0].decode(errors="replace")
    process = processes.setdefault(pid, Ended(pid, parent, name))
    utime, stime = struct.unpack_from("=QQ", stats, UTIME)
    process.cpu += (utime + stime) / 1e6
    process.peak_kib = max(process.peak_kib, struct.unpack_from("=Q", stats, HIWATER_RSS)[0])
    process.read += struct.unpack_from("=Q", stats, READ_CHAR)[0]
    process.written += struct.unpack_from("=Q", stats, WRITE_CHAR)[0]
