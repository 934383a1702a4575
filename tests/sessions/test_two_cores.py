"""Two ansible-core versions use one container at once."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import cast

import pytest

import ansible_gangway
from ansible_gangway import _core
from sessions.conftest import agents
from support.another_core import MARK, another
from support.captured import capture
from support.targets import Target

pytestmark = pytest.mark.plays

LINE = b"/bin/sh -c 'python3 && sleep 0'"


def session_of(target: Target, controller: bytes) -> _core.Session:
    """Return a session of a worker of this ansible-core."""
    kept = _core.Agents(
        python=os.fsencode(sys.executable),
        package=os.fsencode(Path(ansible_gangway.__file__).resolve().parent.parent),
        controller=controller,
        play=os.getpid(),
    )
    return target.session(agents=kept)


def test_each_has_an_interpreter_and_its_own_code(target: Target, tmp_path: Path) -> None:
    """One that pretends to be the other, as no core does, gets its own code all the same."""
    (text,) = capture(tmp_path / "play", [{"ping": {"data": "word"}}])
    texts = {b"installed": text, b"another": another(text)}
    plain = {}
    for name, sent in texts.items():
        path = tmp_path / name.decode()
        path.write_bytes(sent)
        plain[name] = target.run("target", "exec python3", sent)
    assert [MARK in said for said in plain.values()] == [False, True]
    for turn in range(6):
        for name, sent in texts.items():
            session = session_of(target, name)
            assert session.exec_command(LINE, sent) == (0, plain[name], b"")
            opened = "opened" if turn == 0 else "kept"
            assert session.path().startswith("interpreter "), session.path()
            assert session.path().endswith(f", {opened})")
        time.sleep(0.5)  # in which they prepare themselves
    assert [agent["serves"] for agent in agents()] == ["modules", "modules"]
    session = session_of(target, b"installed")
    assert session.exec_command(LINE, texts[b"another"]) == (0, plain[b"another"], b"")
    assert cast(str, session.path()).startswith(("agent ", "interpreter "))
