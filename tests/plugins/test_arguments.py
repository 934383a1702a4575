"""What a plugin makes of its options: the arguments of the native module's functions."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import ansible.release
import pytest
from ansible.errors import AnsibleError

import ansible_gangway
from plugins.conftest import RecordingSession
from plugins.loading import ENGINES, connection, set_options

pytestmark = pytest.mark.plays

AGENTS: dict[str, Any] = {
    "python": os.fsencode(sys.executable),
    "package": os.fsencode(Path(ansible_gangway.__file__).resolve().parent.parent),
    "persist": 60.0,
    "always": False,
    "kill_on_disconnect": False,
    "interpreter": None,
    "controller": ansible.release.__version__.encode(),
    "play": os.getpid(),
}
SHARED: dict[str, Any] = {
    "extra_args": b"",
    "env": {},
    "working_dir": None,
    "timeout": 10.0,
    "shell": b"/bin/sh",
    "agents": AGENTS,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "runc": {**SHARED, "executable": b"runc", "container": b"box", "root": None, "user": None},
    "docker": {
        **SHARED,
        "executable": b"docker",
        "container": b"box",
        "user": None,
        "privileged": False,
    },
    "podman": {**SHARED, "executable": b"podman", "container": b"box", "user": None},
    "kubectl": {
        **SHARED,
        "executable": b"kubectl",
        "timeout": 30.0,
        "pod": b"box",
        "container": None,
        "namespace": None,
        "kubeconfig": None,
        "kubeconfig_content": None,
        "context": None,
        "server": None,
        "username": None,
        "password": None,
        "token": None,
        "client_cert": None,
        "client_key": None,
        "ca_cert": None,
        "validate_certs": None,
        "local_env": {},
    },
}


def arguments(
    sessions: list[RecordingSession], engine: str, keys: dict[str, Any] | None = None, **values: Any
) -> dict[str, Any]:
    """Return the arguments with which a plugin opens its session."""
    connection(engine, keys, **values)._connect()
    return sessions[-1].arguments


@pytest.mark.parametrize("engine", ENGINES)
def test_defaults(engine: str, sessions: list[RecordingSession]) -> None:
    assert arguments(sessions, engine) == DEFAULTS[engine]


@pytest.mark.parametrize("engine", ENGINES)
def test_options_of_every_plugin(engine: str, sessions: list[RecordingSession]) -> None:
    given = {
        "executable": "/opt/my engine",
        "extra_args": "--flag 'a b'",
        "extra_env": {"LANG": "C.UTF-8", "NÄME": "wert\udcff"},
        "working_dir": "/srv/ü",
        "timeout": "47",
    }
    got = arguments(sessions, engine, **{f"ansible_{engine}_{k}": v for k, v in given.items()})
    assert got == {
        **DEFAULTS[engine],
        "executable": b"/opt/my engine",
        "extra_args": b"--flag 'a b'",
        "env": {b"LANG": b"C.UTF-8", "NÄME".encode(): b"wert\xff"},
        "working_dir": "/srv/ü".encode(),
        "timeout": 47.0,
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_agents(engine: str, sessions: list[RecordingSession]) -> None:
    def agents(**values: Any) -> Any:
        return arguments(sessions, engine, **values)["agents"]

    assert agents(
        ansible_gangway_agent="always",
        ansible_gangway_persist="5.5",
        ansible_gangway_kill_on_disconnect="yes",
        ansible_python_interpreter="/usr/bin/python3.9",
    ) == {
        **AGENTS,
        "always": True,
        "persist": 5.5,
        "kill_on_disconnect": True,
        "interpreter": b"/usr/bin/python3.9",
    }
    assert agents(ansible_gangway_agent=True, ansible_python_interpreter="auto") == AGENTS
    for off in ({"ansible_gangway_agent": False}, {"ansible_gangway_persist": 0}):
        assert agents(**off) is None
    for off in ({"ansible_gangway_agent": "no"}, {"ansible_gangway_persist": -1}):
        assert agents(**off) is None
    with pytest.raises(AnsibleError, match=r"gangway_agent is 'perhaps': set it to true, false or"):
        agents(ansible_gangway_agent="perhaps")


@pytest.mark.parametrize("engine", ["runc", "docker", "podman"])
def test_container_and_user(engine: str, sessions: list[RecordingSession]) -> None:
    got = arguments(
        sessions, engine, **{f"ansible_{engine}_host": "café", f"ansible_{engine}_user": 1000}
    )
    assert (got["container"], got["user"]) == ("café".encode(), b"1000")
    assert arguments(sessions, engine, {"remote_user": "bob"})["user"] == b"bob"


def test_runc_root(sessions: list[RecordingSession], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/bob")
    assert arguments(sessions, "runc", ansible_runc_root="~/runc")["root"] == b"/home/bob/runc"


def test_docker_privileged(sessions: list[RecordingSession]) -> None:
    assert arguments(sessions, "docker", ansible_docker_privileged="yes")["privileged"] is True


def test_kubectl(sessions: list[RecordingSession], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/bob")
    given = {
        "pod": "deploy/web",
        "container": "app",
        "namespace": "shop",
        "kubeconfig": "~/kube.yml",
        "context": "prod",
        "host": "https://k8s:6443",
        "username": "bob",
        "password": "pw",
        "token": "tk",
        "cert_file": "c.pem",
        "key_file": "~/k.pem",
        "ssl_ca_cert": "/ca.pem",
        "local_env_vars": {"HTTPS_PROXY": "http://p:3128"},
    }
    got = arguments(sessions, "kubectl", **{f"ansible_kubectl_{k}": v for k, v in given.items()})
    assert got == {
        **DEFAULTS["kubectl"],
        "pod": b"deploy/web",
        "container": b"app",
        "namespace": b"shop",
        "kubeconfig": b"/home/bob/kube.yml",
        "context": b"prod",
        "server": b"https://k8s:6443",
        "username": b"bob",
        "password": b"pw",
        "token": b"tk",
        "client_cert": b"c.pem",
        "client_key": b"/home/bob/k.pem",
        "ca_cert": b"/ca.pem",
        "local_env": {b"HTTPS_PROXY": b"http://p:3128"},
    }


def test_kubeconfig_as_dictionary(sessions: list[RecordingSession]) -> None:
    config = {"kind": "Config", "clusters": [{"name": "ü"}]}
    got = arguments(sessions, "kubectl", ansible_kubectl_kubeconfig=config)
    assert got["kubeconfig"] is None
    assert json.loads(got["kubeconfig_content"]) == config
    # As if it were not set: `default({})` in an inventory means that.
    got = arguments(sessions, "kubectl", ansible_kubectl_kubeconfig={})
    assert (got["kubeconfig"], got["kubeconfig_content"]) == (None, None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", None), (None, None), ("no", False), (False, False), ("True", True), (1, True)],
)
def test_validate_certs(value: Any, expected: Any, sessions: list[RecordingSession]) -> None:
    got = arguments(sessions, "kubectl", ansible_kubectl_validate_certs=value)
    assert got["validate_certs"] is expected


def test_validate_certs_is_never_guessed(sessions: list[RecordingSession]) -> None:
    with pytest.raises(AnsibleError, match=r'^pod "box": validate_certs is \'nope\': it must be'):
        arguments(sessions, "kubectl", ansible_kubectl_validate_certs="nope")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("env", [{"KEY": 1}, {"KEY": True}, {"KEY": None}, {1: "x"}])
def test_environment_holds_strings_only(
    engine: str, env: dict[Any, Any], sessions: list[RecordingSession]
) -> None:
    key = next(iter(env))
    option = "extra_env_vars" if engine == "podman" else "extra_env"
    with pytest.raises(AnsibleError, match=rf"of {key!r} in the {option} option is not a string"):
        arguments(sessions, engine, **{f"ansible_{engine}_extra_env": env})
    assert not sessions


def test_podman_timeout_of_zero_is_the_default(sessions: list[RecordingSession]) -> None:
    assert arguments(sessions, "podman", ansible_podman_timeout=0)["timeout"] == 10.0


@pytest.mark.parametrize(
    ("engine", "seconds"),
    [*((engine, 0) for engine in ENGINES if engine != "podman"), *((e, -1) for e in ENGINES)],
)
def test_a_wait_has_a_bound(engine: str, seconds: int, sessions: list[RecordingSession]) -> None:
    with pytest.raises(AnsibleError, match=f"container_timeout is {seconds}: it must be at least"):
        arguments(sessions, engine, **{f"ansible_{engine}_timeout": seconds})


@pytest.mark.parametrize("engine", ENGINES)
def test_no_container(engine: str, sessions: list[RecordingSession]) -> None:
    with pytest.raises(AnsibleError, match=f"the {engine} connection has no container to enter"):
        arguments(sessions, engine, ansible_host="")


@pytest.mark.parametrize(
    ("executable", "shell"),
    [("/bin/bash", b"/bin/bash"), ("/bin/bash -l", b"/bin/bash"), ("", b"/bin/sh")],
)
def test_shell(executable: str, shell: bytes, sessions: list[RecordingSession]) -> None:
    plugin = connection("docker")
    plugin._play_context.executable = executable
    plugin._connect()
    assert sessions[0].arguments["shell"] == shell


@pytest.mark.parametrize("source", ["keyword", "variable"])
def test_kubectl_has_no_user(
    source: str, sessions: list[RecordingSession], log: list[tuple[str, str, str | None]]
) -> None:
    plugin = connection("kubectl", {"remote_user": "bob"} if source == "keyword" else None)
    # What core makes of ansible_user, remote_user and -u alike.
    plugin._play_context.remote_user = "bob"
    # Core asks for it to expand ~ in ansible_remote_tmp.
    assert plugin.get_option("remote_user") is None
    plugin._connect()
    assert [entry for entry in log if entry[0] == "v"] == [
        ("v", "kubectl exec cannot change the user: 'bob' is not used", "box")
    ]


def test_docker_cmd_for_synchronize(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    plugin = connection("docker", ansible_docker_executable="dockerx")
    assert (plugin.transport, plugin.docker_cmd) == ("docker", "dockerx")
    client = tmp_path / "dockerx"
    client.write_text("#!/bin/sh\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert plugin.docker_cmd == str(client)


def test_podman_options_for_synchronize() -> None:
    # It reads the dictionary itself, and puts both in front of `exec`.
    plugin = connection("podman", ansible_podman_extra_args="--remote")
    assert plugin.transport == "podman"
    assert plugin._options["podman_executable"] == "podman"
    assert plugin._options["podman_extra_args"] == "--remote"


@pytest.mark.parametrize(
    ("method", "sudoable", "sent"),
    [
        ("auto", True, b"echo 'a b'"),
        ("none", True, b"echo 'a b'"),
        ("sudo", True, b"""sudo -n /bin/sh -c 'echo '"'"'a b'"'"''"""),
        ("su", True, b"""su -c 'echo '"'"'a b'"'"''"""),
        ("sudo", False, b"echo 'a b'"),
    ],
)
def test_podman_privilege_escalation(
    method: str, sudoable: bool, sent: bytes, sessions: list[RecordingSession]
) -> None:
    plugin = connection("podman", ansible_podman_privilege_escalation=method)
    plugin.exec_command("echo 'a b'", sudoable=sudoable)
    assert sessions[0].calls == [("exec", sent, None, None)]


def test_a_loop_gives_each_item_its_options(sessions: list[RecordingSession]) -> None:
    plugin = connection("docker", ansible_docker_user="a")
    plugin.exec_command("true")
    # Core takes a plugin for the next item only while it calls itself connected.
    assert plugin.connected
    set_options(plugin, ansible_docker_user="a")
    plugin.exec_command("true")
    assert len(sessions) == 1
    set_options(plugin, ansible_docker_user="b")
    plugin.exec_command("true")
    assert [session.arguments["user"] for session in sessions] == [b"a", b"b"]
    assert [session.closed for session in sessions] == [True, False]
