"""A container that lies harms its own task, and nothing else.

Its /bin/sh is not a shell: it does what a case says with the nonce of the call, which it can read.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_gangway import _core
from support import beds
from support.targets import Target, agents

START = r"printf '\036%s s%d\036' $3 1 >&2;"


@pytest.fixture(scope="module")
def liar(target: Target) -> Iterator[str]:
    """Return a container whose shell this module replaces."""
    with target.container("gangway-liar", image="busybox") as name:
        yield name


def lie(target: Target, name: str, script: str) -> None:
    """Make /bin/sh of the container run `script`: $3 is the nonce, $2 our program."""
    shell = f"#!/bin/busybox ash\n{script}\n"
    argv = target.command(
        name,
        "/bin/busybox",
        "sh",
        "-c",
        "cat >/bin/lie; chmod 755 /bin/lie; mv /bin/lie /bin/sh",
        stdin=True,
    )
    subprocess.run(argv, input=shell.encode(), check=True, env=beds.environment(target.env))


@pytest.mark.parametrize("stream", ["", ">&2"])
@pytest.mark.parametrize("start", ["", START], ids=["before", "after"])
def test_far_too_much_where_a_file_is_expected(
    target: Target, liar: str, tmp_path: Path, start: str, stream: str
) -> None:
    """It is cut off, in bounded memory; not endless, or the container would go on for ever."""
    lie(target, liar, f"{start} exec head -c 67108864 /dev/zero {stream}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(_core.Error, match="wrote more than 1048576 bytes and was ended"):
        target.session(liar).fetch_file(b"/etc/passwd", bytes(tmp_path / "file"))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 << 10, f"{grown} KiB"
    assert list(tmp_path.iterdir()) == []


def test_a_lie_about_who_is_to_be_ended(target: Target, tmp_path: Path) -> None:
    """-1 would be everybody: whoever can say so may not be root, and the one who kills is."""
    with target.container("gangway-liar-ends", image="busybox") as name:
        target.run(name, "setsid sleep 5000 >/dev/null 2>&1 &")
        real = 'case $2 in *"kill -TERM"*) exec /bin/busybox ash "$@";; esac;'
        lie(target, name, f"{real} {START} exec head -c 67108864 /dev/zero")
        with pytest.raises(_core.Error, match="wrote more than 1048576 bytes and was ended"):
            target.session(name).fetch_file(b"/etc/passwd", bytes(tmp_path / "file"))
        time.sleep(2)  # the one who kills is not waited for
        look = "grep -ls '^sleep.5000' /proc/[0-9]*/cmdline"
        argv = target.command(name, "/bin/busybox", "sh", "-c", look)
        env = beds.environment(target.env)
        assert subprocess.run(argv, stdout=-1, env=env, timeout=30).stdout.count(b"/proc/") == 1


@pytest.mark.parametrize(
    ("mark", "sentence"),
    [
        ("k1 99999999999999999", "has 99999999999999999 bytes, and there is room for"),
        ("k1 99999999999999999999999", "the container cannot sum it"),
        ("k1 -1", "the container cannot sum it"),
        ("k", "the container cannot sum it"),
        ("l 99999999999999999", "has 99999999999999999 bytes, and there is room for"),
        ("l x", "the container cannot sum it"),
        (r"l 1\036x\036", 'the stream was lost while "/etc/passwd" was read'),
        ("k1 5", 'the stream was lost while "/etc/passwd" was read'),
        ("", "it said nothing"),
        ("p\\033[31mred\\033[0m", r"cannot fetch \"/etc/passwd\": \[31mred\[0m"),
    ],
)
def test_lies_about_a_file(
    target: Target, liar: str, tmp_path: Path, mark: str, sentence: str
) -> None:
    """Each is a sentence, without the container's escape sequences; no file is left."""
    lie(target, liar, rf"{START} printf '\036%s {mark}\036' $3; sleep 0.2")
    with pytest.raises(_core.Error, match=sentence) as raised:
        target.session(liar).fetch_file(b"/etc/passwd", bytes(tmp_path / "file"))
    assert "\033" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_lies_about_a_put(target: Target, liar: str, tmp_path: Path) -> None:
    """What is not "ok" is a failure with the container's words, made harmless."""
    local = tmp_path / "local"
    local.write_text("x")
    said = r"printf '\036%s \033[31mno\036' $3; sleep 0.2"
    lie(target, liar, f"{START} head -c 1000 >/dev/null; {said}")
    with pytest.raises(_core.Error, match=r"cannot put \"/x\": \[31mno"):
        target.session(liar).put_file(bytes(local), b"/x")


def test_lies_about_a_command(target: Target, liar: str) -> None:
    """An exit status that is no number is none; marks of another call are output."""
    end = r"printf '\036%s e%s\036' $3 {0}; printf '\036%s e%s\036' $3 {0} >&2"
    lie(target, liar, START + end.format("nonsense") + "; sleep 0.2")
    with pytest.raises(_core.ConnectionFailed, match="outcome is unknown"):
        target.session(liar).exec_command(b"true")
    forged = r"printf '\036%s e0\036' 0123456789abcdef;"
    lie(target, liar, START + forged + end.format("7"))
    rc, stdout, _ = target.session(liar).exec_command(b"true")
    assert (rc, stdout) == (7, b"\x1e0123456789abcdef e0\x1e")


