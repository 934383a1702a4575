"""What a module costs on an agent's stream, counted by the kernel at the agent's end of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sessions.conftest import agents
from support.another_core import another
from support.captured import capture
from support.targets import Target

pytestmark = pytest.mark.plays

LINE = b"/bin/sh -c 'python3 && sleep 0'"


def read_by(target: Target, pid: int) -> int:
    """Return how many bytes a process has read, once it reads no more; its children's not."""
    end, before = time.monotonic() + 30, -1
    while time.monotonic() < end:
        (line, *_) = target.run("target", f"cat /proc/{pid}/task/{pid}/io").splitlines()
        read = int(line.removeprefix(b"rchar: "))
        if read == before:
            return read
        before = read
        time.sleep(1)
    raise AssertionError("it reads without end")


def test_the_second_module_of_a_kind_costs_8_kb(target: Target, tmp_path: Path) -> None:
    tasks = [{"ping": {"data": word}} for word in ("first", "second")]
    texts = capture(tmp_path / "play", tasks)
    session = target.session()
    for pair in (texts, [another(text) for text in texts]):
        assert session.exec_command(LINE, pair[0])[0] == 0
        assert session.path().startswith("interpreter ")
        (pid,) = (agent["pid"] for agent in agents() if agent["serves"] == "modules")
        assert read_by(target, pid) > len(pair[0])
        for text in (pair[0], pair[1], pair[0]):
            before = read_by(target, pid)
            rc, stdout, _ = session.exec_command(LINE, text)
            assert rc == 0 and b"ping" in stdout
            assert session.path().startswith("interpreter ")
            assert len(text) > 100_000 and read_by(target, pid) - before < 8_000
        session.reset()


def test_an_unknown_wrapper_runs_the_plain_way(target: Target, tmp_path: Path) -> None:
    """Once, with the reason in the line that `-vvv` shows; the interpreter is there for others."""
    mark = f"/tmp/gangway-once-{os.getpid()}"
    target.run("target", f"rm -f {mark}")
    (known,) = capture(tmp_path / "play", [{"command": {"argv": ["sh", "-c", f"echo x >>{mark}"]}}])
    session = target.session()
    later = known + b"# of a later ansible-core\n"
    for count in (1, 2):
        assert session.exec_command(LINE, known)[0] == 0
        assert session.path().startswith("interpreter ")
        assert session.exec_command(LINE, later)[0] == 0
        way = session.path()
        # In the words for that of ansible-core 2.19 and later, or for that before.
        reasons = ("its wrapper is of an unknown kind", "its text is no wrapper that is known")
        assert way.startswith("agent ") and way.endswith(reasons), way
        assert target.run("target", f"cat {mark}") == b"x\n" * 2 * count
    assert not session.warnings()
