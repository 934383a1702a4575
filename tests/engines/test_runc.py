"""runc: how options and users reach real containers, and what bad ones end in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from support import variables
from support.ansible import Ansible
from support.ask import Answer, ask, raw
from support.sentences import (
    CHECK_NAME,
    FAILED,
    NO_SHELL,
    NO_SUCH_USER,
    UNREACHABLE,
    WRONG_SETTINGS,
    assert_refused,
    assert_unreachable,
)
from support.targets import Runc
from support.transfers import assert_works

WHO_AND_WHERE = r"""printf '%s\n' "user=$(id -u):$(id -g) $(id -G)" "dir=$PWD" "word=$WORD" """
# What a command of the bed's containers has when no option is set.
PLAIN = {"user": "0:0 0", "dir": "/", "word": ""}
APP = "1000:1000 1000 2000"
CONNECTION = {"ansible_connection": "gangway.exec.runc", "ansible_host": "target"}


def seen(answer: Answer) -> dict[str, str]:
    """Return what WHO_AND_WHERE printed."""
    assert answer.get("rc") == 0, answer
    return dict(line.split("=", 1) for line in answer["stdout"].splitlines())


def logging_runc(directory: Path) -> Path:
    """Return a client that leaves its arguments in the file beside it and is then runc itself."""
    program = directory / "client"
    program.write_text('#!/bin/sh\necho "$@" >>"$0.log"\nexec runc "$@"\n')
    program.chmod(0o755)
    return program


# Options through Ansible.


def test_variables(runc: Runc, ansible: Ansible, tmp_path: Path) -> None:
    """Each does what it is for, and changes nothing else."""
    root = runc.env["GANGWAY_RUNC_ROOT"]
    (tmp_path / "a b").symlink_to(root)
    word = """grüße, 'one'  "two" $HOME"""
    cases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "target": ({"ansible_host": "{{ inventory_hostname }}"}, {}),
        "runc-host": ({"ansible_host": "nosuch", "ansible_runc_host": "target"}, {}),
        "user": ({"ansible_user": "app"}, {"user": APP}),
        "runc-user": (
            {"ansible_user": "nosuch", "ansible_runc_user": "app:extra"},
            {"user": "1000:2000 2000"},
        ),
        "number": ({"ansible_user": 4242}, {"user": "4242:0 0"}),
        "extra-env": ({"ansible_runc_extra_env": {"WORD": word}}, {"word": word}),
        "working-dir": ({"ansible_runc_working_dir": "/usr/lib"}, {"dir": "/usr/lib"}),
    }
    hosts = {
        name: {**CONNECTION, "ansible_runc_root": root, **case[0]} for name, case in cases.items()
    }
    hosts["extra-args"] = CONNECTION | {
        "ansible_runc_extra_args": f"--root '{tmp_path}/a b' --systemd-cgroup=false"
    }
    answers = ask(ansible, tmp_path, hosts, raw(WHO_AND_WHERE))
    assert seen(answers.pop("extra-args")) == PLAIN
    for name, answer in answers.items():
        assert seen(answer) == PLAIN | cases[name][1], name


def test_environment_and_ini(runc: Runc, ansible: Ansible, tmp_path: Path) -> None:
    """Every option that has a variable of the environment, or a key of ansible.cfg."""
    root, client = runc.env["GANGWAY_RUNC_ROOT"], logging_runc(tmp_path)
    settings = tmp_path / "ansible.cfg"
    settings.write_text(
        f"[defaults]\nremote_user = app\n[runc_connection]\nexecutable = {client}\nroot = {root}\n"
        "extra_cli_args = --debug\nworking_dir = /usr/lib\n"
    )
    environment = {
        "ANSIBLE_REMOTE_USER": "app",
        "ANSIBLE_RUNC_ROOT": root,
        "ANSIBLE_RUNC_EXECUTABLE": str(client),
        "ANSIBLE_RUNC_WORKING_DIR": "/usr/lib",
    }
    for env in (environment, {"ANSIBLE_CONFIG": str(settings)}):
        answers = ask(ansible, tmp_path, {"a": CONNECTION}, raw(WHO_AND_WHERE), env=env)
        assert seen(answers["a"]) == PLAIN | {"user": APP, "dir": "/usr/lib"}
    calls = client.with_name("client.log").read_text().splitlines()
    # Each time one `runc state` and one `runc exec`.
    assert [f"--root {root}" in call for call in calls] == [True] * 4
    assert ["--debug" in call for call in calls] == [False, False, True, True]


def test_timeout(runc: Runc, ansible: Ansible, tmp_path: Path) -> None:
    """It bounds the start of a command, whoever sets it."""
    slow = tmp_path / "slow"
    slow.write_text('#!/bin/sh\ncase "$*" in *exec*) exec sleep 60;; esac\nexec runc "$@"\n')
    slow.chmod(0o755)
    common = CONNECTION | {
        "ansible_runc_root": runc.env["GANGWAY_RUNC_ROOT"],
        "ansible_runc_executable": str(slow),
    }
    hosts = {"variable": common | {"ansible_runc_timeout": 2}, "environment": common}
    env = {"ANSIBLE_TIMEOUT": "30", "ANSIBLE_RUNC_TIMEOUT": "3"}
    answers = ask(ansible, tmp_path, hosts, raw("true"), env=env)
    for host, seconds in (("variable", 2), ("environment", 3)):
        assert_unreachable(
            answers[host],
            f'runc container "target": the engine did not start the command within {seconds} '
            "seconds and was ended; whether it ran is unknown: check the engine, or raise "
            "container_timeout",
        )


# Users.


@pytest.mark.parametrize(
    ("user", "entered", "home"),
    [
        ("app", APP, "/home/app"),
        ("1000", APP, "/home/app"),
        ("app:", APP, "/home/app"),
        ("app:extra", "1000:2000 2000", "/home/app"),
        ("app:2000", "1000:2000 2000", "/home/app"),
        ("1000:0", "1000:0 0", "/home/app"),
        ("app:77", "1000:77 77", "/home/app"),
        ("4242", "4242:0 0", "/"),
        ("4242:extra", "4242:2000 2000", "/"),
        ("4242:77", "4242:77 77", "/"),
        ("root", "0:0 0", "/root"),
    ],
)
def test_users(runc: Runc, user: str, entered: str, home: str) -> None:
    """Runc takes numbers only; names are the container's own."""
    session = runc.session(user=user.encode())
    who = session.exec_command(b'echo "$(id -u):$(id -g) $(id -G)"; echo $HOME')
    assert who == (0, f"{entered}\n{home}\n".encode(), b"")


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        ("nosuch", "it is not in the container's /etc/passwd"),
        ("-1", "it is not in the container's /etc/passwd"),
        (":5", "it is not in the container's /etc/passwd"),
        ("app:nosuch", 'its group "nosuch" is not in the container\'s /etc/group'),
        ("4294967294", "unable to start container process: .*uids and gids must be in range.*"),
    ],
)
def test_users_that_there_are_not(runc: Runc, user: str, reason: str) -> None:
    assert_refused(
        lambda: runc.session(user=user.encode()).exec_command(b"true"),
        UNREACHABLE,
        f'runc container "target": {NO_SUCH_USER.format(user, reason)}',
    )


