"""Modules as ansible-core sends them do the same in a warm interpreter as in a new one."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.captured import capture
from support.frames import Result
from support.modules import OUTSIDE, Modules, plainly
from warm.conftest import as_files

pytestmark = pytest.mark.plays

# Of the moment or of the run; what is left must be equal.
OF_THE_RUN = {"start", "end", "delta", "atime", "mtime", "ctime", "inode", "elapsed", "version"} | {
    "ansible_date_time",
    "ansible_uptime_seconds",
    "ansible_loadavg",
}
PLACE = Path(f"/tmp/gangway-warm-modules-{os.getpid()}")


def tasks() -> list[dict[str, Any]]:
    """Return tasks of every kind, good and bad."""
    place = str(PLACE)
    wrong: list[dict[str, Any]] = [
        {"slurp": {"src": f"{place}/absent"}},
        {"find": {"paths": place, "size": "wrong"}},
        {"file": {"path": f"{place}/a/b/c", "state": "touch"}},
        {"command": {"argv": ["false"]}},
        {"command": {"argv": ["/nonexistent"]}},
        {"stat": {"path": f"{place}/text", "checksum_algorithm": "none"}},
        {"user": {"name": "a:b"}},
        {"lineinfile": {"path": f"{place}/text", "regexp": "(", "line": "x"}},
        {"ping": {"data": "crash"}},
    ]
    good: list[dict[str, Any]] = [
        {"ping": {"data": "é ☃"}},
        {"command": {"argv": ["sh", "-c", "echo out; echo err >&2"]}},
        {"shell": "cat; echo $0 $PWD; umask; exit 0"},
        {"stat": {"path": f"{place}/text"}},
        {"file": {"path": f"{place}/new", "state": "directory", "mode": "0700"}},
        {"lineinfile": {"path": f"{place}/text", "line": "more"}},
        {"blockinfile": {"path": f"{place}/text", "block": "a\nb"}},
        {"replace": {"path": f"{place}/text", "regexp": "o", "replace": "0"}},
        {"slurp": {"src": f"{place}/text"}},
        {"find": {"paths": place}},
        {"getent": {"database": "passwd", "key": "root"}},
        {"wait_for": {"path": f"{place}/text", "timeout": 2}},
        {"setup": {"gather_subset": ["!all", "min"]}},
        {"command": {"argv": ["sleep", "0"]}, "check_mode": True},
    ]
    return good + [{**task, "ignore_errors": True} for task in wrong]


def reset() -> None:
    """Make the directory that the tasks change what it was."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    (PLACE / "text").write_text("one\ntwo\n")
    for path in [*PLACE.rglob("*"), PLACE]:
        os.utime(path, (1, 1))


def tree() -> dict[str, tuple[int, bytes]]:
    """Return what is in the directory."""
    return {
        str(path): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(PLACE.rglob("*"))
    }


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[bytes]]:
    """Return the texts of all tasks' modules."""
    reset()
    yield capture(tmp_path_factory.mktemp("capture") / "play", tasks())
    shutil.rmtree(PLACE)


def equal(result: Result, expected: Result) -> None:
    """Compare two results but for the moment."""
    assert result.exit == expected.exit
    assert words(result.stderr) == words(expected.stderr)
    try:
        plain = json.loads(expected.stdout)
    except ValueError:  # a Python too old for this ansible-core
        assert words(result.stdout) == words(expected.stdout)
    else:
        assert lasting(json.loads(result.stdout)) == lasting(plain)
        assert shape(result.stdout) == shape(expected.stdout)


def words(output: bytes) -> str:
    """Return output without temporary names."""
    return re.sub(r"_payload_\w{8}/", "_payload_X/", output.decode())


def shape(output: bytes) -> tuple[bytes, bytes]:
    """Return what surrounds the JSON."""
    return output[: output.index(b"{")], output[output.rindex(b"}") + 1 :]


def lasting(value: Any) -> Any:
    """Return a result without what is of the run."""
    if isinstance(value, dict):
        return {key: lasting(item) for key, item in value.items() if key not in OF_THE_RUN}
    if isinstance(value, list):
        return [lasting(item) for item in value]
    return words(value.encode()) if isinstance(value, str) else value


@pytest.mark.in_turn
def test_every_module_does_the_same(warm: Modules, python: str, texts: list[bytes]) -> None:
    for text in texts:
        reset()
        expected = plainly(python, text, env=OUTSIDE, start_new_session=True)
        plain_tree = tree()
        for pause in (0, 0.3):  # in which the interpreter prepares itself
            reset()
            result = warm.module(text)
            if "plain" in result.exit:  # which then says that this Python is too old for it
                assert b"SyntaxError" in expected.stderr, result
            else:
                equal(result, expected)
            assert tree() == plain_tree
            time.sleep(pause)


@pytest.mark.in_turn
@as_files
def test_every_module_does_the_same_as_a_file(
    warm: Modules, python: str, texts: list[bytes], file: Path
) -> None:
    for text in texts:
        reset()
        expected = plainly(python, text, file, env=OUTSIDE, start_new_session=True)
        plain_tree = tree()
        reset()
        result = warm.file(file)
        if "plain" in result.exit:
            assert b"SyntaxError" in expected.stderr, result
        else:
            equal(result, expected)
        assert tree() == plain_tree


# Has a child tell which of the steps it took.
TELL = """
def tell(function, word):
    def told(*arguments):
        os.write(2, word)
        return function(*arguments)
    return told
Library.give = tell(Library.give, b"library ")
"""


def test_the_library_is_imported_ahead(newest: str, texts: list[bytes]) -> None:
    with Modules([newest], change=TELL) as warm:
        reset()
        for text in texts[:14]:  # also for the first one
            result = warm.module(text)
            assert result.exit == {"rc": 0}
            assert result.stderr.startswith(b"library ")


# Has a command end between the two times that `run_command` asks for its end.
ENDS_BETWEEN = b"""
import subprocess
poll, answers = subprocess.Popen.poll, [None]
def late(self):
    self.wait()
    return answers.pop() if answers else poll(self)
subprocess.Popen.poll = late
def _ansiballz_main"""


def test_no_command_waits_for_nothing(newest: str, texts: list[bytes]) -> None:
    """With that luck, which is not rare in a forked process, a new interpreter takes a second."""
    (text,) = (text for text in texts if b"echo out; echo err" in text)
    text = text.replace(b"\ndef _ansiballz_main", ENDS_BETWEEN, 1)
    with Modules([newest], env=OUTSIDE) as warm:
        warm.module(text)
        time.sleep(2)  # in which it prepares itself
        result = warm.module(text)
    expected = plainly(newest, text, env=OUTSIDE, start_new_session=True)
    equal(result, expected)
    took = [json.loads(one.stdout)["delta"] for one in (result, expected)]
    assert took[0] < "0:00:00.900000" < "0:00:01.000000" < took[1], took


def test_a_repeated_module_costs_few_bytes(newest: str, texts: list[bytes]) -> None:
    with Modules([newest]) as warm:
        warm.module(texts[0])
        assert warm.sent > 100_000
        warm.module(texts[0])
        assert warm.sent < 8_000