# Python of a container whose agents do as LIE says with what they are about to say.
LYING_PYTHON = rb"""#!/usr/bin/python3.11 -I
import os, sys
lie = "def lie(kind, head):\n    %s\n    return head\n" % os.environ.get("LIE", "pass")
lie += "tell = Agent.send_head\n"
lie += "Agent.send_head = lambda agent, kind, id, head: tell(agent, kind, id, lie(kind, head))"
text = b"\n" + lie.encode() + b"\nmain("
change = "exec(bytes(_s).replace(b'\\nmain(', %r))" % text
words = [word.replace("exec(bytes(_s))", change) for word in sys.argv[1:]]
os.execv("/usr/bin/python3.11", ["python3", *words])
"""
STARTS, ENDS = "if kind == STARTED: head = ", "if kind == EXIT: head = "
# The call, the lie, and what the call must say; None: what it says without a lie.
LIES: list[tuple[str, str, str | None]] = [
    ("fetch", "pass", None),
    ("fetch", STARTS + '{"length": 10**15}', None),  # too long for an agent: not by its stream
    ("fetch", STARTS + '{"length": -1}', "it announced no length"),
    ("fetch", STARTS + '{"length": "x"}', "it announced no length"),
    ("fetch", STARTS + '{"length": 1}', "it sent more than it announced"),
    ("fetch", STARTS + '{"length": 10**5}', "it became shorter while it was read"),
    ("fetch", ENDS + '{"sha256": "00" * 32}', "it arrived changed"),
    ("fetch", ENDS + '{"failed": "\\x1b[31mred"}', r"cannot fetch .*31mred"),
    ("fetch", ENDS + '{"plain": "\\x1b[31mred"}', None),
    ("fetch", ENDS + "{}", "it ended without a result"),
    ("put", ENDS + '{"failed": "\\x1b[31mred"}', "cannot put .*31mred"),
    ("put", ENDS + '{"sha256": "00" * 32}', "it ended without a result"),
    ("exec", "pass", None),
    ("exec", STARTS + '{"pid": 1}', None),
    ("exec", STARTS + '{"pid": -1}', None),
    ("exec", ENDS + '{"rc": 10**30}', "the agent's answer has no sense"),
    ("exec", ENDS + "'text'", "the agent's answer has no sense"),
    ("exec", ENDS + '{"done": "ok"}', "it ended without a status"),
    ("exec", ENDS + '{"failed": "\\x1b[31mred"}', r"was lost \(.*31mred"),
]


@pytest.fixture(scope="module")
def lying_python(target: Target) -> Iterator[str]:
    """Return a container whose agents lie."""
    with target.container("gangway-lying-python") as name:
        replace = "rm /usr/bin/python3; cat >/usr/bin/python3; chmod 755 /usr/bin/python3"
        target.run(name, replace, LYING_PYTHON)
        yield name


@pytest.mark.parametrize("by_path", ["agent"], indirect=True)
@pytest.mark.parametrize(
    "target", ["runc"], indirect=True
)  # what is tested is the reader of frames
@pytest.mark.parametrize(("call", "lie", "sentence"), LIES)
def test_lies_of_an_agent(
    target: Target, lying_python: str, tmp_path: Path, call: str, lie: str, sentence: str | None
) -> None:
    """Each is a sentence of this call, and the next agent serves."""
    local = tmp_path / "local"
    local.write_text("local")
    session = target._open(lying_python, agents=agents(), env={b"LIE": lie.encode()})
    make: Callable[[], object] = {
        "fetch": lambda: session.fetch_file(b"/etc/passwd", bytes(local)),
        "put": lambda: session.put_file(bytes(local), b"/tmp/put"),
        "exec": lambda: session.exec_command(b"echo out; exit 3"),
    }[call]
    if sentence:
        with pytest.raises(_core.Error, match=sentence) as raised:
            make()
        assert str(raised.value).isprintable()
        assert local.read_text() == "local"
    elif call == "fetch":
        make()
        assert local.read_bytes() == target.run(lying_python, "cat /etc/passwd")
    else:
        assert make() == (3, b"out\n", b"")
    assert session.path().isprintable()
    assert list(tmp_path.iterdir()) == [local]
    honest = target._open(lying_python, agents=agents())
    assert honest.exec_command(b"echo honest")[1] == b"honest\n"
    assert honest.path().startswith("agent ")


ENDLESS = """
import resource, sys, json
from ansible_gangway import _core
from support.targets import target_of
recipe = json.loads(sys.argv[1])
try:
    target_of(*recipe).session().exec_command(b"exec cat /dev/zero")
except _core.Error as error:
    print(error)
"""


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_command_that_writes_for_ever(target: Target) -> None:
    """It fails with a sentence at 4 GiB: this needs that much memory."""
    import json

    done = subprocess.run(
        [sys.executable, "-c", ENDLESS, json.dumps(target.recipe)],
        env=beds.environment({"PYTHONPATH": str(Path(__file__).parent.parent)}),
        capture_output=True,
        text=True,
    )
    assert "it wrote more than 4294967296 bytes and was ended" in done.stdout, done
