"""Podman: its options, its detach keys, and what it loses when stdin is left unread."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import beds, variables
from support.ansible import Ansible
from support.ask import Answer, ask, raw
from support.sentences import FAILED, assert_refused
from support.targets import Podman
from support.transfers import assert_works

SEEN = """printf '%s\\n' "user=$(id -u):$(id -g) $(id -G)" "dir=$PWD" "word=$WORD" """
# What a command of the bed's containers has when no option is set.
PLAIN = {"user": "0:0 0", "dir": "/", "word": ""}
APP = "1000:1000 1000 2000"
CTRL_P_CTRL_Q = b"a\x10\x11b\r\n\x10"


def seen(answer: Answer) -> dict[str, str]:
    """Return what SEEN printed."""
    assert answer.get("rc") == 0, answer
    return dict(line.split("=", 1) for line in answer["stdout"].splitlines())


def logging_client(podman: Podman, directory: Path) -> Path:
    """Return a client that adds its arguments to the file beside it and is then the bed's own."""
    program = directory / "client"
    client = podman.env["GANGWAY_PODMAN"]
    program.write_text(
        f'#!/bin/sh\n{{ printf \'%s\\t\' "$@"; echo; }} >>"$0.log"\nexec {client} "$@"\n'
    )
    program.chmod(0o755)
    return program


# Options through Ansible.


def test_variables(podman: Podman, ansible: Ansible, tmp_path: Path) -> None:
    """Each does what it is for, and changes nothing else."""
    word = """grüße, 'one'  "two" $HOME"""
    cases: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
        "target": ({"ansible_host": "{{ inventory_hostname }}"}, {}),
        # The plugin that this one takes the place of has it in its documentation only.
        "podman-host": ({"ansible_host": "nosuch", "ansible_podman_host": "target"}, {}),
        "user": ({"ansible_user": "app"}, {"user": APP}),
        "podman-user": (
            {"ansible_user": "nosuch", "ansible_podman_user": "app:extra"},
            {"user": "1000:2000 2000"},
        ),
        "number": ({"ansible_user": 4242}, {"user": "4242:0 0"}),
        "extra-args": ({"ansible_podman_extra_args": "--log-level 'error'"}, {}),
        "extra-env": ({"ansible_podman_extra_env": {"WORD": word}}, {"word": word}),
        "directory": ({"ansible_podman_working_directory": "/usr/lib"}, {"dir": "/usr/lib"}),
        "dir": ({"ansible_podman_working_dir": "/usr/lib"}, {"dir": "/usr/lib"}),
        "no-timeout": ({"ansible_podman_timeout": 0}, {}),
        "no-mounts": ({"ansible_podman_mount_detection": False}, {}),
        "mount-errors": ({"ansible_podman_ignore_mount_errors": False}, {}),
        "su": ({"ansible_podman_privilege_escalation": "su"}, {}),
        "none": (
            {"ansible_podman_privilege_escalation": "none", "ansible_user": "app"},
            {"user": APP},
        ),
    }
    common = podman.variables("target") | {"ansible_podman_timeout": 60}
    hosts = {name: common | options for name, (options, _) in cases.items()}
    answers = ask(ansible, tmp_path, hosts, raw(SEEN))
    for name, (_, changed) in cases.items():
        # `su` starts in a login's environment but stays where it is.
        assert seen(answers[name]) == PLAIN | changed, name


def test_privilege_escalation_by_sudo(podman: Podman, ansible: Ansible, tmp_path: Path) -> None:
    """Commands and modules run as root without become, of a user whom sudo asks for nothing."""
    with podman.container(f"gangway-sudo-{os.getpid()}") as name:
        podman.run(name, "umask 227; echo 'app ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/app")
        method = {"ansible_podman_privilege_escalation": "sudo", "ansible_user": "app"}
        hosts = {"box": podman.variables(name) | method | {"ansible_podman_timeout": 60}}
        for task in (
            {"ansible.builtin.raw": "id -un | cat"},
            {"ansible.builtin.command": "id -un"},
        ):
            answer = ask(ansible, tmp_path, hosts, task)["box"]
            assert answer["stdout"].strip() == "root", answer


