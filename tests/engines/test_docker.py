"""Docker: how options and surroundings reach a real daemon, and what bad ones end in."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import variables
from support.ansible import Ansible
from support.ask import Answer, ask, raw
from support.sentences import FAILED, assert_refused, assert_unreachable
from support.targets import Docker
from support.transfers import assert_works

CAP_SYS_ADMIN = 1 << 21
WHO_AND_WHERE = (
    r"""printf '%s\n' "user=$(id -u):$(id -g) $(id -G)" "dir=$PWD" "word=$WORD" """
    r""""caps=$(sed -n 's/^CapBnd:\s*//p' /proc/self/status)" """
)
# What a command of the bed's containers has when no option is set.
PLAIN = {"user": "0:0 0", "dir": "/", "word": "", "privileged": False}
APP = "1000:1000 1000 2000"
CONNECTION = {"ansible_connection": "gangway.exec.docker", "ansible_host": "target"}
PATIENT = CONNECTION | {"ansible_docker_timeout": 30}


def seen(answer: Answer) -> dict[str, Any]:
    """Return what WHO_AND_WHERE printed."""
    assert answer.get("rc") == 0, answer
    found = dict(line.split("=", 1) for line in answer["stdout"].splitlines())
    found["privileged"] = bool(int(found.pop("caps"), 16) & CAP_SYS_ADMIN)
    return found


def assert_privileged(docker: Docker, answer: Answer) -> None:
    """Assert that the daemon was asked for a privileged exec.

    It cannot grant one where it runs without some capability itself; its own client tells.
    """
    argv = [*docker.client, "exec", "--privileged", "target", "true"]
    if subprocess.run(argv, capture_output=True, timeout=60).returncode == 0:
        assert seen(answer)["privileged"], answer
    else:
        assert_unreachable(answer, "unable to apply caps: operation not permitted")


def create_context(config: Path, **endpoint: str | Path) -> Path:
    """Write the context `bed` below the client's configuration directory `config`; return that."""
    values = ",".join(f"{key}={value}" for key, value in endpoint.items())
    argv = ["docker", "--config", str(config), "context", "create", "bed", "--docker", values]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return config


