"""Ansible's calls: what reaches the native module, what comes back, and what is logged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible import constants
from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.plugins.loader import become_loader
from ansible.release import __version__ as core_version

from ansible_gangway import _core
from plugins.conftest import RecordingSession
from plugins.loading import ENGINES, connection

pytestmark = pytest.mark.plays
Log = list[tuple[str, str, str | None]]


@pytest.mark.parametrize("engine", ENGINES)
def test_exec_command(engine: str, sessions: list[RecordingSession]) -> None:
    plugin = connection(engine)
    plugin._connect()
    sessions[0].answer = (7, b"\xff\x00", b"err")
    assert plugin.exec_command("echo ü \udcfe", in_data=b"in\x00") == (7, b"\xff\x00", b"err")
    assert plugin.exec_command("true", in_data=b"")[0] == 7
    assert plugin.exec_command("true")[0] == 7
    assert sessions[0].calls == [
        ("exec", "echo ü ".encode() + b"\xfe", b"in\x00", None),
        ("exec", b"true", b"", None),
        ("exec", b"true", None, None),
    ]


FALLBACK = [
    name.encode() for name in constants.config.get_config_value("INTERPRETER_PYTHON_FALLBACK")
]
SEARCHES = tuple(map(int, core_version.split(".")[:2])) >= (2, 19)


@pytest.mark.parametrize(
    ("variables", "commands", "pythons"),
    [
        ({"ansible_pipelining": False}, True, FALLBACK),
        ({"ansible_python_interpreter": "auto_silent"}, True, FALLBACK),
        ({}, True, FALLBACK),
        ({"ansible_python_interpreter": "/opt/python"}, False, [b"/opt/python"]),
        (
            {"ansible_pipelining": False, "ansible_python_interpreter": "/opt/python"},
            True,
            [b"/opt/python"],
        ),
        ({"ansible_python_interpreter": "python3"}, True, []),
    ],
)
def test_agents_open_while_a_module_is_built(
    variables: dict[str, Any],
    commands: bool,
    pythons: list[bytes],
    sessions: list[RecordingSession],
) -> None:
    plugin = connection("docker", **{"ansible_pipelining": True, **variables})
    assert list(plugin.module_implementation_preferences) == [""]
    (((name, arguments),),) = [session.calls for session in sessions]
    assert (name, arguments["commands"]) == ("prepare", commands)
    assert arguments["pythons"] == (pythons if SEARCHES or pythons is not FALLBACK else [])


def test_no_interpreter_opens_ahead_of_become(sessions: list[RecordingSession]) -> None:
    plugin = connection("docker")
    plugin.set_become_plugin(become_loader.get("sudo"))
    assert list(plugin.module_implementation_preferences) == [""]
    ((_, arguments),) = sessions[0].calls
    assert (arguments["commands"], arguments["pythons"]) == (True, [])


def test_what_goes_wrong_ahead_is_said_when_it_matters(sessions: list[RecordingSession]) -> None:
    plugin = connection("docker")
    plugin._connect()
    sessions[0].answer = _core.ConnectionFailed("there is no such container")
    assert list(plugin.module_implementation_preferences) == [""]
    with pytest.raises(AnsibleConnectionFailure, match="there is no such container"):
        plugin.exec_command("true")


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/a/b", b"/a/b"),
        ("a/b", b"/a/b"),
        ("a/./c/../b/", b"/a/b"),
        ("/x;touch y/\udcff'", b"/x;touch y/\xff'"),
    ],
)
def test_container_paths_are_absolute(
    path: str, sent: bytes, sessions: list[RecordingSession]
) -> None:
    plugin = connection("docker")
    plugin._connect()
    sessions[0].answer = None
    plugin.put_file("/l", path)
    plugin.fetch_file(path, "/l")
    assert sessions[0].calls == [("put", b"/l", sent), ("fetch", sent, b"/l")]


def test_local_paths_are_absolute(
    sessions: list[RecordingSession], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    plugin = connection("docker")
    plugin._connect()
    sessions[0].answer = None
    plugin.put_file("in ü", "/c")
    plugin.fetch_file("/c", "sub/out")
    here = os.fsencode(tmp_path)
    assert sessions[0].calls == [
        ("put", here + b"/in " + "ü".encode(), b"/c"),
        ("fetch", b"/c", here + b"/sub/out"),
    ]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (_core.ConnectionFailed("box is paused"), AnsibleConnectionFailure),
        (_core.FileMissing("no file"), AnsibleFileNotFound),
        (_core.Error("disk full"), AnsibleError),
    ],
)
def test_errors(
    engine: str,
    raised: Exception,
    expected: type[AnsibleError],
    sessions: list[RecordingSession],
) -> None:
    plugin = connection(engine)
    plugin._connect()
    sessions[0].answer = raised
    for call in (
        lambda: plugin.exec_command("true"),
        lambda: plugin.put_file("/a", "/b"),
        lambda: plugin.fetch_file("/a", "/b"),
    ):
        with pytest.raises(AnsibleError) as caught:
            call()
        assert type(caught.value) is expected
        assert str(raised) in str(caught.value)
        assert caught.value.__cause__ is raised


def test_errors_when_a_session_is_made() -> None:
    # The native module itself: these arguments cannot be split.
    plugin = connection("docker", ansible_docker_extra_args="--config 'open")
    with pytest.raises(AnsibleError, match="docker_extra_args") as caught:
        plugin.exec_command("true")
    assert isinstance(caught.value.__cause__, _core.Error)


def test_log_lines(sessions: list[RecordingSession], log: Log) -> None:
    plugin = connection(
        "docker",
        ansible_docker_host="web1",
        ansible_docker_user="bob",
        ansible_docker_extra_env={"TOKEN": "s3cret"},
    )
    plugin.exec_command("echo hi")
    sessions[0].answer = "written in place"
    plugin.put_file("/a", "/b")
    sessions[0].answer = None
    plugin.fetch_file("/c", "/d")
    assert log == [
        ("vvv", "ESTABLISH DOCKER CONNECTION FOR USER: bob", "web1"),
        ("vvv", "EXEC echo hi", "web1"),
        ("vvv", "PUT /a TO /b", "web1"),
        ("v", "written in place", "web1"),
        ("vvv", "FETCH /c TO /d", "web1"),
    ]


def test_what_is_refused_ahead_of_a_step_is_announced_once(log: Log) -> None:
    plugin = connection("docker", ansible_docker_extra_args="--config 'open")
    assert list(plugin.module_implementation_preferences) == [""]
    with pytest.raises(AnsibleError, match="docker_extra_args"):
        plugin.exec_command("true")
    assert [text.split()[0] for _, text, _ in log] == ["ESTABLISH"]


def test_no_secret_is_logged(sessions: list[RecordingSession], log: Log) -> None:
    plugin = connection(
        "kubectl",
        ansible_kubectl_password="s3cret",
        ansible_kubectl_token="s3cret",
        ansible_kubectl_extra_env={"A": "s3cret"},
        ansible_kubectl_local_env_vars={"A": "s3cret"},
        ansible_kubectl_kubeconfig={"users": "s3cret"},
    )
    success = become(plugin, "s3cret").success
    plugin.exec_command(f"sudo sh -c 'echo {success} ; id'", in_data=b"s3cret")
    assert sessions[0].calls[0][3].password == b"s3cret"
    assert len(log) == 2
    assert "s3cret" not in repr(log)
    with pytest.raises(AnsibleError) as caught:
        connection("kubectl", ansible_kubectl_extra_env={"A": b"s3cret"})._connect()
    assert "s3cret" not in str(caught.value)


def become(plugin: Any, password: str | None, method: str = "sudo") -> Any:
    """Give a plugin a become plugin that has built its command, as core does."""
    method_plugin = become_loader.get(method)
    method_plugin.set_options(direct={"become_user": "root", "become_pass": password})
    plugin.set_become_plugin(method_plugin)
    method_plugin.build_become_command("id", plugin._shell)
    return method_plugin


@pytest.mark.parametrize("method", ["sudo", "su"])
def test_become_prompt(method: str, sessions: list[RecordingSession]) -> None:
    plugin = connection("docker")
    method_plugin = become(plugin, "pä ss", method)
    plugin.exec_command(f"{method} -c 'echo {method_plugin.success} ; id'", sudoable=True)
    prompt = sessions[0].calls[0][3]
    assert (prompt.name, prompt.password) == (method, "pä ss".encode())
    asked = {"sudo": f"lecture\n{method_plugin.prompt} ", "su": "Passwort: "}[method]
    assert prompt.is_prompt(asked.encode())
    assert not prompt.is_prompt(b"lecture\n")
    assert prompt.is_success(f"{method_plugin.success}\n".encode())
    assert not prompt.is_success(b"BECOME-SUCCESS-other\n")
    refused = {"sudo": b"Sorry, try again.", "su": b"su: Authentication failure"}[method]
    assert prompt.is_incorrect(refused)
    assert not prompt.is_incorrect(b"fine")
    assert prompt.is_missing(b"sudo: a password is required") is (method == "sudo")


def test_become_without_a_password(sessions: list[RecordingSession]) -> None:
    plugin = connection("docker")
    for password in (None, ""):
        success = become(plugin, password).success
        plugin.exec_command(f"sudo -n sh -c 'echo {success} ; id'", sudoable=True)
        prompt = sessions[0].calls[-1][3]
        assert prompt.password is None
        assert prompt.is_missing(b"sudo: a password is required")
        assert not prompt.is_prompt(b"[sudo] password for app: ")


def test_no_prompt_is_awaited(sessions: list[RecordingSession]) -> None:
    plugin = connection("docker")
    plugin.exec_command("id", sudoable=True)
    success = become(plugin, "pass").success
    # Core builds no become command where the users are the same, whatever plugin is set.
    plugin.exec_command("id", sudoable=True)
    plugin.exec_command(f"echo {success}", sudoable=False)
    assert [call[3] for call in sessions[0].calls] == [None, None, None]


def test_a_become_method_that_needs_a_terminal_is_refused() -> None:
    # Core asks: `has_tty` must be honest, for its own clear message.
    assert connection("docker").has_tty is False


@pytest.mark.parametrize("engine", ENGINES)
def test_reset_and_close(engine: str, sessions: list[RecordingSession], log: Log) -> None:
    plugin = connection(engine)
    plugin.close()
    assert not sessions
    # Its agents may be another process's: a reset needs no call before it.
    plugin.reset()
    assert sessions[0].calls == [("reset",)]
    for forget in (plugin.reset, plugin.close):
        plugin.exec_command("true")
        assert plugin.connected
        forget()
        assert not plugin.connected
        assert sessions[-1].closed
    assert [len(session.calls) for session in sessions] == [1, 2, 1]
    assert not [entry for entry in log if entry[0] == "warning"]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_way_is_logged_and_a_warning_is_shown(
    engine: str, sessions: list[RecordingSession], log: Log
) -> None:
    plugin = connection(engine)
    plugin._connect()
    sessions[0].way = "agent 7 (Python 3.11.2, kept)"
    sessions[0].said = ["no broker can be used"]
    plugin.exec_command("true")
    plugin.exec_command("true")
    ways = [text for level, text, _ in log if level == "vvv" and text.startswith("VIA")]
    assert ways == ["VIA agent 7 (Python 3.11.2, kept)"] * 2
    assert [text for level, text, _ in log if level == "warning"] == ["no broker can be used"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_reset_never_fails(engine: str, log: Log) -> None:
    plugin = connection(engine, **{f"ansible_{engine}_timeout": -1})
    plugin.reset()
    assert any("RESET without effect" in text for level, text, _ in log if level == "vvv")


def mkdtemp(plugin: Any, shell: str = "/bin/sh") -> str:
    """Return core's own command line for its temporary directory."""
    plugin._shell.set_options()
    command: str = plugin._shell.mkdtemp(tmpdir="/root/.ansible/tmp")
    return f"{shell} -c {plugin._shell.quote(command + ' && sleep 0')}"


