"""Whatever bytes come from a client or an agent, the broker serves everybody else."""

from __future__ import annotations

import base64
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.broker import STOP, Broker, Client, is_alive
from support.frames import HELLO, REQUEST, Ended

# The same examples in every run, so that a failure is the change's own.
fuzz = settings(
    derandomize=True,
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

KINDS = [1, 2, 3, *range(16, 21), *range(32, 37), 48, *range(64, 78)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
B64 = st.binary(max_size=4).map(lambda raw: base64.b64encode(raw).decode())
# Heads that are nearly right. What a SPAWN names does not exist, so that nothing is run.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("target", "key", "label", "engine", "serves", "reason", "said"), st.text()),
    **dict.fromkeys(("persist", "timeout"), st.floats()),
    **dict.fromkeys(("version", "play", "pid", "uid", "umask", "rc"), st.integers()),
    "argv": st.lists(B64.map(lambda word: "L25vL3N1Y2gv" + word), max_size=2),
    "env": st.lists(st.tuples(B64, B64), max_size=2),
    "cwd": B64,
    **dict.fromkeys(("ahead", "first"), st.booleans()),
    "files": st.lists(st.fixed_dictionaries({"path": st.text(max_size=5), "contents": B64})),
    "hello": JSON,
    "stdout": B64,
    "stderr": B64,
    "parts": st.lists(st.integers(), max_size=3),
    "op": st.sampled_from(["exec", "put", "fetch", "module", "?"]),
}
HEAD = st.fixed_dictionaries({}, optional={k: v | JSON for k, v in FIELDS.items() if k != "argv"})
HEAD_OF_SPAWN = st.fixed_dictionaries({}, optional={**FIELDS})


def packed(kind: int, number: int, payload: bytes, more: int = 0) -> bytes:
    """Return a frame; `more` bytes are announced and do not come."""
    return struct.pack(">BII", kind, number, (len(payload) + more) % (1 << 32)) + payload


def rss(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def encoded(head: Any) -> bytes:
    """Return a head as its sender would write it; Python's JSON has NaN, which is none."""
    return json.dumps(head).encode()


PAYLOAD = st.binary(max_size=40) | HEAD.map(encoded) | HEAD_OF_SPAWN.map(encoded)
MEBIBYTE = 1 << 20
NUMBER = st.sampled_from([0, 1, 2, 3, 0xFFFFFFFF])
MORE = st.sampled_from([0] * 20 + [1, 1 << 20, 0xFFFFFF00])


def frames(kinds: list[int]) -> st.SearchStrategy[bytes]:
    """Return streams of frames, and now and then of something else."""
    one = st.builds(packed, st.sampled_from(kinds), NUMBER, PAYLOAD, MORE)
    return st.lists(one | st.binary(max_size=20), max_size=12).map(b"".join)


@contextmanager
def another(broker: Broker) -> Iterator[Client]:
    """Return a client that has an agent; at the end its broker must live and be no larger."""
    pid = broker.start()
    with broker.client() as other:
        other.open(key="other")
        before = rss(pid)
        yield other
        assert is_alive(pid) and rss(pid) - before < 4 * MEBIBYTE


@pytest.mark.timeout(300)
def test_any_bytes_of_a_client(broker: Broker) -> None:
    with another(broker) as other:

        @fuzz
        @given(frames([kind for kind in KINDS if kind != STOP]), st.booleans())
        def try_out(stream: bytes, greeted: bool) -> None:
            with broker.client(greet=False) as client, suppress(Ended):
                if greeted:
                    client.send(HELLO, 0, {"version": 1, "play": 1})
                client.write(stream)
                client.socket.shutdown(1)
                client.is_closed(2)
            assert other.run("echo fine").stdout == b"fine\n"

        try_out()


@pytest.mark.timeout(300)
def test_any_bytes_of_an_agent(broker: Broker) -> None:
    with another(broker) as other:

        @fuzz
        @given(frames(KINDS))
        def try_out(stream: bytes) -> None:
            with broker.client() as client, suppress(Ended):
                client.fake(
                    "import base64, os; print(flush=True); n = 0\n"
                    "while n < 2: n += os.read(0, 999).count(b'exec')\n"
                    f"os.write(1, base64.b64decode({base64.b64encode(stream)!r}))",
                    key=f"fake {try_out.count}",  # type: ignore[attr-defined]
                )
                try_out.count += 1  # type: ignore[attr-defined]
                numbers = [client.start("true"), client.start("true")]
                client.answer(numbers[0])
            assert other.run("echo fine").stdout == b"fine\n"

        try_out.count = 0  # type: ignore[attr-defined]
        try_out()
        assert [agent["label"] for agent in other.status()["agents"]] == ["test container other"]


def test_requests_of_others_survive_a_head_without_sense(broker: Broker) -> None:
    """An agent is shared: one client's bytes must not end another one's command."""
    broker.start()
    with broker.client() as client, broker.client() as other:
        assert client.open() == other.open()
        running = other.start("sleep 1; echo done")
        for head in (b"{}", b"[]", b'{"op":[]}', b'{"op":{}}', b"[" * 5000, b"\xff", b"1e999"):
            client._next += 1
            client.send(REQUEST, client._next, client.agent.to_bytes(4) + head)
            with suppress(Ended):
                client.answer(client._next, 5)
        assert other.finish(running).stdout == b"done\n"