def logging_client(directory: Path) -> Path:
    """Return a client that leaves a line in the file beside it and is then docker itself."""
    program = directory / "client"
    program.write_text('#!/bin/sh\necho run >>"$0.log"\nexec docker "$@"\n')
    program.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def mute_daemon() -> Iterator[str]:
    """Return the address of a daemon that accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


# Options through Ansible.


def test_variables(docker: Docker, ansible: Ansible, tmp_path: Path, mute_daemon: str) -> None:
    """Each does what it is for, and changes nothing else."""
    config = create_context(tmp_path / "a b" / "c", host=docker.env["DOCKER_HOST"])
    (config / "config.json").write_text('{"currentContext": "bed"}')
    word = """grüße, 'one'  "two" $HOME"""
    cases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "target": ({"ansible_host": "{{ inventory_hostname }}"}, {}),
        "docker-host": ({"ansible_host": "nosuch", "ansible_docker_host": "target"}, {}),
        "user": ({"ansible_user": "app"}, {"user": APP}),
        "docker-user": (
            {"ansible_user": "nosuch", "ansible_docker_user": "app:extra"},
            {"user": "1000:2000 2000"},
        ),
        "number": ({"ansible_user": 4242}, {"user": "4242:0 0"}),
        "extra-args": ({"ansible_docker_extra_args": f'--config "{config}"'}, {}),
        "extra-env": ({"ansible_docker_extra_env": {"WORD": word}}, {"word": word}),
        "working-dir": ({"ansible_docker_working_dir": "/usr/lib"}, {"dir": "/usr/lib"}),
        "unprivileged": ({"ansible_docker_privileged": "no"}, {}),
    }
    common = CONNECTION | {"ansible_docker_extra_args": f"-H {docker.env['DOCKER_HOST']}"}
    hosts = {name: common | options for name, (options, _) in cases.items()}
    mute = CONNECTION | {"ansible_docker_extra_args": f"-H {mute_daemon}"}
    hosts["privileged"] = common | {"ansible_docker_privileged": True}
    hosts["yes"] = common | {"ansible_docker_privileged": "yes"}
    hosts["timeout"] = mute | {"ansible_timeout": 9, "ansible_docker_timeout": 1}
    hosts["short-timeout"] = mute | {"ansible_timeout": "2"}
    answers = ask(ansible, tmp_path, hosts, raw(WHO_AND_WHERE))
    for name, (_, changed) in cases.items():
        assert seen(answers[name]) == PLAIN | changed, name
    assert_privileged(docker, answers["privileged"])
    assert_privileged(docker, answers["yes"])
    assert_unreachable(answers["timeout"], "within 1 seconds and was ended")
    assert_unreachable(answers["short-timeout"], "within 2 seconds and was ended")


def test_environment(docker: Docker, ansible: Ansible, tmp_path: Path, mute_daemon: str) -> None:
    """Every option that has a variable of the environment, and DOCKER_HOST."""
    client = logging_client(tmp_path)
    env = {
        "DOCKER_HOST": docker.env["DOCKER_HOST"],
        "ANSIBLE_REMOTE_USER": "app",
        "ANSIBLE_DOCKER_WORKING_DIR": "/usr/lib",
        "ANSIBLE_DOCKER_PRIVILEGED": "true",
        "ANSIBLE_DOCKER_TIMEOUT": "1",
        "ANSIBLE_DOCKER_EXECUTABLE": str(client),
    }
    mute = CONNECTION | {"ansible_docker_extra_args": f"-H {mute_daemon}"}
    plain = PATIENT | {"ansible_docker_privileged": False}
    hosts = {"plain": plain, "privileged": PATIENT, "mute": mute}
    answers = ask(ansible, tmp_path, hosts, raw(WHO_AND_WHERE), env=env)
    assert seen(answers["plain"]) == PLAIN | {"user": APP, "dir": "/usr/lib"}
    assert_privileged(docker, answers["privileged"])
    assert_unreachable(answers["mute"], "within 1 seconds")
    assert client.with_name("client.log").read_text() == "run\nrun\nrun\n"


def test_ini(docker: Docker, ansible: Ansible, tmp_path: Path, mute_daemon: str) -> None:
    """Every option that has a key of ansible.cfg."""
    client = logging_client(tmp_path)
    settings = tmp_path / "ansible.cfg"
    settings.write_text(
        f"[defaults]\nremote_user = app\n[docker_connection]\nexecutable = {client}\n"
        f"extra_cli_args = -H {docker.env['DOCKER_HOST']}\nworking_dir = /usr/lib\n"
        "privileged = true\ntimeout = 1\n"
    )
    env = {"ANSIBLE_CONFIG": str(settings)}
    hosts = {
        "plain": PATIENT | {"ansible_docker_privileged": False},
        "privileged": PATIENT,
        "mute": CONNECTION | {"ansible_docker_extra_args": f"-H {mute_daemon}"},
    }
    answers = ask(ansible, tmp_path, hosts, raw(WHO_AND_WHERE), env=env)
    assert seen(answers["plain"]) == PLAIN | {"user": APP, "dir": "/usr/lib"}
    assert_privileged(docker, answers["privileged"])
    assert_unreachable(answers["mute"], "within 1 seconds")
    assert client.with_name("client.log").read_text() == "run\nrun\nrun\n"


def test_user_of_the_command_line_and_of_the_play(
    docker: Docker, ansible: Ansible, tmp_path: Path
) -> None:
    """--user, and remote_user of a play in front of it."""
    env = {"DOCKER_HOST": docker.env["DOCKER_HOST"]}
    for keywords, user in (({}, APP), ({"remote_user": "4242:7"}, "4242:7 7")):
        answers = ask(
            *(ansible, tmp_path, {"a": CONNECTION}, raw(WHO_AND_WHERE), "--user", "app"),
            env=env,
            keywords=keywords,
        )
        assert seen(answers["a"]) == PLAIN | {"user": user}


# The client's own surroundings.


def host(env: dict[str, str], config: Path) -> tuple[dict[str, str], str]:
    return {"DOCKER_HOST": env["DOCKER_HOST"]}, ""


def tls_variables(env: dict[str, str], config: Path) -> tuple[dict[str, str], str]:
    return {
        "DOCKER_HOST": env["GANGWAY_DOCKER_TLS_HOST"],
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": env["GANGWAY_DOCKER_TLS_CERTS"],
    }, ""


def tls_context(env: dict[str, str], config: Path) -> tuple[dict[str, str], str]:
    certs = Path(env["GANGWAY_DOCKER_TLS_CERTS"])
    endpoint = {"ca": certs / "ca.pem", "cert": certs / "cert.pem", "key": certs / "key.pem"}
    create_context(config, host=env["GANGWAY_DOCKER_TLS_HOST"], **endpoint)
    return {"DOCKER_CONFIG": str(config), "DOCKER_CONTEXT": "bed"}, ""


def tls_arguments(env: dict[str, str], config: Path) -> tuple[dict[str, str], str]:
    certs = env["GANGWAY_DOCKER_TLS_CERTS"]
    names = {"cacert": "ca", "cert": "cert", "key": "key"}
    files = " ".join(f"--tls{flag} '{certs}/{name}.pem'" for flag, name in names.items())
    return {}, f"-H {env['GANGWAY_DOCKER_TLS_HOST']} --tlsverify {files}"


def context(env: dict[str, str], config: Path) -> tuple[dict[str, str], str]:
    create_context(config, host=env["DOCKER_HOST"])
    return {"DOCKER_CONFIG": str(config), "DOCKER_CONTEXT": "bed"}, ""


def context_argument(env: dict[str, str], config: Path) -> tuple[dict[str, str], str]:
    create_context(config, host=env["DOCKER_HOST"])
    return {"DOCKER_CONFIG": str(config)}, "--context=bed"


def ssh(env: dict[str, str], config: Path) -> tuple[dict[str, str], str]:
    path = f"{env['GANGWAY_DOCKER_SSH_PATH']}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "DOCKER_HOST": env["GANGWAY_DOCKER_SSH_HOST"]}, ""


WAYS = [host, context, context_argument, tls_variables, tls_context, tls_arguments, ssh]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_ways_to_a_daemon(
    docker: Docker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[[dict[str, str], Path], tuple[dict[str, str], str]],
) -> None:
    """The environment and the configuration of the client lead to a daemon as ever."""
    environment, arguments = way(docker.env, tmp_path / "config")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert_works(docker.session(extra_args=arguments.encode()), tmp_path, 5 << 20)


# What comes with the container.


def test_an_image_with_a_user(docker: Docker, tmp_path: Path) -> None:
    """Its user is the one that enters, with that one's rights."""
    local = tmp_path / "local"
    local.write_text("x")
    with docker.container(f"gangway-nonroot-{os.getpid()}", image="nonroot") as name:
        session = docker.session(name)
        assert session.exec_command(b"id -un; echo $HOME")[1] == b"app\n/home/app\n"
        assert_works(session, tmp_path)
        assert session.put_file(bytes(local), b"/home/app/file") is None
        assert docker.run(name, "stat -c %U:%G:%a /home/app/file") == b"app:app:644\n"
        assert_refused(
            lambda: session.put_file(bytes(local), b"/etc/gangway"),
            FAILED,
            f'docker container "{name}": cannot put "/etc/gangway": Permission denied; '
            "nothing there was changed",
        )
        assert docker.session(name, user=b"root").exec_command(b"id -u")[1] == b"0\n"


def test_environment_variables_arrive_unchanged(docker: Docker) -> None:
    """Also those that docker's env files cannot hold: several lines, or 64 KiB."""
    session = docker.session(env=variables.ENV)
    assert session.exec_command(variables.PRINT) == (0, variables.PRINTED, b"")


def test_names_that_no_shell_knows(docker: Docker) -> None:
    """They reach the shell that the engine starts; whether it hands them on is its own affair."""
    names = [b"with.dots", b"with-dash", b"#comment", "ä".encode(), b"1st"]
    session = docker.session(env=dict.fromkeys(names, b"v"))
    started_with = session.exec_command(b"cat /proc/$PPID/environ")[1].split(b"\0")
    assert {name + b"=v" for name in names} <= set(started_with)
