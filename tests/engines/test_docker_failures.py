"""Docker: what does not work ends in one sentence."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from support.certificates import self_signed
from support.sentences import (
    CHECK_NAME,
    FAILED,
    NO_SHELL,
    NO_SUCH_USER,
    NOT_REACHED,
    REFUSED_ACCESS,
    UNREACHABLE,
    WRONG_SETTINGS,
    assert_refused,
)
from support.targets import Docker

DOWN = r"Cannot connect to the Docker daemon at {}\. Is the docker daemon running\?"
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "daemon-down": (
        {"extra_args": b"-H tcp://127.0.0.1:1"},
        UNREACHABLE,
        NOT_REACHED.format(DOWN.format("tcp://127.0.0.1:1")),
    ),
    "no-socket": (
        {"extra_args": b"-H unix:///no/such.sock"},
        UNREACHABLE,
        NOT_REACHED.format(DOWN.format("unix:///no/such.sock")),
    ),
    "context": (
        {"extra_args": b"--context nosuch"},
        UNREACHABLE,
        WRONG_SETTINGS.format('.*context "nosuch": context not found: .*'),
    ),
    "scheme": (
        {"extra_args": b"-H nonsense://x"},
        UNREACHABLE,
        WRONG_SETTINGS.format(".*nonsense://x"),
    ),
    "flag": (
        {"extra_args": b"--no-such-flag"},
        UNREACHABLE,
        WRONG_SETTINGS.format("unknown flag: --no-such-flag; .*"),
    ),
    "quote": (
        {"extra_args": b"-H 'x"},
        FAILED,
        "docker_extra_args cannot be used: it has an unclosed quote or ends in a backslash: "
        "quote it as for a shell",
    ),
    "executable": (
        {"executable": b"/no/such/docker"},
        UNREACHABLE,
        'the executable "/no/such/docker" was not found: install it, or name it in '
        "ansible_docker_executable",
    ),
    "no-program": (
        {"executable": b"/etc/passwd"},
        UNREACHABLE,
        r'cannot run "/etc/passwd": Permission denied \(os error 13\)',
    ),
    "not-docker": (
        {"executable": b"/bin/true"},
        UNREACHABLE,
        "the engine failed to start the command: it said nothing",
    ),
    "user": (
        {"user": b"nosuch"},
        UNREACHABLE,
        NO_SUCH_USER.format("nosuch", "unable to find user nosuch: .*"),
    ),
    "group": (
        {"user": b"app:nosuch"},
        UNREACHABLE,
        NO_SUCH_USER.format("app:nosuch", "unable to find group nosuch: .*"),
    ),
    "number": (
        {"user": b"4294967294"},
        UNREACHABLE,
        NO_SUCH_USER.format("4294967294", "uids and gids must be in range .*"),
    ),
    "directory": (
        {"working_dir": b"/no/such"},
        FAILED,
        r'working_dir "/no/such" cannot be entered: .*no such file or directory.*',
    ),
    "relative": (
        {"working_dir": b"usr"},
        FAILED,
        r'working_dir "usr" cannot be entered: .*must be an absolute path.*',
    ),
    "name-of-a-variable": (
        {"env": {b"A B": b"s3cret"}},
        FAILED,
        'extra_env cannot be used: "A B" is no name and value for an environment variable',
    ),
    "length": (
        {"env": {b"LONG": b"x" * (128 << 10)}},
        FAILED,
        "extra_env cannot be used: LONG is longer than the 128 KiB that an environment variable "
        "can have",
    ),
    "bytes": (
        {"env": {b"BYTES": b"s3cret \xff"}},
        FAILED,
        "extra_env cannot be used: BYTES is not UTF-8 text, and the engine takes nothing else",
    ),
    "the-clients-own": (
        {"env": {b"DOCKER_HOST": b"s3\ncret"}},
        FAILED,
        "extra_env cannot be used: a value of several lines, or of 64 KiB, for DOCKER_HOST would "
        "change the engine's client itself",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_options(docker: Docker, case: str) -> None:
    options, error, sentence = REFUSED[case]
    assert_refused(
        lambda: docker.session(**options).exec_command(b"true"),
        error,
        f'docker container "target": {sentence}',
    )


@pytest.mark.parametrize("name", ["nosuch", "a/b", "a b", "ü"])
def test_no_such_container(docker: Docker, tmp_path: Path, name: str) -> None:
    """Any call says so."""
    local = tmp_path / "local"
    local.touch()
    sentence = (
        f'docker container "{name}" does not exist \\(No such container: {name}\\): {CHECK_NAME}'
    )
    session = docker.session(name)
    assert_refused(lambda: session.exec_command(b"true"), UNREACHABLE, sentence)
    assert_refused(lambda: session.put_file(bytes(local), b"/x"), UNREACHABLE, sentence)
    assert_refused(lambda: session.fetch_file(b"/x", bytes(local)), UNREACHABLE, sentence)


@pytest.mark.parametrize(("name", "reason"), [("", "it is empty"), ("-x", "it begins with a dash")])
def test_names_that_no_container_has(docker: Docker, name: str, reason: str) -> None:
    assert_refused(
        lambda: docker.session(name),
        FAILED,
        f'docker container "{name}": remote_addr cannot be used: {reason}: name the container',
    )


STATES = {"created": "start", "stopped": "start", "paused": "unpause"}


@pytest.mark.parametrize("state", STATES)
def test_containers_that_do_not_run(docker: Docker, tmp_path: Path, state: str) -> None:
    """The state and the command that helps are named, as the daemon calls them."""
    local = tmp_path / "local"
    local.touch()
    called = "exited" if state == "stopped" else state
    with docker.container(f"gangway-{state}-{os.getpid()}", "busybox", state) as name:
        session = docker.session(name)
        sentence = (
            f'docker container "{name}" is {called}, not running: {STATES[state]} it with '
            f"`docker {STATES[state]} {name}`"
        )
        assert_refused(lambda: session.exec_command(b"true"), UNREACHABLE, sentence)
        assert_refused(lambda: session.put_file(bytes(local), b"/x"), UNREACHABLE, sentence)
        assert_refused(lambda: session.fetch_file(b"/x", bytes(local)), UNREACHABLE, sentence)


def test_containers_without_a_shell(docker: Docker) -> None:
    assert_refused(
        lambda: docker.session("noshell").exec_command(b"true"),
        FAILED,
        rf'docker container "noshell" has no usable shell "/bin/sh" \(.*stat /bin/sh: .*\): '
        rf"{NO_SHELL}",
    )
    assert_refused(
        lambda: docker.session(shell=b"/bin/zsh").exec_command(b"true"),
        FAILED,
        r'docker container "target" has no usable shell "/bin/zsh" \(it is not in the '
        rf"container\): {NO_SHELL}",
    )


# Refused on the way.


def test_certificates(docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that is not trusted, or does not trust us, is one sentence."""
    good = Path(docker.env["GANGWAY_DOCKER_TLS_CERTS"])
    stranger = self_signed(tmp_path / "stranger")

    def certificates(name: str, **files: Path) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        for file, source in files.items():
            shutil.copy(source / f"{file}.pem", directory)
        return directory

    settings = rf'docker container "target": {WRONG_SETTINGS}'
    # How far the handshake got when the daemon hung up is a matter of luck.
    refused = (
        f'docker container "target": ({REFUSED_ACCESS.format(".*remote error: tls: .*")}'
        f"|{NOT_REACHED.format('.*(reset by peer|broken pipe|EOF).*')})"
    )
    cases = {
        certificates("none"): settings.format(r"Failed to initialize: .*open .*/none/ca\.pem: .*"),
        certificates("no-client", ca=good): refused,
        certificates("strange-client", ca=good, cert=stranger, key=stranger): refused,
        certificates("strange-daemon", ca=stranger, cert=good, key=good): settings.format(
            "error during connect: .*x509: certificate signed by unknown authority.*"
        ),
        certificates("wrong-key", ca=good, cert=good, key=stranger): settings.format(
            "Failed to initialize: .*private key does not match public key"
        ),
    }
    monkeypatch.setenv("DOCKER_HOST", docker.env["GANGWAY_DOCKER_TLS_HOST"])
    session = docker.session(extra_args=b"")
    plain = settings.format("Client sent an HTTP request to an HTTPS server")
    assert_refused(lambda: session.exec_command(b"true"), UNREACHABLE, plain)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    for directory, sentence in cases.items():
        monkeypatch.setenv("DOCKER_CERT_PATH", str(directory))
        assert_refused(lambda: session.exec_command(b"true"), UNREACHABLE, sentence)


def test_ssh_that_does_not_get_there(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ssh said is in the sentence."""
    host = docker.env["GANGWAY_DOCKER_SSH_HOST"]
    path = f"{docker.env['GANGWAY_DOCKER_SSH_PATH']}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    for address, reason in (
        ("ssh://root@127.0.0.1:1", "port 1: Connection refused"),
        (host.replace("root@", "nobody@"), r"Permission denied \(publickey\)"),
    ):
        monkeypatch.setenv("DOCKER_HOST", address)
        sentence = NOT_REACHED.format(f"error during connect: .*{reason}")
        assert_refused(
            lambda: docker.session(extra_args=b"").exec_command(b"true"),
            UNREACHABLE,
            f'docker container "target": {sentence}',
        )