def test_environment_variables_arrive_unchanged(runc: Runc) -> None:
    session = runc.session(env=variables.ENV)
    assert session.exec_command(variables.PRINT) == (0, variables.PRINTED, b"")


def test_names_that_no_shell_knows(runc: Runc) -> None:
    """They reach the shell that the engine starts; whether it hands them on is its own affair."""
    names = [b"with.dots", b"with-dash", b"#comment", "ä".encode(), b"1st"]
    session = runc.session(env=dict.fromkeys(names, b"v"))
    started_with = session.exec_command(b"cat /proc/$PPID/environ")[1].split(b"\0")
    assert {name + b"=v" for name in names} <= set(started_with)


# Whose failure it is.


def test_a_command_that_talks_like_runc(runc: Runc) -> None:
    """255 is runc's status for its own failures; only its log tells, and nobody else writes it."""
    message = "exec failed: container does not exist"
    log = json.dumps({"level": "error", "msg": message, "time": "2026-11-21T12:00:00Z"})
    text = f'{log}\ntime="2026-11-21T12:00:00Z" level=error msg="{message}"\n'.encode()
    command = b"cat; cat /proc/self/fd/0 >&2; printf '%s' \"$TEXT\" >&2; exit 255"
    result = runc.session(env={b"TEXT": text}).exec_command(command, text)
    assert result == (255, text, text)


def test_every_way_to_work(runc: Runc, tmp_path: Path) -> None:
    """A root directory with blanks, arguments that change runc's log, an absolute executable."""
    root = tmp_path / "a b"
    root.symlink_to(runc.env["GANGWAY_RUNC_ROOT"])
    ways: list[dict[str, Any]] = [
        {"root": bytes(root)},
        {"root": None, "extra_args": f'--root "{root}"'.encode()},
        {"extra_args": b"--log-format text --debug"},
        {"extra_args": f"--log {tmp_path}/log".encode()},
        {"executable": bytes(logging_runc(tmp_path))},
    ]
    for way in ways:
        assert_works(runc.session(**way), tmp_path, 1000)


# Bad input.


