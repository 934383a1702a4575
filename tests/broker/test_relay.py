"""Requests through the broker to agents on this host."""

from __future__ import annotations

from support.broker import AVAILABLE, Broker


def test_a_command_its_output_and_its_end(broker: Broker) -> None:
    broker.start()
    with broker.client() as client:
        client.open()
        result = client.run("cat; echo two >&2; exit 3", b"one")
        assert (result.exit, result.stdout, result.stderr) == ({"rc": 3}, b"one", b"two\n")
        with broker.client() as other:
            number = other.acquire()
            frame = other.answer(number)
            assert frame.kind == AVAILABLE and frame.head["fresh"] is False