def test_environment(podman: Podman, ansible: Ansible, tmp_path: Path) -> None:
    """Every option that has a variable of the environment."""
    client = logging_client(podman, tmp_path)
    env = {
        # Any variable of a host goes before it, and every host has inventory_hostname.
        "ANSIBLE_PODMAN_HOST": "nosuch",
        "ANSIBLE_REMOTE_USER": "app",
        "ANSIBLE_PODMAN_WORKING_DIR": "/usr/lib",
        "ANSIBLE_PODMAN_TIMEOUT": "60",
        "ANSIBLE_PODMAN_MOUNT_DETECTION": "false",
        "ANSIBLE_PODMAN_EXECUTABLE": str(client),
        "ANSIBLE_PODMAN_EXTRA_ARGS": "--log-level 'error'",
    }
    hosts = {"target": {"ansible_connection": "gangway.exec.podman"}}
    answer = ask(ansible, tmp_path, hosts, raw(SEEN), env=env)["target"]
    assert seen(answer) == PLAIN | {"user": APP, "dir": "/usr/lib"}
    assert client.with_name("client.log").read_text().startswith("--log-level\terror\texec\t")


@pytest.mark.parametrize("section", ["own", "of the other plugin"])
def test_ini(podman: Podman, ansible: Ansible, tmp_path: Path, section: str) -> None:
    """Every option that has a key of ansible.cfg, as it is here and as it is there."""
    client = logging_client(podman, tmp_path)
    settings = tmp_path / "ansible.cfg"
    if section == "own":
        settings.write_text(
            f"[podman_connection]\nexecutable = {client}\nextra_cli_args = --log-level 'error'\n"
            "working_dir = /usr/lib\ntimeout = 60\n[defaults]\nremote_user = app\n"
        )
    else:
        settings.write_text(
            f"[defaults]\npodman_executable = {client}\npodman_extra_args = --log-level 'error'\n"
            "podman_timeout = 60\nremote_user = app\n"
        )
    hosts = {"target": {"ansible_connection": "gangway.exec.podman"}}
    env = {"ANSIBLE_CONFIG": str(settings)}
    answer = ask(ansible, tmp_path, hosts, raw(SEEN), env=env)["target"]
    changed = {"dir": "/usr/lib"} if section == "own" else {}
    assert seen(answer) == PLAIN | changed | {"user": APP}
    assert client.with_name("client.log").read_text().startswith("--log-level\terror\texec\t")


# What podman looks for in stdin, and what it loses.


