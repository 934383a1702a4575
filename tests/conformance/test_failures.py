"""Bad input at the level of a session: the right class, one clear sentence, nothing lost."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ansible_gangway import _core
from support.pods import pod
from support.targets import Target

UNREACHABLE, FAILED = _core.ConnectionFailed, _core.Error
# With users of their own, and containers that can be in other states than running.
with_users = pytest.mark.parametrize("target", ["docker", "podman", "runc"], indirect=True)


def refused(call: Callable[[], object], error: type[_core.Error], *sentence: str) -> None:
    """Assert that `call` raises exactly `error`, with a text that is `sentence`, a pattern."""
    with pytest.raises(_core.Error) as raised:
        call()
    text = str(raised.value)
    assert re.fullmatch("".join(sentence), text), text
    assert type(raised.value) is error, text
    assert len(text) < 600 and text.isprintable()


def named(target: Target, container: str = "target") -> str:
    """Return how every sentence names the container, as a pattern."""
    noun = "pod" if target.engine == "kubectl" else f"{target.engine} container"
    return f'{noun} "{container}"'


def calls(session: _core.Session, directory: Path) -> list[Callable[[], object]]:
    """Return all three calls on a session, each of which would leave something behind."""
    local = directory / "local"
    local.write_text("x")
    return [
        lambda: session.exec_command(b"touch /tmp/gangway-failures"),
        lambda: session.put_file(bytes(local), b"/tmp/gangway-failures"),
        lambda: session.fetch_file(b"/etc/passwd", bytes(directory / "fetched")),
    ]


def test_no_such_container(target: Target, tmp_path: Path) -> None:
    name = "gangway-no-such"
    for call in calls(target.session(name), tmp_path):
        ends = r" does not exist \(.*\): check its name, or start it first"
        refused(call, UNREACHABLE, named(target, name), ends)
    assert os.listdir(tmp_path) == ["local"]


STATES = {
    ("runc", "created"): "created, not running: start it with `runc start {}`",
    ("runc", "stopped"): "stopped, not running: delete it and run it again",
    ("runc", "paused"): "paused, not running: resume it with `runc resume {}`",
    ("docker", "created"): "created, not running: start it with `docker start {}`",
    ("docker", "stopped"): "exited, not running: start it with `docker start {}`",
    ("docker", "paused"): "paused, not running: unpause it with `docker unpause {}`",
    ("podman", "created"): "created, not running: start it with `podman start {}`",
    ("podman", "stopped"): "exited, not running: start it with `podman start {}`",
    ("podman", "paused"): "paused, not running: unpause it with `podman unpause {}`",
}


@with_users
@pytest.mark.parametrize("state", ["created", "stopped", "paused"])
def test_a_container_that_does_not_run(target: Target, state: str, tmp_path: Path) -> None:
    """The state is named, and how to end it."""
    with target.container(f"gangway-{state}-{os.getpid()}", "busybox", state) as name:
        for call in calls(target.session(name), tmp_path):
            ends = STATES[target.engine, state].format(name)
            refused(call, UNREACHABLE, named(target, name), " is ", ends)


@pytest.mark.parametrize("target", ["kubectl"], indirect=True)
def test_a_pod_that_has_ended(target: Target, tmp_path: Path) -> None:
    for call in calls(target.session("done"), tmp_path):
        ends = (
            r" is (succeeded|completed), not running: see `kubectl describe pod.*` for the reason"
        )
        refused(call, UNREACHABLE, 'pod "done"', ends)


def test_the_executable(target: Target, tmp_path: Path) -> None:
    """Missing, no program, or another one."""
    here = named(target)
    missing = (
        f': the executable ".*" was not found: install it, or name it in ansible_{target.engine}'
        "_executable"
    )
    cases = {
        b"/no/such/engine": missing,
        b"no-such-engine": missing,
        b"/etc/passwd": ': cannot run "/etc/passwd": Permission denied.*',
        b"/bin/false": ": the engine failed to start the command: it said nothing",
    }
    if target.engine == "podman":  # which has lost the output of commands that it did start
        cases[b"/bin/false"] = r": the stream .*was lost .*\(podman ended with status 1 .*"
    for executable, ends in cases.items():
        for call in calls(target.session(executable=executable), tmp_path):
            refused(call, UNREACHABLE, here, ends)


NOT_REACHED = r": the engine cannot be reached \(.*\): check that it is up and where it listens"
MISCONFIGURED = r": the engine's client is configured wrongly \(.*\): check the options .*"
# Not the bed's wrapper, whose settings are for the local podman only.
REMOTE: dict[str, Any] = {"executable": b"podman"}
ENGINES: list[tuple[str, dict[str, Any], str]] = [
    ("docker", {"extra_args": b"-H unix:///no/such.sock"}, NOT_REACHED),
    ("docker", {"extra_args": b"-H tcp://127.0.0.1:1"}, NOT_REACHED),
    ("docker", {"extra_args": b"--context no-such"}, MISCONFIGURED),
    ("podman", REMOTE | {"extra_args": b"--remote --url unix:///no/such.sock"}, NOT_REACHED),
    ("podman", REMOTE | {"extra_args": b"--remote --url tcp://127.0.0.1:1"}, NOT_REACHED),
    ("podman", REMOTE | {"extra_args": b"--remote --connection no-such"}, MISCONFIGURED),
    ("podman", {"extra_args": b"--no-such"}, MISCONFIGURED),
    ("kubectl", {"server": b"https://127.0.0.1:1"}, NOT_REACHED),
    ("kubectl", {"context": b"no-such"}, MISCONFIGURED),
    ("kubectl", {"kubeconfig": b"/proc/no/such"}, MISCONFIGURED),
]


@pytest.mark.parametrize(("target", "options", "ends"), ENGINES, indirect=["target"])
def test_an_engine_that_cannot_be_reached(
    target: Target, options: dict[str, Any], ends: str, tmp_path: Path
) -> None:
    """Nobody listens there, or the client does not know where that is."""
    for call in calls(target.session(**options), tmp_path):
        refused(call, UNREACHABLE, named(target), ends)


@with_users
@pytest.mark.parametrize("user", ["no-such", "app:no-such"])
def test_unknown_user(target: Target, user: str, tmp_path: Path) -> None:
    for call in calls(target.session(user=user.encode()), tmp_path):
        ends = (
            f': the user "{user}" cannot be used '
            r"\(.*\): create it in the container, or set another remote_user"
        )
        refused(call, UNREACHABLE, named(target), ends)


def test_no_shell(target: Target, tmp_path: Path) -> None:
    """A container without any, and one without the shell that was asked for."""
    with target.container(f"gangway-noshell-{os.getpid()}", "noshell") as name:
        for call in calls(target.session(name), tmp_path):
            ends = r' has no usable shell "/bin/sh" \(.*\): every connection runs commands .*'
            refused(call, FAILED, named(target, name), ends)
    session = target.session("busybox", shell=b"/bin/bash")
    ends = r' has no usable shell "/bin/bash" \(it is not in the container\): .*'
    refused(calls(session, tmp_path)[0], FAILED, named(target, "busybox"), ends)


def test_extra_arguments(target: Target) -> None:
    """What cannot be split is refused before anything runs."""
    ends = (
        f": {target.engine}_extra_args cannot be used: it has an unclosed quote or ends in a "
        "backslash: quote it as for a shell"
    )
    for line in (b"--flag 'open", b'--flag "open', b"--flag open\\"):
        refused(lambda line=line: target.session(extra_args=line), FAILED, named(target), ends)


@contextmanager
def full_disk(target: Target) -> Iterator[tuple[str, str]]:
    """Make a container with a directory in which 1 MiB is left; return both names."""
    with target.container(f"gangway-full-{os.getpid()}") as name:
        # A tmpfs of its own in every engine's containers, 64 MiB by default.
        free = target.run(name, "df --output=avail -B1K /dev/shm | tail -1")
        target.run(name, f"fallocate -l {int(free) - 1024}K /dev/shm/filler")
        yield name, "/dev/shm"


def test_a_full_disk(target: Target, tmp_path: Path) -> None:
    """The old file survives, a new one is not there, and no temporary file is left."""
    local = tmp_path / "local"
    local.write_bytes(os.urandom(3 << 20))
    with full_disk(target) as (name, directory):
        target.run(name, f"echo old >{directory}/old; chmod 604 {directory}/old")
        session = target.session(name)
        for file in ("old", "new"):
            ends = (
                f': cannot put "{directory}/{file}": .*No space left on device; nothing .* changed'
            )
            path = f"{directory}/{file}".encode()
            refused(
                lambda path=path: session.put_file(bytes(local), path),
                FAILED,
                named(target, name),
                ends,
            )
        script = f"cat {directory}/old; stat -c %a {directory}/old; ls -A {directory}"
        assert target.run(name, script) == b"old\n604\nfiller\nold\n"
        local.write_bytes(b"fits")
        assert session.put_file(bytes(local), f"{directory}/old".encode()) is None
        assert target.run(name, script) == b"fits604\nfiller\nold\n"


def test_a_full_local_disk(target: Target, tmp_path: Path) -> None:
    """The reason is the system's, and it names the local path."""
    fetch = target.session().fetch_file
    refused(lambda: fetch(b"/etc/passwd", b"/dev/full"), FAILED, "/dev/full: No space left .*")
    nowhere = bytes(tmp_path / "no" / "such")
    refused(lambda: fetch(b"/etc/passwd", nowhere), FAILED, ".*/no/such: No such file .*")
    refused(lambda: fetch(b"/etc/passwd", bytes(tmp_path)), FAILED, f"{tmp_path}: is a directory")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["/sys/kernel/notes", "/sys/kernel/no-such", "/proc/sys/kernel/hostname"]
)
def test_a_read_only_target(target: Target, tmp_path: Path, path: str) -> None:
    """Nothing there is changed, and it does not say that something might be."""
    local = tmp_path / "local"
    local.write_text("x")
    ends = f': cannot put "{path}": .*[a-z]; nothing there was changed'
    put = target.session().put_file
    refused(lambda: put(bytes(local), path.encode()), FAILED, named(target), ends)


def test_files_of_others(target: Target, tmp_path: Path) -> None:
    """What the user of the session may not read or write is refused in the system's words."""
    local, back = tmp_path / "local", tmp_path / "back"
    local.write_text("x")
    with unprivileged(target) as (session, here):
        assert session.exec_command(b"id -u")[1] == b"1000\n"
        for path in (b"/etc/shadow", b"/root/x"):
            ends = f': cannot fetch "{path.decode()}": Permission denied'
            refused(lambda path=path: session.fetch_file(path, bytes(back)), FAILED, here, ends)
        for path in (b"/etc/passwd", b"/etc/new"):
            ends = f': cannot put "{path.decode()}": .*Permission denied; nothing there was changed'
            refused(lambda path=path: session.put_file(bytes(local), path), FAILED, here, ends)
    assert os.listdir(tmp_path) == ["local"]


@contextmanager
def unprivileged(target: Target) -> Iterator[tuple[_core.Session, str]]:
    """Open a session as the user `app`; return it and how it names its container."""
    if target.engine != "kubectl":
        yield target.session(user=b"app"), named(target)
        return
    with pod(target, f"gangway-app-{os.getpid()}", {"runAsUser": 1000}) as name:
        yield target.session(name), named(target, name)
