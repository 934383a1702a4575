"""Who opens an agent, with which process, and who waits."""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from support.broker import (
    AVAILABLE,
    ENDED,
    GIVE_UP,
    START,
    UNUSABLE,
    Broker,
    Client,
    b64,
    is_alive,
    within,
)
from support.frames import DATA, END, HELLO, STDERR, STDOUT, Ended

HELLO_HEAD = b'{"version":1,"pid":1,"uid":0,"python":"3","executable":"","instance":""}'


def opening(client: Client, key: str = "k", **more: object) -> int:
    """Become the one who opens an agent; return the id."""
    number = client.acquire(key, **more)
    assert client.answer(number).kind == START
    return number


def ended(client: Client, number: int) -> tuple[dict[str, object], bytes, bytes]:
    """Return the head of ENDED, and what the process wrote before."""
    said = {STDOUT: bytearray(), STDERR: bytearray()}
    while (frame := client.answer(number)).kind != ENDED:
        said[frame.kind] += frame.payload
    return frame.head, bytes(said[STDOUT]), bytes(said[STDERR])


def test_one_opens_and_the_others_get_what_he_opened(broker: Broker) -> None:
    broker.start()
    first, second, third = (broker.client() for _ in range(3))
    number = opening(first)
    waiting = [(client, client.acquire()) for client in (second, third)]
    time.sleep(0.2)
    first.spawn(number, ["cat"])
    first.adopt(number, HELLO_HEAD)
    fresh = first.answer(number)
    assert fresh.kind == AVAILABLE and fresh.head["fresh"] is True
    assert fresh.head["hello"] == json.loads(HELLO_HEAD)
    for client, number in waiting:
        frame = client.answer(number)
        assert frame.kind == AVAILABLE
        assert frame.head == {**fresh.head, "fresh": False}
    for client in (first, second, third):
        client.end()


def test_a_refusal_is_for_everybody_and_a_failure_for_one(broker: Broker) -> None:
    broker.start()
    with broker.client() as one, broker.client() as two:
        number, waiting = opening(one), two.acquire()
        one.send(GIVE_UP, number, {"reason": None})
        assert two.answer(waiting).kind == START
        again = one.acquire()
        two.send(GIVE_UP, waiting, {"reason": "no Python was found"})
        for client, number in ((one, again), (two, two.acquire()), (one, one.acquire())):
            frame = client.answer(number)
            assert frame.kind == UNUSABLE and frame.head == {"reason": "no Python was found"}
        assert two.answer(two.acquire("other key")).kind == START


def test_who_asks_ahead_of_a_use_never_waits(broker: Broker) -> None:
    broker.start()
    with broker.client() as one, broker.client() as two:
        number = opening(one, ahead=True)
        frame = two.answer(two.acquire(ahead=True))
        assert frame.kind == UNUSABLE and frame.head == {"reason": None}
        one.spawn(number, ["cat"])
        one.adopt(number, HELLO_HEAD)
        assert one.answer(number).kind == AVAILABLE
        assert two.answer(two.acquire(ahead=True)).kind == AVAILABLE
        numbers = [opening(one, f"key {n}", ahead=True) for n in range(8)]
        assert two.answer(two.acquire("other", ahead=True)).kind == UNUSABLE
        one.send(GIVE_UP, numbers[0], {"reason": None})
        assert one.answer(one.acquire("other", ahead=True)).kind == START


def test_a_guess_is_the_targets_first(broker: Broker) -> None:
    """Where an agent is, or is about to be, or could not be, there is no guess."""
    broker.start()
    guess = {"ahead": True, "first": True}
    with broker.client() as one, broker.client() as two:
        number = opening(one, "a", target="a", **guess)
        assert two.answer(two.acquire("b", target="a", **guess)).kind == UNUSABLE
        opening(one, "c", target="a")  # for use, beside the guess
        one.spawn(number, ["cat"])
        one.adopt(number, HELLO_HEAD, key="found")
        assert one.answer(number).kind == AVAILABLE
        assert two.answer(two.acquire("b", target="a", **guess)).kind == UNUSABLE
        assert two.answer(two.acquire("found", target="a")).kind == AVAILABLE
        assert opening(two, "a", target="a")
        one.send(GIVE_UP, opening(one, "b", target="b"), {"reason": "no Python was found"})
        assert two.answer(two.acquire("c", target="b", **guess)).kind == UNUSABLE
        assert opening(two, "d", target="c", **guess)