@pytest.mark.parametrize("engine", ENGINES)
def test_no_temporary_directory(engine: str, sessions: list[RecordingSession]) -> None:
    plugin = connection(engine)
    plugin._connect()
    sessions[0].answer = (1, b"", b"noise\nmkdir: cannot create '/root': Read-only file system\n")
    with pytest.raises(AnsibleError) as caught:
        plugin.exec_command(mkdtemp(plugin), sudoable=False)
    message = str(caught.value)
    assert not isinstance(caught.value, AnsibleConnectionFailure)
    for part in ('"box"', "'/root': Read-only file system", "ansible_remote_tmp", "/dev/shm"):
        assert part in message
    assert "noise" not in message
    sessions[0].answer = (9, b"", b"")
    with pytest.raises(AnsibleError, match="exit status 9"):
        plugin.exec_command(mkdtemp(plugin), sudoable=False)


def test_only_cores_own_step_is_explained(sessions: list[RecordingSession], log: Log) -> None:
    plugin = connection("docker")
    plugin._connect()
    sessions[0].answer = failed = (1, b"", b"mkdir: cannot create directory: Read-only file system")
    # The same words in a user's command (sudoable), another command, and one that succeeds.
    assert plugin.exec_command(mkdtemp(plugin), sudoable=True) == failed
    assert plugin.exec_command("mkdir -p /x && mkdir /x/y", sudoable=False) == failed
    sessions[0].answer = (0, b"", failed[2])
    assert plugin.exec_command(mkdtemp(plugin), sudoable=False)[0] == 0
    assert not [entry for entry in log if entry[0] == "warning"]


@pytest.mark.parametrize(
    ("command", "stdin", "warned"),
    [
        ("/usr/bin/python3", b"module", True),
        ("python3 /tmp/ansible-tmp-1/AnsiballZ_ping.py", None, True),
        ("cat log", None, False),
    ],
)
def test_module_without_temporary_directory(
    command: str, stdin: bytes | None, warned: bool, sessions: list[RecordingSession], log: Log
) -> None:
    plugin = connection("docker")
    plugin._connect()
    sessions[0].answer = failed = (1, b"", b"No usable temporary directory found in ['/tmp']")
    assert plugin.exec_command(command, in_data=stdin) == failed
    warnings = [text for level, text, _ in log if level == "warning"]
    assert len(warnings) == warned
    assert all("TMPDIR" in text and "ansible_remote_tmp" in text for text in warnings)
