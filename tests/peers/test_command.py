"""exec_command: what is run, as whom, and how its end is told from the engine's."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from peers.relay import Relay
from peers.side_by_side import NAME, Pair, SideBySide, Verdict, raw

PING = {"ansible.builtin.ping": {}}


def test_d06_a_tasks_timeout_does_not_end_it(
    peers: SideBySide, docker: Pair, verdict: Verdict
) -> None:
    """The task may take 2 seconds and would take 9."""
    run = peers.play([docker], docker.hosts(), {"sleep": raw("sleep 9", timeout=2)})
    theirs, ours = (run["sleep", plugin] for plugin in docker.plugins)
    for outcome in (theirs, ours):
        assert outcome.ended == "failed" and "Timed out after 2 second" in outcome.said, run.printed
    assert theirs.seconds > 9
    assert ours.seconds < 8
    verdict("docker", "failed when the command had ended", "failed in time")


def test_d08_a_container_that_is_not_there_is_a_failed_command(
    peers: SideBySide, docker: Pair, kubectl: Pair, verdict: Verdict
) -> None:
    """Missing, stopped and paused containers, by raw and by a module, pipelined and not."""
    missing, stopped, paused = (f"{NAME}-{state}" for state in ("missing", "stopped", "paused"))
    done = kubectl.target.env["GANGWAY_KUBE_DONE"]
    # What our sentence has to say of each.
    cases = {
        docker: {missing: "no such container", stopped: "is exited", paused: "is paused"},
        kubectl: {missing: "not found", done: "is succeeded"},
    }
    hosts = {
        f"{plugin}:{name}": pair.host(plugin, ansible_host=name)
        for pair, names in cases.items()
        for plugin in pair.plugins
        for name in names
    }
    plain = PING | {"vars": {"ansible_pipelining": False}}
    tasks = {"raw": raw("true"), "module": PING, "plain": plain}
    with ExitStack() as stack:
        for name, state in ((stopped, "stopped"), (paused, "paused")):
            stack.enter_context(docker.target.container(name, image="busybox", state=state))
        run = peers.play([docker, kubectl], hosts, tasks)
    for pair, names in cases.items():
        for name, words in names.items():
            theirs = {task: run[task, f"{pair.peer}:{name}"] for task in tasks}
            assert theirs["raw"].ended == theirs["module"].ended == "failed", run.printed
            assert theirs["plain"].ended == "unreachable"
            assert "Failed to create temporary directory" in theirs["plain"].said
            for task in tasks:
                ours = run[task, f"{pair.ours}:{name}"]
                assert ours.ended == "unreachable", run.printed
                assert f'"{name}"' in ours.said and words in ours.said.lower(), ours
                assert "temporary directory" not in ours.said
    verdict("docker, kubectl", "FAILED", "UNREACHABLE, with the container and its state")


def test_d09_words_on_stderr_make_the_host_unreachable(
    peers: SideBySide, podman: Pair, buildah: Pair, verdict: Verdict
) -> None:
    """Any command may say that something does not exist; ours runs it on Podman for both."""
    script = """sh -c 'echo "config file does not exist" >&2; exit 3'"""
    hosts = podman.hosts() | {buildah.peer: buildah.host(buildah.peer)}
    run = peers.play([podman, buildah], hosts, {"raw": raw(script)})
    for peer in (podman.peer, buildah.peer):
        assert run["raw", peer].ended == "unreachable", run.printed
        assert "not found" in run["raw", peer].said
    ours = run["raw", podman.ours]
    assert (ours.ended, ours.rc) == ("failed", 3), run.printed
    assert "config file does not exist" in ours.said
    verdict("podman, buildah", "UNREACHABLE, container not found", "FAILED, status 3 (podman)")


def test_d10_raw_is_not_run_by_a_shell(
    peers: SideBySide, podman: Pair, buildah: Pair, verdict: Verdict
) -> None:
    """Every other connection takes it for a line of shell code; ours runs on Podman for both."""
    hosts = podman.hosts() | {buildah.peer: buildah.host(buildah.peer)}
    run = peers.play([podman, buildah], hosts, {"raw": raw("echo a b | tr a-z A-Z")})
    for peer in (podman.peer, buildah.peer):
        assert run["raw", peer].stdout.strip() == "a b | tr a-z A-Z", run.printed
    assert run["raw", podman.ours].stdout.strip() == "A B", run.printed
    verdict("podman, buildah", "`echo a b | tr …` printed the pipe", "printed A B (podman)")


def test_d16_a_command_that_still_runs_is_a_success(
    peers: SideBySide, docker_api: Pair, tmp_path: Path, verdict: Verdict
) -> None:
    """The stream breaks under the command, of which Docker then has no exit status as yet."""
    relay = Relay(docker_api.target.env["DOCKER_HOST"], tmp_path / "relay.sock", cut_after=2)
    with relay as address:
        hosts, env = docker_api.hosts(), {"DOCKER_HOST": address}
        run = peers.play([docker_api], hosts, {"raw": raw("sleep 20; exit 5")}, env=env)
    theirs, ours = (run["raw", plugin] for plugin in docker_api.plugins)
    assert (theirs.ended, theirs.rc) == ("ok", 0), run.printed
    assert theirs.seconds < 20
    assert ours.ended == "unreachable" and "outcome is unknown" in ours.said, run.printed
    verdict("docker_api", "ok, status 0", "UNREACHABLE, outcome unknown")


def test_d18_a_stopped_container_is_said_to_be_paused(
    peers: SideBySide, docker_api: Pair, verdict: Verdict
) -> None:
    """Docker answers 409 for both."""
    with docker_api.target.container(f"{NAME}-d18", image="busybox", state="stopped") as name:
        hosts = docker_api.hosts(ansible_host=name)
        run = peers.play([docker_api], hosts, {"raw": raw("true")})
    theirs, ours = (run["raw", plugin] for plugin in docker_api.plugins)
    assert theirs.ended == ours.ended == "unreachable", run.printed
    assert "has been paused" in theirs.said
    assert "is exited" in ours.said and "paused" not in ours.said
    verdict("docker_api", "it has been paused", "it is exited")


def test_d18_modules_do_not_arrive_over_tls(
    peers: SideBySide, docker_api: Pair, verdict: Verdict
) -> None:
    """The other half of it: the peer ends stdin, and with it a TLS stream as a whole."""
    env = docker_api.target.env
    over_tls = {
        "DOCKER_HOST": env["GANGWAY_DOCKER_TLS_HOST"],
        "DOCKER_CERT_PATH": env["GANGWAY_DOCKER_TLS_CERTS"],
        "DOCKER_TLS_VERIFY": "1",
        # Where these are set, `requests` prefers them to what the plugin gives it.
        "REQUESTS_CA_BUNDLE": "",
        "CURL_CA_BUNDLE": "",
    }
    hosts = docker_api.hosts(ansible_docker_tls_hostname="127.0.0.1")
    tasks = {"raw": raw("echo by TLS"), "module": PING | {"timeout": 15}}
    run = peers.play([docker_api], hosts, tasks, env=over_tls)
    for plugin in docker_api.plugins:
        assert run["raw", plugin].stdout == "by TLS\n", run.printed
    assert run["module", docker_api.peer].ended == "failed", run.printed
    assert run["module", docker_api.ours].ended == "ok", run.printed
    verdict("docker_api", "no result from a module", "ran the module")


def test_d20_remote_user_is_ignored(
    peers: SideBySide, buildah: Pair, podman: Pair, verdict: Verdict
) -> None:
    """The peer removes it again wherever become might be meant; ours runs on Podman."""
    hosts = {
        buildah.peer: buildah.host(buildah.peer, ansible_user="app"),
        podman.ours: podman.host(podman.ours, ansible_user="app"),
    }
    run = peers.play([buildah, podman], hosts, {"raw": raw("id -un")})
    assert run["raw", buildah.peer].stdout.strip() == "root", run.printed
    assert run["raw", podman.ours].stdout.strip() == "app", run.printed
    verdict("buildah", "ran as root", "ran as the user (podman)")


def test_d21_close_raises(peers: SideBySide, buildah: Pair, podman: Pair, verdict: Verdict) -> None:
    """Called without a play, which takes AttributeError for a plugin that has no `close`.

    Ours is open on Podman when it is closed.
    """
    raised = peers.call(buildah, buildah.peer, ("close",))
    assert raised == ["AttributeError: 'Connection' object has no attribute '_command_cache'"]
    assert peers.call(podman, podman.ours, ("exec_command", "true"), ("close",)) == ["", ""]
    verdict("buildah", "AttributeError", "closed (podman)")
