"""Options, what they do to the engine's client, and what others get to see of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from peers.relay import Relay
from peers.side_by_side import Pair, SideBySide, Verdict, both, raw
from support import command_lines


def test_d05_pipelining_false_turns_it_on(
    peers: SideBySide, docker: Pair, kubectl: Pair, podman: Pair, verdict: Verdict
) -> None:
    """In an INI inventory and after -e every value is a string.

    The command line of the module's Python tells whether it came as a file.
    """
    pairs = (docker, kubectl, podman)
    look = {"ansible.builtin.shell": "tr '\\0' ' ' </proc/$PPID/cmdline"}
    run = peers.play(pairs, both(*pairs, ansible_pipelining="false"), {"look": look})
    for pair in pairs:
        assert "python3" in run["look", pair.peer].stdout, run.printed
        assert "AnsiballZ_command.py" not in run["look", pair.peer].stdout
        assert "AnsiballZ_command.py" in run["look", pair.ours].stdout, run.printed
    verdict("docker, kubectl, podman", "pipelined", "did not pipeline")


def test_d11_ansible_podman_host_has_no_effect(
    peers: SideBySide, podman: Pair, verdict: Verdict
) -> None:
    """It is documented, and of several names for an option the last one wins."""
    hosts = podman.hosts(ansible_host="elsewhere", ansible_podman_host=podman.container)
    run = peers.play([podman], hosts, {"raw": raw("echo here")})
    assert run["raw", podman.peer].ended == "unreachable", run.printed
    assert "elsewhere" in run["raw", podman.peer].said
    assert run["raw", podman.ours].stdout == "here\n", run.printed
    verdict("podman", "looked for ansible_host", "entered ansible_podman_host")


def test_d13_extra_args_are_split_at_blanks(
    peers: SideBySide, docker: Pair, kubectl: Pair, tmp_path: Path, verdict: Verdict
) -> None:
    """A directory with a blank in its name, quoted as for a shell."""
    directory = tmp_path / "a b"
    directory.mkdir()
    hosts = docker.hosts(ansible_docker_extra_args=f'--config "{directory}"')
    hosts |= kubectl.hosts(ansible_kubectl_extra_args=f'--cache-dir "{directory}"')
    # Both clients take what follows the blank for a command.
    complaints = {
        docker: "unknown shorthand flag: 'i' in -i",
        kubectl: "flags cannot be placed before plugin name: --cache-dir",
    }
    run = peers.play([docker, kubectl], hosts, {"raw": raw("echo here")})
    for pair in (docker, kubectl):
        assert run["raw", pair.peer].ended == "failed", run.printed
        assert complaints[pair] in run["raw", pair.peer].said, run.printed
        assert run["raw", pair.ours].stdout == "here\n", run.printed
    verdict("docker, kubectl", "the client refused the pieces", "ran the command")


def test_d14_a_remote_user_costs_two_more_processes(
    peers: SideBySide, docker: Pair, tmp_path: Path, verdict: Verdict
) -> None:
    """A `docker` in PATH writes down how it is started; each task starts anew."""
    log, client = tmp_path / "log", tmp_path / "docker"
    client.write_text(f'#!/bin/sh\necho "$1" >>{log}\nexec {shutil.which("docker")} "$@"\n')
    client.chmod(0o755)
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    tasks = {"first": raw("id -un"), "second": raw("id -un")}
    started = []
    for plugin in docker.plugins:
        log.write_text("")
        run = peers.play(
            [docker], {plugin: docker.host(plugin, ansible_user="app")}, tasks, env=path
        )
        assert run["second", plugin].stdout == "app\n", run.printed
        started.append(log.read_text().split())
    theirs, ours = started
    assert theirs == ["version", "version", "exec"] * 2
    assert ours == ["exec"] * 2
    verdict("docker", "3 per task", "1 per task")


def test_d17_the_timeout_of_the_api_is_ansibles(
    peers: SideBySide, docker_api: Pair, tmp_path: Path, verdict: Verdict
) -> None:
    """An option named `timeout` is filled from Ansible's own, before DOCKER_TIMEOUT is looked at.

    Docker answers after 2 seconds; Ansible's own timeout is 1, the plugins' is to be 60.
    """
    env = {"ANSIBLE_TIMEOUT": "1", "DOCKER_TIMEOUT": "60", "ANSIBLE_DOCKER_TIMEOUT": "60"}
    relay = Relay(docker_api.target.env["DOCKER_HOST"], tmp_path / "relay.sock", delay=2)
    with relay as address:
        hosts, env = docker_api.hosts(), env | {"DOCKER_HOST": address}
        run = peers.play([docker_api], hosts, {"raw": raw("echo here")}, env=env)
    theirs, ours = (run["raw", plugin] for plugin in docker_api.plugins)
    assert theirs.ended == "unreachable" and "read timeout=1" in theirs.said, run.printed
    assert ours.stdout == "here\n", run.printed
    verdict("docker_api", "gave up after Ansible's timeout", "waited for its own")


def test_d23_secrets_are_printed_and_on_command_lines(
    peers: SideBySide, docker: Pair, podman: Pair, kubectl: Pair, verdict: Verdict
) -> None:
    """`extra_env` of docker and podman; of kubectl a token, which the peer hides in the log."""
    token = kubectl.target.env["GANGWAY_KUBE_TOKEN"]
    secrets = {docker: "s3cret-docker", podman: "s3cret-podman", kubectl: token}
    variables = {
        docker: {"ansible_docker_extra_env": {"SECRET": secrets[docker]}},
        podman: {"ansible_podman_extra_env": {"SECRET": secrets[podman]}},
        kubectl: {"ansible_kubectl_token": token},
    }

    def play(plugins: dict[Pair, str]) -> tuple[str, str]:
        """Return what was printed, and the command lines that were seen meanwhile."""
        hosts = {plugin: pair.host(plugin, **variables[pair]) for pair, plugin in plugins.items()}
        with command_lines.watched() as lines:
            run = peers.play(plugins, hosts, {"raw": raw("sleep 2")}, "-vvvvv")
        assert {outcome.ended for outcome in run.values()} == {"ok"}, run.printed
        assert all(lines.having(pair.container) for pair in plugins)
        return str(run.printed), b"\n".join(lines.seen).decode(errors="replace")

    log, seen = play({pair: pair.peer for pair in secrets})
    assert [secret in log for secret in secrets.values()] == [True, True, False]
    assert all(secret in seen for secret in secrets.values())
    log, seen = play({pair: pair.ours for pair in secrets})
    assert not any(secret in log + seen for secret in secrets.values())
    verdict("docker, podman, kubectl", "in the log (kubectl: not there) and in `ps`", "in neither")


def test_d24_reset_connection_is_not_implemented(
    peers: SideBySide, kubectl: Pair, podman: Pair, verdict: Verdict
) -> None:
    """Before any task and after one. Ansible warns of the same only once: a play for each peer."""
    warning = "Reset is not implemented for this connection"
    reset = {"meta": "reset_connection"}
    tasks = {"first": reset, "raw": raw("echo here"), "again": reset}
    pairs = (kubectl, podman)
    for plugins in ([kubectl.peer], [podman.peer], [pair.ours for pair in pairs]):
        hosts = {name: host for name, host in both(*pairs).items() if name in plugins}
        run = peers.play(pairs, hosts, tasks)
        assert {outcome.stdout for outcome in run.values()} == {"here\n"}, run.printed
        assert (warning in run.printed.stderr) == (len(plugins) == 1), run.printed
    verdict("kubectl, podman", "a warning instead", "reset")


def test_d25_a_user_that_cannot_be_gets_a_home(
    peers: SideBySide, kubectl: Pair, verdict: Verdict
) -> None:
    """`ansible_user`, set for other hosts, has Ansible use ~USER in a pod that has no such user."""
    user = "nobody-here"
    hosts = kubectl.hosts(ansible_user=user, ansible_pipelining=False)
    ping = {"ansible.builtin.ping": {}}
    run = peers.play([kubectl], {kubectl.ours: hosts[kubectl.ours]}, {"ping": ping}, "-v")
    assert run["ping", kubectl.ours].ended == "ok", run.printed
    assert f"'{user}' is not used" in run.printed.stdout
    assert f"~{user}" not in kubectl.sh("ls /").split()
    run = peers.play([kubectl], {kubectl.peer: hosts[kubectl.peer]}, {"ping": ping})
    assert f"~{user}" in kubectl.sh("ls /").split(), run.printed
    kubectl.sh(f"rm -r '/~{user}'")
    verdict("kubectl", "made a directory /~nobody-here", "passed the user over, and said so")
