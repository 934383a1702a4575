"""runc: containers that are hostile, broken, or read-only."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import beds
from support.ansible import Ansible
from support.ask import Answer, ask, raw
from support.sentences import FAILED, NO_SUCH_USER, UNREACHABLE, assert_refused
from support.targets import Runc

UNKNOWN = "it is not in the container's /etc/passwd"
WRITABLE = "/dev/shm"
REMEDY = (
    "set ansible_remote_tmp, and TMPDIR in the task's environment, to a directory that can be "
    "written there, for example /dev/shm"
)


def bundle(runc: Runc, name: str) -> Path:
    """Return the directory of the container's config.json."""
    state = subprocess.check_output([*runc.client, "state", name], timeout=60)
    return Path(json.loads(state)["bundle"])


@pytest.fixture(scope="module")
def hostile(bed_runc: dict[str, str]) -> Iterator[str]:
    """Return a container whose files tests may replace."""
    with Runc(bed_runc).container(f"gangway-hostile-{os.getpid()}") as name:
        yield name


@pytest.fixture
def passwd(runc: Runc, hostile: str) -> Iterator[Path]:
    """Return where the hostile container's /etc/passwd was; it is not there now."""
    path = bundle(runc, hostile) / "rootfs/etc/passwd"
    before = path.read_bytes()
    path.unlink()
    yield path
    if not path.is_symlink() and path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_bytes(before)


def enter(runc: Runc, name: str, user: str, timeout: float = 30.0) -> Callable[[], object]:
    """Return the call that enters the container as `user`."""
    return lambda: runc.session(name, user=user.encode(), timeout=timeout).exec_command(b"id -u")


@pytest.mark.parametrize("link", ["{}", "../../../../../../..{}", "/proc/1/root{}"])
def test_links_never_lead_to_this_machine(
    runc: Runc, hostile: str, passwd: Path, tmp_path: Path, link: str
) -> None:
    """A link is the container's own, wherever it says it leads."""
    ours = tmp_path / "passwd"
    ours.write_text("hostuser:x:4711:4711::/:/bin/sh\n")
    passwd.symlink_to(link.format(ours))
    assert_refused(
        enter(runc, hostile, "hostuser"),
        UNREACHABLE,
        f'runc container "{hostile}": '
        + NO_SUCH_USER.format(
            "hostuser",
            rf"({UNKNOWN}|/etc/passwd in the container cannot be read: Too many levels of .*)",
        ),
    )
    # The same file below the container's own root is what the link means.
    if link == "{}":
        theirs = passwd.parent.parent / str(ours).lstrip("/")
        theirs.parent.mkdir(parents=True)
        theirs.write_text("theirs:x:4712:4712::/:/bin/sh\n")
        assert runc.session(hostile, user=b"theirs").exec_command(b"id -u")[1] == b"4712\n"


def big(path: Path) -> None:
    path.touch()
    os.truncate(path, 100 << 20)


def device(path: Path) -> None:
    os.mknod(path, 0o20644, os.makedev(1, 5))  # /dev/zero, which never ends


UNREADABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "fifo": (os.mkfifo, "/etc/passwd in the container is not a regular file"),
    "directory": (os.mkdir, "/etc/passwd in the container is not a regular file"),
    "device": (device, "/etc/passwd in the container is not a regular file"),
    "big": (big, "/etc/passwd in the container is larger than 4194304 bytes"),
    "missing": (lambda path: None, UNKNOWN),
    "binary": (lambda path: path.write_bytes(os.urandom(1 << 20)), UNKNOWN),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_passwd_files_that_are_none(runc: Runc, hostile: str, passwd: Path, kind: str) -> None:
    """Nothing hangs, nothing without bound is read, and the file is named."""
    make, reason = UNREADABLE[kind]
    make(passwd)
    started = time.monotonic()
    assert_refused(
        enter(runc, hostile, "app"),
        UNREACHABLE,
        f'runc container "{hostile}": {NO_SUCH_USER.format("app", reason)}',
    )
    assert time.monotonic() - started < 5


def test_numbers_need_no_passwd_file(runc: Runc, hostile: str, passwd: Path) -> None:
    """Nor a group file; where runc itself hangs in one, container_timeout ends it."""
    assert runc.session(hostile, user=b"4242:77").exec_command(b"id -u; id -g")[1] == b"4242\n77\n"
    os.mkfifo(passwd)
    assert_refused(
        enter(runc, hostile, "4242:77", timeout=2.0),
        UNREACHABLE,
        f'runc container "{hostile}": the engine did not start the command within 2 seconds and '
        "was ended; whether it ran is unknown: check the engine, or raise container_timeout",
    )