@pytest.fixture(scope="module")
def service(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Return the options of a session that go through podman's API service, as podman-remote."""
    socket = tmp_path_factory.mktemp("service") / "podman.sock"
    process = subprocess.Popen(
        [*podman.client, "system", "service", "--time", "0", f"unix://{socket}"],
        env=beds.environment(podman.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while not socket.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        # Not the bed's wrapper, whose settings are for a local podman only.
        yield {"executable": b"podman", "extra_args": f"--remote --url unix://{socket}".encode()}
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(params=["local", "remote"])
def options(request: pytest.FixtureRequest, podman: Podman) -> dict[str, Any]:
    """Return the options of sessions by both ways to a container."""
    if request.param == "local":
        return {"executable": os.fsencode(podman.env["GANGWAY_PODMAN"]), "extra_args": b""}
    options: dict[str, Any] = request.getfixturevalue("service")
    return options


# Hands stdin on one byte at a time.
DRIP = """#!/bin/sh
{{
  while byte=$(dd bs=1 count=1 2>/dev/null | od -An -to1 | tr -d ' \\n'); [ "$byte" ]; do
    sleep 0.15
    printf "\\\\$byte"
  done
}} | {client} "$@"
"""


def test_detach_keys_in_stdin(podman: Podman, tmp_path: Path, options: dict[str, Any]) -> None:
    """Bytes that come one by one are no keys: neither inside nor at the end of a write."""
    drip = tmp_path / "drip"
    drip.write_text(DRIP.format(client=options["executable"].decode()))
    drip.chmod(0o755)
    arguments = options["extra_args"].decode().split()
    # So does podman without the option: it ends in the middle.
    bare = [drip, *arguments, "exec", "--interactive", "target", "cat"]
    lost = subprocess.run(bare, input=CTRL_P_CTRL_Q, capture_output=True, timeout=60)
    assert lost.stdout != CTRL_P_CTRL_Q
    assert b"detached from container" in lost.stderr
    session = podman.session(**options | {"executable": os.fsencode(drip)})
    assert session.exec_command(b"cat", CTRL_P_CTRL_Q) == (0, CTRL_P_CTRL_Q, b"")
    local = tmp_path / "local"
    local.write_bytes(CTRL_P_CTRL_Q)
    session.put_file(bytes(local), b"/tmp/gangway-keys")
    assert podman.run("target", "cat /tmp/gangway-keys; rm /tmp/gangway-keys") == CTRL_P_CTRL_Q


def test_every_exec_names_its_detach_keys(podman: Podman, ansible: Ansible, tmp_path: Path) -> None:
    """Modules with and without pipelining, commands, copies in both directions, become."""
    client = logging_client(podman, tmp_path)
    box = podman.variables("target") | {"ansible_podman_executable": str(client)}
    hosts = {"box": box, "files": box | {"ansible_pipelining": False}}
    (tmp_path / "local").write_text("x")
    tasks: list[dict[str, Any]] = [
        raw("true"),
        {"ansible.builtin.command": "true", "become": True, "become_user": "app"},
        {"ansible.builtin.copy": {"src": str(tmp_path / "local"), "dest": "/tmp/gangway-argv"}},
        {"ansible.builtin.fetch": {"src": "/etc/hostname", "dest": f"{tmp_path}/fetched"}},
    ]
    for task in tasks:
        for answer in ask(ansible, tmp_path, hosts, task).values():
            assert not answer.get("failed") and not answer.get("unreachable"), answer
    podman.run("target", "rm /tmp/gangway-argv")
    lines = [line.split("\t") for line in client.with_name("client.log").read_text().splitlines()]
    execs = [line for line in lines if line[0] == "exec"]
    assert len(execs) >= 20
    assert all(line[1].startswith("--detach-keys=") for line in execs)
    assert any("--interactive" in line for line in execs)


def test_stdin_that_is_left_unread(podman: Podman, options: dict[str, Any]) -> None:
    """The output of a command that reads nothing arrives, at every one of many attempts."""
    session = podman.session(**options)
    for _ in range(20):
        assert session.exec_command(b"echo out; exit 3", b"unread") == (3, b"out\n", b"")
    # More than fits into the pipes on the way.
    assert session.exec_command(b"echo out; exit 3", bytes(5 << 20)) == (3, b"out\n", b"")


def test_a_service(podman: Podman, tmp_path: Path, service: dict[str, Any]) -> None:
    """Through podman-remote all is the same."""
    env = {b"LINES": b"one\ntwo", b"SECRET": b"s3cret"}
    session = podman.session(**service, env=env, user=b"app", working_dir=b"/usr/lib")
    assert_works(session, tmp_path, 5 << 20)
    printed = session.exec_command(b'echo "$LINES" $SECRET $(id -un) $PWD')
    assert printed == (0, b"one\ntwo s3cret app /usr/lib\n", b"")


# What comes with the container.


def test_an_image_with_a_user(podman: Podman, tmp_path: Path) -> None:
    """Its user is the one that enters, with that one's rights."""
    local = tmp_path / "local"
    local.write_text("x")
    with podman.container(f"gangway-nonroot-{os.getpid()}", image="nonroot") as name:
        session = podman.session(name)
        assert session.exec_command(b"id -un; echo $HOME")[1] == b"app\n/home/app\n"
        assert_works(session, tmp_path)
        assert_refused(
            lambda: session.put_file(bytes(local), b"/etc/gangway"),
            FAILED,
            f'podman container "{name}": cannot put "/etc/gangway": Permission denied; '
            "nothing there was changed",
        )
        assert podman.session(name, user=b"root").exec_command(b"id -u")[1] == b"0\n"


def test_environment_variables_arrive_unchanged(podman: Podman) -> None:
    """Also those that podman's env files cannot hold: several lines, or 64 KiB."""
    session = podman.session(env=variables.ENV)
    assert session.exec_command(variables.PRINT) == (0, variables.PRINTED, b"")
