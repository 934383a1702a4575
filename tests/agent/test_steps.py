"""Ansible's own steps: what the agent does without a shell is what the shell does."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.plugins.loader import shell_loader

from support.frames import Agent, Result

# With `sleep 0` behind it in ansible-core 2.16 to 2.18.
ENDS = pytest.mark.parametrize("end", ["", " && sleep 0"])


@pytest.fixture(scope="module")
def shell() -> Any:
    """Return the plugin of this ansible-core that writes the lines."""
    plugin = shell_loader.get("sh")
    plugin.set_options()
    return plugin


def step(agent: Agent, line: str, end: str = "") -> Result:
    """Run a line as Ansible does; the agent must have done it itself."""
    result = agent.run(f"/bin/sh -c {shlex.quote(line + end)}")
    assert result.started == {}, (line, result)
    return result


def by_shell(agent: Agent, line: str) -> Result:
    """Run a line as Ansible does; the agent must have left it to the shell."""
    result = agent.run(f"/bin/sh -c {shlex.quote(line)}")
    assert result.started and result.started["pid"], (line, result)
    return result


def plainly(line: str) -> tuple[dict[str, int], bytes, bytes]:
    """Run a line in a shell of the test's own, as the agent's result says it."""
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True)
    return {"rc": done.returncode}, done.stdout, done.stderr


def tree(top: Path) -> list[tuple[str, int]]:
    """Return every path and its mode."""
    paths = sorted([top, *top.rglob("*")])
    return [(str(path.relative_to(top)), path.lstat().st_mode) for path in paths]


@ENDS
@pytest.mark.plays
@pytest.mark.parametrize("mode", [0o700, 0o711])
def test_a_directory_is_made(agent: Agent, tmp_path: Path, shell: Any, end: str, mode: int) -> None:
    trees = []
    for name, run in (("step", lambda line: step(agent, line, end)[:3]), ("plain", plainly)):
        base = tmp_path / name / "above" / "tmp"
        (tmp_path / name).mkdir(mode=0o2755)
        line = shell.mkdtemp("ansible-tmp-1.5-2-3", mode=mode, tmpdir=str(base))
        result = run(line)
        made = f"ansible-tmp-1.5-2-3={base}/ansible-tmp-1.5-2-3\n".encode()
        assert result == ({"rc": 0}, made, b"")
        trees.append(tree(tmp_path / name))
    assert trees[0] == trees[1] and len(trees[0]) == 4
    again = agent.run(f"/bin/sh -c {shlex.quote(line.replace('plain', 'step'))}")
    assert again.exit["rc"] and again.started["pid"] and b"exists" in again.stderr


@ENDS
@pytest.mark.plays
@pytest.mark.parametrize("rights", ["u+x", "u+rwx"])
def test_rights_are_given(agent: Agent, tmp_path: Path, shell: Any, end: str, rights: str) -> None:
    modes = []
    for name, run in (("step", lambda line: step(agent, line, end)[:3]), ("plain", plainly)):
        directory = tmp_path / name
        directory.mkdir(mode=0o2070)
        (directory / "file").write_text("x")
        (directory / "file").chmod(0o4004)
        (directory / "link").symlink_to("file2")
        (directory / "file2").write_text("x")
        paths = [f"{directory}/", f"{directory}/file", f"{directory}/link"]
        assert run(shell.chmod(paths, rights)) == ({"rc": 0}, b"", b"")
        modes.append([(directory / name).stat().st_mode for name in (".", "file", "file2")])
    assert modes[0] == modes[1]
    line = shell.chmod([f"{tmp_path}/step", f"{tmp_path}/missing"], rights)
    assert by_shell(agent, line)[:3] == plainly(line)


@ENDS
@pytest.mark.plays
def test_a_directory_is_removed(agent: Agent, tmp_path: Path, shell: Any, end: str) -> None:
    kept, made = tmp_path / "kept", tmp_path / "ansible-tmp-1.5-2-3"
    (kept / "inner").mkdir(parents=True)
    (kept / "file").write_text("x")
    for _ in range(2):  # and again: it is not there
        (made / "a" / "b").mkdir(parents=True)
        (made / "a" / "file").write_text("x")
        os.mkfifo(made / "fifo")
        (made / "link").symlink_to(kept)
        (made / "a" / "b" / "dangling").symlink_to("nowhere")
        line = shell.remove(f"{made}/", recurse=True)
        assert step(agent, line, end)[:3] == ({"rc": 0}, b"", b"")
        assert step(agent, line, end)[:3] == ({"rc": 0}, b"", b"")
    assert [name for name, _ in tree(tmp_path)] == [".", "kept", "kept/file", "kept/inner"]


def test_what_is_much_or_no_directory_is_removed_by_rm(
    new_agent: Agent, tmp_path: Path, shell: Any
) -> None:
    made, kept = tmp_path / "ansible-tmp-1.5-2-3", tmp_path / "kept"
    line = shell.remove(f"{made}/", recurse=True)
    (made / "/".join("abcdefgh")).mkdir(parents=True)
    assert by_shell(new_agent, line).exit == {"rc": 0}
    assert not made.exists()
    made.mkdir()
    for number in range(200):
        (made / str(number)).touch()
    assert by_shell(new_agent, line).exit == {"rc": 0}
    assert not made.exists()
    kept.mkdir()
    (kept / "file").touch()
    made.symlink_to(kept)
    wanted = plainly(line)
    assert by_shell(new_agent, line)[:3] == wanted
    assert made.is_symlink()


@ENDS
@pytest.mark.plays
def test_a_home_is_found(agent: Agent, shell: Any, end: str) -> None:
    for name in ("root", "daemon"):
        assert step(agent, shell.expand_user("~", name), end)[:3] == plainly(f"echo ~{name}")
    assert step(agent, shell.expand_user("~"), end)[:3] == plainly("echo ~")
    line = shell.expand_user("~", "nobody-has-this-name")
    assert by_shell(agent, line)[:3] == plainly(line)


def test_another_home_is_in_the_environment(start: Callable[..., Agent], newest: str) -> None:
    for home in ("/srv/a-b", "/srv/a b", r"/srv/\101", "relative", ""):
        environment = {**os.environ, "HOME": home}
        agent = start(newest, env=environment)
        wanted = subprocess.run(
            ["/bin/sh", "-c", "echo ~"], env=environment, capture_output=True
        ).stdout
        result = agent.run("/bin/sh -c 'echo ~'")
        assert result.stdout == wanted
        assert (result.started == {}) == (home == "/srv/a-b")


@pytest.mark.parametrize(
    "line",
    [
        "chmod u+x /nowhere; echo more",
        "chmod u+x '/nowhere at all'",
        "chmod u+x $HOME",
        "chmod u+x relative",
        "chmod a+x /nowhere",
        "rm -f -r /nowhere/other/ > /dev/null 2>&1",
        "rm -f -r /nowhere/ansible-tmp-1.5-2-3 > /dev/null 2>&1",
        "echo ~ more",
        "echo ~/x",
    ],
)
def test_other_lines_are_the_shells(new_agent: Agent, line: str) -> None:
    assert by_shell(new_agent, line)[:3] == plainly(line)


def test_programs_of_another_place_are_run(
    start: Callable[..., Agent], newest: str, tmp_path: Path
) -> None:
    """Somebody wants them to be."""
    program = tmp_path / "chmod"
    program.write_text("#!/bin/sh\necho mine\n")
    program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    agent = start(newest, env={**os.environ, "PATH": path})
    assert by_shell(agent, f"chmod u+x {tmp_path}").stdout == b"mine\n"
    agent = start(newest, env={**os.environ, "PATH": "/nowhere"})
    assert by_shell(agent, f"chmod u+x {tmp_path}").exit == {"rc": 127}
