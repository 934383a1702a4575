"""An agent that opens ahead of its use, while Ansible builds a module."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ansible_gangway import _core
from sessions.conftest import agents, on_either_path
from support.broker import within
from support.captured import capture
from support.targets import Target


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return what Ansible sends an interpreter for a ping."""
    (text,) = capture(tmp_path_factory.mktemp("text") / "play", [{"ping": {}}])
    return text


def test_the_first_call_takes_it(target: Target) -> None:
    for first, last in ((", opened)", ", kept)"), (", kept)", ", kept)")):
        session = target.session()
        session.prepare()
        assert session.exec_command(b"cat; exit 7", b"in") == (7, b"in", b"")
        assert session.path().startswith("agent ") and session.path().endswith(first)
        session.prepare()
        assert session.exec_command(b"true")[0] == 0
        assert session.path().endswith(last)
        assert len(agents()) == 1


def test_it_opens_meanwhile(target: Target) -> None:
    """Its process is there before anything is asked of it."""
    session = target.session()
    session.prepare()
    (agent,) = agents()
    assert (agent["state"], agent["serves"]) == ("opening", "commands")
    assert agent["client_pid"] > 0
    assert session.exec_command(b"true")[0] == 0
    assert agents()[0]["client_pid"] == agent["client_pid"]


def test_others_wait_for_it_and_have_it(target: Target) -> None:
    session = target.session()
    session.prepare()
    session.put_file(bytes(Path(__file__)), b"/tmp/gangway-prepared-%d" % os.getpid())
    other = target.session()
    assert other.exec_command(b"true")[0] == 0
    assert other.path().endswith(", kept)")


def test_nobody_waits_ahead(target: Target) -> None:
    """Whoever would have to wait for another's opening does not, before there is a call."""
    first, second = target.session(), target.session()
    first.prepare()
    started = time.monotonic()
    second.prepare()
    assert time.monotonic() - started < 1
    assert first.exec_command(b"true")[0] == 0
    assert second.exec_command(b"echo ran") == (0, b"ran\n", b"")
    assert first.path() == second.path().replace("kept", "opened")


@pytest.mark.plays
def test_a_module_may_come_first(target: Target, text: bytes) -> None:
    session = target.session()
    session.prepare()
    assert session.exec_command(b"/bin/sh -c 'python3 && sleep 0'", text)[0] == 0
    assert session.path().startswith("interpreter ")
    assert session.exec_command(b"true")[0] == 0
    assert sorted(agent["serves"] for agent in agents()) == ["commands", "modules"]
    assert session.path().endswith(", opened)")


def found(target: Target) -> bytes:
    """Return what a shell in the target finds as python3."""
    return target.session().exec_command(b"command -v python3")[1].strip()


NAMES = (b"/no/such", b"python0.0", b"python3")


@pytest.mark.plays
@pytest.mark.parametrize("behind", [b"", b" && sleep 0"])
@pytest.mark.parametrize("commands", [False, True])
def test_an_interpreter_opens_meanwhile(
    commands: bool, behind: bytes, target: Target, text: bytes
) -> None:
    """It is the one of the module's line, for this task and for others."""
    python = found(target)
    target.session().reset()
    within(10, lambda: agents() == [])
    session = target.session()
    session.prepare(commands=commands, pythons=NAMES, behind=behind)
    opening = [(agent["state"], agent["serves"]) for agent in agents()]
    assert opening == [("opening", "commands")] * commands + [("opening", "modules")]
    (process,) = [agent["client_pid"] for agent in agents() if agent["serves"] == "modules"]
    if commands:
        assert session.exec_command(b"echo ran") == (0, b"ran\n", b"")
    line = b"/bin/sh -c " + (b"'%s%s'" % (python, behind) if behind else python)
    for how in ("opened", "kept"):
        assert session.exec_command(line, text)[0] == 0
        assert session.path().startswith("interpreter ")
        assert session.path().endswith(f", {how})")
        session = target.session()
    assert [agent["client_pid"] for agent in agents() if agent["serves"] == "modules"] == [process]


@pytest.mark.plays
@pytest.mark.parametrize(
    "line", [b"/bin/sh -c '%s -B'", b"/bin/sh -c 'PYTHONHASHSEED=1 %s'", b"/bin/sh -c '%s3'"]
)
def test_a_wrong_guess_ends_and_nothing_is_run_twice(
    line: bytes, target: Target, text: bytes
) -> None:
    python = found(target)
    target.session().reset()
    session = target.session()
    session.prepare(commands=False, pythons=NAMES)
    (guess,) = agents()
    done = session.exec_command(line % python, text)
    plain = on_either_path(target, "target").exec_command(line % python, text)
    assert done == plain
    session.close()
    within(10, lambda: guess["client_pid"] not in [agent["client_pid"] for agent in agents()])


@pytest.mark.plays
def test_nothing_is_guessed_where_agents_are(target: Target, text: bytes) -> None:
    session = target.session()
    assert session.exec_command(b"true")[0] == 0
    for commands in (False, True):
        session = target.session()
        session.prepare(commands=commands, pythons=NAMES)
        assert [agent["serves"] for agent in agents()] == ["commands"]
        assert session.exec_command(b"/bin/sh -c python3", text)[0] == 0
        assert session.path().startswith("interpreter ")
        session.reset()
        within(10, lambda: agents() == [])
        assert target.session().exec_command(b"true")[0] == 0


def test_an_interpreter_that_is_not_used_ends(target: Target) -> None:
    session = target.session()
    session.prepare(pythons=NAMES)
    assert session.exec_command(b"echo ran") == (0, b"ran\n", b"")
    session.close()
    within(10, lambda: [agent["serves"] for agent in agents()] == ["commands"])


def test_one_that_is_not_used_ends(target: Target) -> None:
    session = target.session()
    session.prepare()
    session.close()
    within(10, lambda: agents() == [])
    assert session.exec_command(b"true")[0] == 0


def test_without_python(target: Target) -> None:
    for _ in range(2):
        session = target.session("busybox")
        session.prepare(pythons=NAMES)
        assert session.exec_command(b"echo ran") == (0, b"ran\n", b"")
        assert session.path() == "direct: no Python was found in the container"
        assert session.exec_command(b"/bin/sh -c python3", b"_ansiballz_main")[0] == 127
        session.close()


def test_without_a_container(target: Target) -> None:
    """Nothing is said before there is a call; then it is what it always is."""
    session = on_either_path(target, "gangway-is-not-there")
    with pytest.raises(_core.ConnectionFailed) as plain:
        session.exec_command(b"true")
    session = on_either_path(target, "gangway-is-not-there")
    session.prepare(pythons=NAMES)
    with pytest.raises(_core.ConnectionFailed) as prepared:
        session.exec_command(b"true")
    assert str(prepared.value) == str(plain.value)
    session = on_either_path(target, "gangway-is-not-there")
    session.prepare(commands=False, pythons=NAMES)
    with pytest.raises(_core.ConnectionFailed) as prepared:
        session.exec_command(b"/bin/sh -c python3", b"_ansiballz_main")
    assert str(prepared.value) == str(plain.value)
    assert agents() == []


def test_without_a_broker(target: Target, tmp_path: Path) -> None:
    (tmp_path / "run" / "gangway").write_text("not a directory")
    session = on_either_path(target, "target")
    session.prepare()
    assert session.exec_command(b"echo ran") == (0, b"ran\n", b"")
    assert session.path() == "direct: there is no broker"
    (warning,) = session.warnings()
    assert "is not a directory" in warning
    (tmp_path / "run" / "gangway").unlink()