def test_a_client_that_leaves_makes_way_and_its_process_is_killed(broker: Broker) -> None:
    broker.start()
    one, two = broker.client(), broker.client()
    number, waiting = opening(one), two.acquire()
    one.spawn(number, ["sh", "-c", "trap '' TERM HUP; sleep 60 & echo $$; wait"])
    pid = int(one.output(number, b"\n"))
    child = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    one.end()
    assert two.answer(waiting).kind == START
    within(5, lambda: not is_alive(pid) and not is_alive(child))
    two.send(GIVE_UP, waiting, {"reason": None})
    two.end()


def test_give_up_kills_the_process(broker: Broker) -> None:
    broker.start()
    with broker.client() as client:
        number = opening(client)
        client.spawn(number, ["sh", "-c", "echo $$; exec sleep 60"])
        pid = int(client.output(number, b"\n"))
        client.send(GIVE_UP, number, {"reason": None})
        within(5, lambda: not is_alive(pid))
        assert opening(client)


def test_eight_open_at_once_per_engine_and_plays_take_turns(broker: Broker) -> None:
    broker.start()
    play = os.getpid()
    with broker.client(play) as large, broker.client(1) as small:
        many = [large.acquire(f"a{n}") for n in range(20)]
        for number in many[:8]:
            assert large.answer(number).kind == START
        late = [small.acquire(f"b{n}") for n in range(3)]
        assert opening(large, "other", engine="docker")
        with pytest.raises(TimeoutError):
            large.next_frame(0.3)
        for number in many[:3]:
            large.send(GIVE_UP, number, {"reason": None})
        assert small.answer(late[0]).kind == START
        within(3, lambda: len(large.status()["agents"]) == 9)
        started = [item["label"] for item in large.status()["agents"]]
        assert sum("container a" in label for label in started) == 6
        assert sum("container b" in label for label in started) == 2


def test_a_process_is_started_as_the_client_would(broker: Broker) -> None:
    soft, hard = 777, 4000
    limits = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))  # noqa: E731
    out, err = broker.starter(preexec_fn=limits).communicate(timeout=20)
    assert out, err
    broker.pids.add(int(out))
    program = """if 1:
        import json, os, resource, signal, sys
        ignored = [n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN]
        print(json.dumps({
            "argv": sys.argv[1:], "cwd": os.getcwd(), "umask": os.umask(0),
            "env": {k: v for k, v in os.environ.items() if k != "LC_CTYPE"},
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "ignored": sorted(ignored), "group": os.getpgid(0) == os.getpid(),
            "descriptors": [fd for fd in os.listdir("/proc/self/fd")
                            if os.path.exists("/proc/self/fd/" + fd)],
        }))"""
    with broker.client() as client:
        for key in "ab":  # others' pipes and files are not inherited
            other = opening(client, key)
            files = [{"path": "/proc/self/fd/9", "contents": b64("x")}]
            client.spawn(other, ["sh", "-c", "echo; sleep 60"], files=files)
            client.output(other, b"\n")
        number = opening(client)
        client.spawn(
            number,
            [sys.executable, "-I", "-S", "-c", program, b"\xff \n'", ""],
            env=[[b64("PATH"), b64("/usr/bin")], [b64("A"), b64(b"\xfe=1")]],
            cwd=b64("/usr/bin"),
            umask=0o27,
        )
        head, stdout, stderr = ended(client, number)
        assert (head, stderr) == ({"code": 0, "errno": None, "files": []}, b"")
        found = json.loads(stdout)
        assert found == {
            "argv": ["\udcff \n'", ""],
            "cwd": "/usr/bin",
            "umask": 0o27,
            "env": {"PATH": "/usr/bin", "A": "\udcfe=1"},
            "files": [soft, hard],
            "ignored": [signal.SIGPIPE, signal.SIGXFSZ],  # Python's own doing
            "group": True,
            "descriptors": ["0", "1", "2"],
        }
        assert Path(f"/proc/{int(out)}/limits").read_text().count("4000") == 2


def test_files_are_the_processes_own_and_come_back(broker: Broker) -> None:
    broker.start()
    with broker.client() as client:
        number = opening(client)
        seven, eight = "/proc/self/fd/7", "/proc/self/fd/8"
        client.spawn(
            number,
            ["sh", "-c", f'cat {seven} "$F"; echo {eight}0; echo changed > {eight}; umask; exit 4'],
            env=[[b64("F"), b64(eight)], [b64("PATH"), b64("/usr/bin:/bin")]],
            files=[
                {"path": seven, "contents": b64("secret 7\n")},
                {"path": eight, "contents": b64("secret 8\n")},
            ],
        )
        head, stdout, _ = ended(client, number)
        assert stdout == b"secret 7\nsecret 8\n/proc/self/fd/80\n0022\n"
        assert head["code"] == 4
        assert [base64.b64decode(text) for text in head["files"]] == [b"secret 7\n", b"changed\n"]