def missing(name: str, reason: str) -> str:
    return f'runc container "{name}" does not exist \\({reason}\\): {CHECK_NAME}'


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "other-root": (
        {"root": b"/tmp"},
        UNREACHABLE,
        missing("target", "container does not exist below /tmp"),
    ),
    "root-is-a-file": (
        {"root": b"/etc/passwd"},
        UNREACHABLE,
        'runc container "target": the engine failed to start the command: '
        "mkdir /etc/passwd: not a directory",
    ),
    "flag": (
        {"extra_args": b"--no-such-flag"},
        UNREACHABLE,
        'runc container "target": '
        + WRONG_SETTINGS.format(".*flag provided but not defined: -no-such-flag.*"),
    ),
    "quote": (
        {"extra_args": b'--root "x'},
        FAILED,
        'runc container "target": runc_extra_args cannot be used: it has an unclosed quote or '
        "ends in a backslash: quote it as for a shell",
    ),
    "executable": (
        {"executable": b"/no/such/runc"},
        UNREACHABLE,
        'runc container "target": the executable "/no/such/runc" was not found: install it, or '
        "name it in ansible_runc_executable",
    ),
    "not-runc": (
        {"executable": b"/bin/true"},
        UNREACHABLE,
        'runc container "target": the engine failed to start the command: '
        "its state is not the JSON that runc prints",
    ),
    "directory": (
        {"working_dir": b"/no/such"},
        FAILED,
        'runc container "target": working_dir "/no/such" cannot be entered: '
        ".*no such file or directory",
    ),
    "relative": (
        {"working_dir": b"usr"},
        FAILED,
        'runc container "target": working_dir cannot be used: "usr" is not an absolute path',
    ),
    "bytes": (
        {"env": {b"BYTES": b"s3cret \xff"}},
        FAILED,
        'runc container "target": extra_env cannot be used: runc takes UTF-8 text only',
    ),
    "length": (
        {"env": {b"LONG": b"x" * (128 << 10)}},
        FAILED,
        'runc container "target": extra_env cannot be used: LONG is longer than the 128 KiB that '
        "an environment variable can have",
    ),
    "shell": (
        {"shell": b"/bin/zsh"},
        FAILED,
        'runc container "target" has no usable shell "/bin/zsh" \\(it is not in the container\\): '
        + NO_SHELL,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_options(runc: Runc, case: str) -> None:
    options, error, sentence = REFUSED[case]
    assert_refused(lambda: runc.session(**options).exec_command(b"true"), error, sentence)


def test_a_missing_root_is_not_made(runc: Runc, tmp_path: Path) -> None:
    """As runc itself would."""
    root = tmp_path / "typo"
    assert_refused(
        lambda: runc.session(root=bytes(root)).exec_command(b"true"),
        UNREACHABLE,
        missing("target", f"there is no directory {root}, which is its runc_root"),
    )
    assert not root.exists()


@pytest.mark.parametrize("name", ["nosuch", "a/b", "..", "a b", "ü"])
def test_no_such_container(runc: Runc, tmp_path: Path, name: str) -> None:
    """Any call says so."""
    local = tmp_path / "local"
    local.touch()
    reason = f"container does not exist below {runc.env['GANGWAY_RUNC_ROOT']}"
    sentence = missing(name, reason if name == "nosuch" else "invalid container ID format")
    session = runc.session(name)
    assert_refused(lambda: session.exec_command(b"true"), UNREACHABLE, sentence)
    assert_refused(lambda: session.put_file(bytes(local), b"/x"), UNREACHABLE, sentence)
    assert_refused(lambda: session.fetch_file(b"/x", bytes(local)), UNREACHABLE, sentence)


def test_a_container_without_a_shell(runc: Runc) -> None:
    assert_refused(
        lambda: runc.session("noshell").exec_command(b"true"),
        FAILED,
        r'runc container "noshell" has no usable shell "/bin/sh" \(.*stat /bin/sh: .*\): '
        rf"{NO_SHELL}",
    )


STATES = {
    "created": "start it with `runc start {}`",
    "stopped": "delete it and run it again",
    "paused": "resume it with `runc resume {}`",
}


@pytest.mark.parametrize("state", STATES)
def test_containers_that_do_not_run(runc: Runc, tmp_path: Path, state: str) -> None:
    """The state and the command that helps are named."""
    local = tmp_path / "local"
    local.touch()
    with runc.container(f"gangway-{state}-{os.getpid()}", "busybox", state) as name:
        session = runc.session(name)
        sentence = f'runc container "{name}" is {state}, not running: {STATES[state].format(name)}'
        assert_refused(lambda: session.exec_command(b"true"), UNREACHABLE, sentence)
        assert_refused(lambda: session.put_file(bytes(local), b"/x"), UNREACHABLE, sentence)
        assert_refused(lambda: session.fetch_file(b"/x", bytes(local)), UNREACHABLE, sentence)