def test_a_container_that_stops_between_two_calls(runc: Runc) -> None:
    """What was looked up before the stop is not believed after it."""
    with runc.container(f"gangway-stops-{os.getpid()}", "busybox") as name:
        session = runc.session(name)
        assert session.exec_command(b"echo here")[1] == b"here\n"
        runc.cli("pause", name)
        assert_refused(
            lambda: session.exec_command(b"true"),
            UNREACHABLE,
            f'runc container "{name}" is paused, not running: resume it with `runc resume {name}`',
        )
        runc.cli("resume", name)
        assert session.exec_command(b"echo here")[1] == b"here\n"
        runc.cli("kill", name, "KILL")
        for _ in range(100):
            if json.loads(subprocess.check_output([*runc.client, "state", name]))["pid"] == 0:
                break
            time.sleep(0.05)
        assert_refused(
            lambda: session.exec_command(b"true"),
            UNREACHABLE,
            f'runc container "{name}" is stopped, not running: delete it and run it again',
        )


def test_a_bundle_that_is_broken(runc: Runc) -> None:
    """What runc itself no longer needs, a session does: it says which file."""
    with runc.container(f"gangway-bundle-{os.getpid()}", "busybox") as name:
        config = bundle(runc, name) / "config.json"
        config.write_text("{")
        assert_refused(
            lambda: runc.session(name).exec_command(b"true"),
            FAILED,
            f'runc container "{name}": the bundle\'s config.json cannot be used: '
            r"it is not valid JSON \(.*\)",
        )
        config.unlink()
        assert_refused(
            lambda: runc.session(name).exec_command(b"true"),
            UNREACHABLE,
            f'runc container "{name}": the engine failed to start the command: its bundle\'s '
            rf"{config} cannot be read \(No such file or directory .*\)",
        )


# A container as `runc spec` writes it: nothing of its root can be written.


@pytest.fixture(scope="module")
def readonly(bed_runc: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Return the variables of a read-only container."""
    name = f"gangway-readonly-{os.getpid()}"
    beds.call("runc", "create", name, "--readonly")
    try:
        yield Runc(bed_runc).variables(name)
    finally:
        beds.call("runc", "delete", name)


def failed(answer: Answer) -> str:
    """Return the message of a task that FAILED, on a host that was reached."""
    assert answer["failed"] and not answer.get("unreachable"), answer
    return str(answer["msg"])


def test_a_read_only_root(ansible: Ansible, readonly: dict[str, Any], tmp_path: Path) -> None:
    """Commands work; what needs a temporary directory says so, and how to name one.

    A module that comes over stdin makes its own, by Python's tempfile; all else uses remote_tmp.
    """
    name = readonly["ansible_host"]
    somewhere = {"ansible_remote_tmp": WRITABLE}
    tempfile = {"ansible_runc_extra_env": {"TMPDIR": WRITABLE}}
    piped, copied = {"ansible_pipelining": True}, {"ansible_pipelining": False}
    hosts = {
        "plain": {},
        "copied": copied,
        "tempfile": piped | tempfile,
        "both": somewhere | tempfile,
        "both-copied": copied | somewhere | tempfile,
    }
    hosts = {host: readonly | options for host, options in hosts.items()}
    scratch = {"raw": {"plain": hosts["plain"]}, "copy": {k: hosts[k] for k in ("plain", "both")}}

    answer = ask(ansible, tmp_path, scratch["raw"], raw("id -u; touch /x"))["plain"]
    assert answer["stdout"] == "0\n" and "Read-only file system" in answer["stderr"]

    answers = ask(ansible, tmp_path, hosts, {"ansible.builtin.ping": {}})
    assert "No usable temporary directory found" in str(answers["plain"])
    sentence = (
        f'runc container "{name}": cannot create Ansible\'s temporary directory '
        f"(mkdir: cannot create directory '/root/.ansible': Read-only file system): {REMEDY}"
    )
    assert failed(answers["copied"]).endswith(sentence)
    for host in ("tempfile", "both", "both-copied"):
        assert answers[host].get("ping") == "pong", answers[host]

    copy = {"ansible.builtin.copy": {"content": "x", "dest": f"{WRITABLE}/file"}}
    answers = ask(ansible, tmp_path, scratch["copy"], copy)
    assert failed(answers["plain"]).endswith(sentence)
    assert answers["both"]["changed"], answers["both"]