def test_what_cannot_be_started_says_so_and_may_be_tried_again(broker: Broker) -> None:
    broker.start()
    with broker.client() as client:
        number = opening(client)
        for argv, more, errno in (
            (["/no/such/engine"], {}, 2),
            (["no-such-engine"], {}, 2),
            (["/etc/passwd"], {}, 13),
            (["true"], {"cwd": b64("/no/such/directory")}, 2),
            ([], {}, 22),
            (["a\0b"], {}, 22),
        ):
            client.spawn(number, argv, **more)
            frame = client.answer(number)
            assert frame.kind == ENDED, argv
            assert frame.head == {"code": None, "errno": errno, "files": []}, argv
        client.spawn(number, ["sh", "-c", "kill -9 $$"])
        assert client.answer(number).head == {"code": None, "errno": None, "files": []}
        client.adopt(number, HELLO_HEAD)  # too late: ENDED was the answer
        client.spawn(number, ["sh", "-c", "cat; exit 5"])
        client.send(DATA, number, b"input")
        client.send(END, number)
        head, stdout, _ = ended(client, number)
        assert (head["code"], stdout) == (5, b"input")


def test_output_that_nobody_takes_is_not_read(broker: Broker) -> None:
    pid = broker.start()
    size = lambda: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) << 12  # noqa: E731
    with broker.client() as client, broker.client() as other:
        number = opening(client)
        before = size()
        client.spawn(number, ["head", "-c", "20M", "/dev/zero"])
        time.sleep(1)
        assert size() - before < 2 << 20
        other.open(key="other")
        assert other.run("echo fine").stdout == b"fine\n"
        head, stdout, _ = ended(client, number)
        assert head["code"] == 0 and len(stdout) == 20 << 20


def test_input_that_nobody_reads_ends_the_client(broker: Broker) -> None:
    broker.start()
    with broker.client() as client:
        number = opening(client)
        client.spawn(number, ["sleep", "60"])
        for _ in range(3):
            client.send(DATA, number, bytes(1 << 20))
        assert client.status()["pid"]
        with suppress(Ended):
            for _ in range(4):
                client.send(DATA, number, bytes(1 << 20))
        assert client.is_closed()


def test_a_process_may_read_and_write_at_once(broker: Broker) -> None:
    broker.start()
    data = os.urandom(3 << 20)
    with broker.client() as client:
        number = opening(client)
        client.spawn(number, ["cat"])
        for at in range(0, len(data), 1 << 19):
            client.send(DATA, number, data[at : at + (1 << 19)])
        client.send(END, number)
        head, stdout, _ = ended(client, number)
        assert head["code"] == 0 and stdout == data


def test_the_end_of_a_process_is_seen_although_a_child_holds_its_pipes(broker: Broker) -> None:
    broker.start()
    with broker.client() as client:
        number = opening(client)
        begun = time.monotonic()
        client.spawn(number, ["sh", "-c", "echo out; sleep 30 & exit 6"])
        head, stdout, _ = ended(client, number)
        assert (head["code"], stdout) == (6, b"out\n") and time.monotonic() - begun < 15
        client.send(GIVE_UP, number, {"reason": None})


def test_a_motd_before_the_hello_is_the_openers_business(broker: Broker) -> None:
    broker.start()
    with broker.client() as client:
        client.open(["sh", "-c", 'echo Welcome; echo banner >&2; exec "$@"', "sh", sys.executable])
        assert client.run("echo fine").stdout == b"fine\n"


def test_a_second_hello_or_a_wrong_version_is_refused(broker: Broker) -> None:
    broker.start()
    for version in (0, 2):
        with Client(broker.socket, os.getpid(), greet=False) as client:
            client.send(HELLO, 0, {"version": version, "play": 1})
            assert client.is_closed()
    with Client(broker.socket, os.getpid(), greet=False) as client:
        client.acquire()
        assert client.is_closed()


def test_who_waits_may_give_up_waiting(broker: Broker) -> None:
    broker.start()
    with broker.client() as one, broker.client() as two:
        number, waiting = opening(one), two.acquire()
        two.send(GIVE_UP, waiting, {"reason": None})
        last = two.acquire()
        assert two.status()  # so the broker has read what two sent before it
        one.send(GIVE_UP, number, {"reason": None})
        frame = two.next_frame()
        assert (frame.kind, frame.id) == (START, last)
