"""Texts of two ansible-core versions, by turns, in one warm interpreter: each has its own code."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from support.another_core import MARK, another
from support.captured import capture
from support.frames import Result
from support.modules import OUTSIDE, Modules, plainly

pytestmark = pytest.mark.plays

TASKS = [
    {"ping": {"data": "é"}},
    {"command": {"argv": ["sh", "-c", "echo out; echo err >&2"]}},
    {"slurp": {"src": "/etc/passwd"}},
    {"getent": {"database": "passwd", "key": "root"}},
]

# Has a child tell that it was given the library.
TELL = """
give = Library.give
def told(*arguments):
    os.write(2, b"library ")
    return give(*arguments)
Library.give = told
"""


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bytes, bytes]]:
    """Return the text of each task, from this core and from another one."""
    mine = capture(tmp_path_factory.mktemp("capture") / "play", TASKS)
    return [(text, another(text)) for text in mine]


@pytest.fixture
def interpreters(newest: str) -> Iterator[list[Modules]]:
    """Return two warm interpreters; the second gets the other core's texts first."""
    with ExitStack() as stack:
        yield [stack.enter_context(Modules([newest], TELL, env=OUTSIDE)) for _ in range(2)]


def judged(result: Result) -> tuple[object, ...]:
    """Return what must be equal: all but the times of a command and the random name of a zip."""
    assert "rc" in result.exit, result
    said = json.loads(result.stdout)
    for name in ("start", "end", "delta"):
        said.pop(name, None)
    stderr = result.stderr.replace(b"library ", b"")
    return result.exit, said, re.sub(rb"_payload_\w{8}/", b"_payload_X/", stderr)


def test_each_text_runs_with_its_own_code_or_not_at_all(
    newest: str, interpreters: list[Modules], texts: list[tuple[bytes, bytes]]
) -> None:
    """An interpreter that has imported one core's library may refuse what brings another."""
    expected = [[judged(plainly(newest, text, env=OUTSIDE)) for text in pair] for pair in texts]
    given = set()
    for turn in range(3):
        for pair, plain in zip(texts, expected, strict=True):
            for which in (0, 1):
                for first, warm in enumerate(interpreters):
                    core = first ^ which
                    result = warm.module(pair[core])
                    if which and "plain" in result.exit:
                        assert "its module_utils are not those" in result.exit["plain"]
                        assert (result.stdout, result.stderr) == (b"", b"")
                        continue
                    assert judged(result) == plain[core]
                    assert (MARK in result.stdout) == (core == 1)
                    if b"library " in result.stderr:
                        given.add((first, core))
        if turn == 0:
            time.sleep(4)  # in which they prepare themselves
    assert given == {(0, 0), (1, 1)}


def test_both_at_once(
    newest: str, interpreters: list[Modules], texts: list[tuple[bytes, bytes]]
) -> None:
    for pair in texts:
        begun = [warm.start_module(text) for warm, text in zip(interpreters, pair, strict=True)]
        for warm, (number, wanted), text in zip(interpreters, begun, pair, strict=True):
            result = warm.finish(number, wanted or b"", end=wanted is not None)
            assert judged(result) == judged(plainly(newest, text, env=OUTSIDE))
