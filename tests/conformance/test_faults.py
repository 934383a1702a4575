"""What breaks while a command runs, or between two: never a success, never a second run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ansible_gangway import _core
from support import beds
from support.alive import written
from support.targets import Docker, Target

UNKNOWN = "its outcome is unknown and it was not repeated"


@pytest.fixture(scope="module")
def victim(target: Target) -> Iterator[str]:
    """Return a container of this module's own, which tests may break and must mend."""
    with target.container("gangway-victim") as name:
        yield name


def remake(target: Target, name: str) -> None:
    """Start a new container under the old name, as after a restart."""
    verb, remove, flag = target._verbs
    beds.call(target.bed, remove, name)
    beds.call(target.bed, verb, name, flag, "base")


# How a container ends under a command. The bed's Podman cannot start again what stopped: it forgets
# where its runc keeps containers.
ENDS = {
    "docker": {
        "killed": ("kill",),
        "stopped": ("stop", "--time=0"),
        "restarted": ("restart", "--time=0"),
        "removed": ("rm", "--force"),
    },
    "podman": {"killed": ("kill",), "stopped": ("stop", "--time=0"), "removed": ("rm", "--force")},
    "runc": {"killed": ("kill", "{}", "KILL"), "removed": ("delete", "--force")},
    "kubectl": {
        "restarted": (),  # by the kubelet, as soon as its program ends
        # Without a moment's grace the pod is gone before its containers are.
        "removed": ("delete", "pod", "--grace-period=1", "--wait=true"),
    },
}


def end(target: Target, name: str, how: str) -> None:
    """End the container."""
    words = ENDS[target.engine][how]
    if not words:
        kill_in_pod(target, name)
        return
    words = words if "{}" in words else (*words, "{}")
    target.cli(*(word.format(name) for word in words))


def clients(target: Target) -> set[int]:
    """Return the engine's clients that this process, or the broker for it, has started."""
    if target.path == "agent":
        brokers = map(json.loads, _core.broker_status())
        return {agent["client_pid"] for broker in brokers for agent in broker["agents"]}
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def during(
    call: Callable[[], object], fault: Callable[[], None], ready: Callable[[], object]
) -> object:
    """Make `call`, let `fault` happen once `ready` has returned, and return the result."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(call)
        ready()
        fault()
        return running.result(60)


@pytest.mark.parametrize(
    ("target", "how"),
    [(engine, how) for engine, ends in sorted(ENDS.items()) for how in ends],
    indirect=["target"],
)
def test_the_container_ends_under_a_command(target: Target, victim: str, how: str) -> None:
    """That is no exit status of the command, and nothing is run again where it runs again."""
    session = target.session(victim)
    try:
        with pytest.raises(_core.ConnectionFailed, match=UNKNOWN):
            during(
                lambda: session.exec_command(b"echo $$ >>/tmp/ready; sleep 300"),
                lambda: end(target, victim, how),
                lambda: wait_for(target, victim, "/tmp/ready"),
            )
        if how == "restarted" and target.engine != "kubectl":  # which makes another container
            assert target.run(victim, "wc -l </tmp/ready").strip() == b"1"
    finally:
        remake(target, victim)


# The engine's client, which stands still in the middle of a transfer until a file is there.
HELD = """#!/bin/sh
case " $* " in *" exec "*) test -e '{place}/hold';; *) false;; esac || exec '{client}' "$@"
held() {{
    head -c 1000000; : >'{place}/held'; while test ! -e '{place}/go'; do sleep 0.1; done; cat
}}
case {method} in
put_file) held | '{client}' "$@";;
fetch_file) '{client}' "$@" | held;;
esac
"""


# Podman cannot be asked to: its `rm` waits for the client of each exec, and gives up.
@pytest.mark.parametrize("target", ["docker", "kubectl", "runc"], indirect=True)
@pytest.mark.parametrize("method", ["put_file", "fetch_file"])
def test_the_container_is_removed_under_a_transfer(
    target: Target, victim: str, tmp_path: Path, method: str
) -> None:
    """The path failed; the old file is here, and nothing beside it."""
    place, local, remote = tmp_path / "client", tmp_path / "local", "/tmp/gangway-large"
    place.mkdir()
    client = place / "client"
    client.write_text(HELD.format(place=place, client=target.client[0], method=method))
    client.chmod(0o755)
    local.write_bytes(os.urandom(3_000_000))
    before = local.read_bytes()
    # More than may be under way when the client stands still: kubectl's stream has many hops.
    size = 3_000_000 if method == "put_file" or target.engine != "kubectl" else 100_000_000
    target.run(victim, f"head -c {size} /dev/urandom >{remote}")
    session = target.session(victim, executable=bytes(client))
    session.exec_command(b"true")
    (place / "hold").touch()
    paths = [bytes(local), remote.encode()][:: 1 if method == "put_file" else -1]

    def remove() -> None:
        end(target, victim, "removed")
        (place / "go").touch()

    try:
        with pytest.raises(_core.ConnectionFailed):
            during(
                lambda: getattr(session, method)(*paths),
                remove,
                lambda: until((place / "held").exists),
            )
        assert local.read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["client", "local"]
    finally:
        remake(target, victim)


def until(condition: Callable[[], object]) -> None:
    """Wait until it is true."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for(target: Target, container: str, path: str) -> None:
    """Wait until the file is in the container."""
    deadline = time.monotonic() + 20
    while not target.run(container, f"cat {path} 2>/dev/null; true"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_container_made_anew_between_two_calls(target: Target, victim: str) -> None:
    """Nobody is told: the name leads to a container that runs."""
    session = target.session(victim)
    assert session.exec_command(b"echo one")[1] == b"one\n"
    remake(target, victim)
    assert session.exec_command(b"echo two")[1] == b"two\n"
    assert target.session(victim).exec_command(b"echo three")[1] == b"three\n"


def test_the_container_is_removed_between_two_calls(target: Target, victim: str) -> None:
    """The second call says so."""
    session = target.session(victim)
    session.exec_command(b"true")
    beds.call(target.bed, target._verbs[1], victim)
    try:
        with pytest.raises(_core.ConnectionFailed, match=r"gangway-victim.* does not exist"):
            session.exec_command(b"true")
    finally:
        remake(target, victim)


STATES = {
    "docker": [("stop", "--time=0"), ("start",), ("pause",), ("unpause",), ("restart", "--time=0")],
    "podman": [("pause",), ("unpause",), ("stop", "--time=0")],
    "runc": [("pause",), ("resume",)],
}
NAMED = {"stop": "is exited, not running", "pause": "is paused, not running"}


@pytest.mark.parametrize("target", sorted(STATES), indirect=True)
def test_states_between_two_calls(target: Target, victim: str) -> None:
    """One that does not run is named with its state; started again it works as before."""
    session = target.session(victim)
    try:
        for number, (verb, *options) in enumerate([("none",), *STATES[target.engine]]):
            if verb != "none":
                target.cli(verb, *options, victim)
            time.sleep(0.2)  # only an agent that was idle for 100 ms is asked whether it is there
            if verb in NAMED:
                with pytest.raises(_core.ConnectionFailed, match=NAMED[verb]):
                    session.exec_command(b"true")
            else:
                assert session.exec_command(b"echo %d" % number) == (0, b"%d\n" % number, b"")
    finally:
        remake(target, victim)


def kill_in_pod(target: Target, name: str) -> None:
    """Kill the program of a pod's container."""
    where = "{.status.containerStatuses[0].containerID}"
    argv = [*target.client, "get", "pod", name, f"--output=jsonpath={where}"]
    container = subprocess.check_output(argv, text=True, timeout=60).removeprefix("containerd://")
    socket = Path(target.env["KUBECONFIG"]).with_name("containerd.sock")
    ctr = ["ctr", f"--address={socket}", "--namespace=k8s.io", "tasks", "kill", "-s", "SIGKILL"]
    subprocess.run([*ctr, container], check=True, timeout=60)


@pytest.mark.parametrize("target", ["kubectl"], indirect=True)
def test_a_pods_container_is_restarted_between_two_calls(target: Target, victim: str) -> None:
    """The kubelet does that when its program ends: the same pod, another container."""
    session = target.session(victim)
    session.exec_command(b"touch /tmp/before")
    kill_in_pod(target, victim)
    deadline = time.monotonic() + 60
    argv = target.command(victim, "true")
    while time.monotonic() < deadline and subprocess.run(argv, capture_output=True).returncode:
        time.sleep(0.2)
    assert session.exec_command(b"ls /tmp; echo again") == (0, b"again\n", b"")


@pytest.mark.parametrize("target", ["runc", "docker", "podman"], indirect=True)
def test_a_pause_in_the_middle(target: Target, victim: str) -> None:
    """A paused container (backup tools do that) only takes longer. A pod cannot be paused."""
    resume = "resume" if target.engine == "runc" else "unpause"

    def pause() -> None:
        target.cli("pause", victim)
        time.sleep(3)
        target.cli(resume, victim)

    result = during(
        lambda: target.session(victim).exec_command(
            b"rm -f /tmp/p; echo a; echo >/tmp/p a; sleep 2; echo b; exit 5"
        ),
        pause,
        lambda: wait_for(target, victim, "/tmp/p"),
    )
    assert result == (5, b"a\nb\n", b"")


def test_the_engines_client_is_killed(target: Target) -> None:
    """Its end is not the command's."""
    before = clients(target)

    def end_client() -> None:
        for pid in clients(target) - before or clients(target):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    path = f"/tmp/gangway-client-{os.getpid()}"
    target.run("target", f"rm -f {path}")
    with pytest.raises(_core.ConnectionFailed, match=UNKNOWN):
        during(
            lambda: target.session().exec_command(f"echo $$ >{path}; sleep 30".encode()),
            end_client,
            lambda: written(target, path),
        )
    pid = target.run("target", f"cat {path}").decode()
    target.run("target", f"kill {pid} 2>/dev/null; true")


TRANSFER = """
import json, sys
recipe, method, source, destination = json.loads(sys.argv[1])
from support.targets import target_of
getattr(target_of(*recipe).session(), method)(source.encode(), destination.encode())
"""


SOAK = pytest.mark.soak


@pytest.mark.parametrize(
    "delay", [0.02, *(pytest.param(delay, marks=SOAK) for delay in (0.05, 0.1, 0.4, 0.8)), 0.2]
)
@pytest.mark.parametrize("victim_of_kill", ["worker", "client"])
def test_a_put_that_is_killed(
    target: Target, tmp_path: Path, delay: float, victim_of_kill: str
) -> None:
    """At whatever moment: the old file or the new one, whole, and soon nothing else beside it."""
    place = f"/tmp/gangway-put-{os.getpid()}"
    target.run("target", f"rm -rf {place}; mkdir {place}; echo old >{place}/file")
    local = tmp_path / "local"
    with local.open("wb") as file:
        for part in range(100):
            file.write(hashlib.sha256(b"%d" % part).digest() * 32_768)
    transfer_and_kill(
        [target.recipe, "put_file", str(local), f"{place}/file"], victim_of_kill, delay
    )
    deadline = time.monotonic() + 30
    while target.run("target", f"ls -A {place}") != b"file\n":
        assert time.monotonic() < deadline, target.run("target", f"ls -lA {place}")
        time.sleep(0.2)
    content = target.sum("target", f"{place}/file")
    assert content in [
        (len(text), hashlib.sha256(text).hexdigest()) for text in (b"old\n", local.read_bytes())
    ]
    target.run("target", f"rm -rf {place}")


def transfer_and_kill(arguments: list[object], victim_of_kill: str, delay: float) -> None:
    """Transfer in a process of its own, and kill it or the engine's client after `delay` s."""
    worker = subprocess.Popen(
        [sys.executable, "-c", TRANSFER, json.dumps(arguments)],
        env=beds.environment({"PYTHONPATH": str(Path(__file__).parent.parent)}),
        stderr=subprocess.DEVNULL,
    )
    started = Path(f"/proc/{worker.pid}/task/{worker.pid}/children")
    while worker.poll() is None and not (clients := started.read_text().split()):
        time.sleep(0.005)
    time.sleep(delay)
    for pid in [worker.pid] if victim_of_kill == "worker" else map(int, clients):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    worker.wait(60)


@pytest.mark.parametrize("delay", [0.05, *(pytest.param(d, marks=SOAK) for d in (0.02, 0.2, 0.6))])
@pytest.mark.parametrize("victim_of_kill", ["worker", "client"])
def test_a_fetch_that_is_killed(
    target: Target, tmp_path: Path, delay: float, victim_of_kill: str
) -> None:
    """The old file or the new one, whole; only a worker that SIGKILL ends leaves a file beside."""
    local = tmp_path / "local"
    local.write_text("old")
    remote = f"/tmp/gangway-fetch-{os.getpid()}"
    target.run("target", f"head -c 100000000 /dev/urandom >{remote}")
    transfer_and_kill([target.recipe, "fetch_file", remote, str(local)], victim_of_kill, delay)
    digest = hashlib.sha256(local.read_bytes()).hexdigest()
    new = target.run("target", f"sha256sum {remote}; rm {remote}").split()[0].decode()
    assert digest in (hashlib.sha256(b"old").hexdigest(), new)
    beside = [path.name for path in tmp_path.iterdir() if path != local]
    if victim_of_kill == "client":
        assert beside == []
    assert all(name.startswith(".gangway-") for name in beside) and len(beside) < 2


OUTPUT = """
import hashlib, json, sys
recipe, command = json.loads(sys.argv[1])
from support.targets import target_of
rc, stdout, stderr = target_of(*recipe).session().exec_command(command.encode())
print(rc, len(stdout), hashlib.sha256(stdout).hexdigest())
"""


def output(target: Target, size: int, disturb: Callable[[int], None]) -> tuple[int, str, str]:
    """Let a worker of its own read `size` bytes of output: its status, what it says, its stderr."""
    command = f"head -c {size} /dev/zero | tr '\\0' x"
    worker = subprocess.Popen(
        [sys.executable, "-c", OUTPUT, json.dumps([target.recipe, command])],
        env=beds.environment({"PYTHONPATH": str(Path(__file__).parent.parent)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    disturber = threading.Thread(target=disturb, args=(worker.pid,))
    disturber.start()
    stdout, stderr = worker.communicate(timeout=600)
    disturber.join()
    return worker.returncode, stdout, stderr


def expected(size: int) -> str:
    """Return what a worker says that got everything."""
    digest = hashlib.sha256()
    for _ in range(size >> 20):
        digest.update(b"x" * (1 << 20))
    return f"0 {size} {digest.hexdigest()}\n"


@pytest.mark.parametrize(
    "size", [64 << 20, pytest.param(2 << 30, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
def test_large_output(target: Target, size: int) -> None:
    """Every byte of it."""
    assert output(target, size, lambda _: None)[:2] == (0, expected(size))


def test_a_reader_that_stands_still(target: Target) -> None:
    """Docker drops what nobody reads for two seconds: all of it, or an error."""
    size = 32 << 20

    def stop_for_a_while(pid: int) -> None:
        for _ in range(3):
            time.sleep(0.4)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(3)
            os.kill(pid, signal.SIGCONT)

    with contextlib.suppress(ProcessLookupError):
        status, said, error = output(target, size, ignore_missing(stop_for_a_while))
    if status == 0:
        assert said == expected(size)
    else:
        assert "ConnectionFailed" in error and UNKNOWN in error


def ignore_missing(disturb: Callable[[int], None]) -> Callable[[int], None]:
    """Let the worker end before the disturbance is over."""

    def disturbing(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            disturb(pid)

    return disturbing


def test_docker_is_killed_under_a_command(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon of this test's own: SIGKILL in the middle, then it is down, then it is back."""
    monkeypatch.setenv("GANGWAY_BEDS", str(tmp_path_factory.mktemp("b", numbered=True)))
    docker = Docker(beds.start("docker"))
    try:
        session = docker.session("busybox")
        path = "/tmp/ready"
        daemon = int(
            (Path(os.environ["GANGWAY_BEDS"]) / "docker/dockerd.started").read_text().split()[0]
        )
        with pytest.raises(_core.ConnectionFailed, match=UNKNOWN):
            during(
                lambda: session.exec_command(f"echo 1 >{path}; sleep 300".encode()),
                lambda: os.kill(daemon, signal.SIGKILL),
                lambda: wait_for(docker, "busybox", path),
            )
        with pytest.raises(_core.ConnectionFailed, match="the engine cannot be reached"):
            session.exec_command(b"true")
        docker = Docker(beds.start("docker"))
        assert docker.session("busybox").exec_command(b"echo back")[1] == b"back\n"
    finally:
        beds.stop("docker")


@pytest.mark.parametrize("daemon", ["kube-apiserver", "kubelet"])
@pytest.mark.parametrize("target", ["kubectl"], indirect=True)
def test_kubernetes_is_killed_under_a_command(target: Target, daemon: str) -> None:
    """The stream breaks, kubectl may even exit 0; then it is down, and then it is back."""
    state = Path(target.env["KUBECONFIG"]).parent
    pid = int((state / f"{daemon}.started").read_text().split()[0])
    path = f"/tmp/gangway-{daemon}-{os.getpid()}"
    session = target.session()
    try:
        with pytest.raises(_core.ConnectionFailed, match=UNKNOWN):
            during(
                lambda: session.exec_command(f"echo $$ >{path}; sleep 20".encode()),
                lambda: os.kill(pid, signal.SIGKILL),
                lambda: written(target, path),
            )
        for broken in (session, target.session()):
            with pytest.raises(_core.ConnectionFailed, match=r"the engine cannot be reached"):
                broken.exec_command(b"true")
    finally:
        again = beds.start("kubernetes")
    assert again == target.env, "the bed was made anew, instead of that daemon"
    assert session.exec_command(b"echo back")[1] == b"back\n"
    # Its command was not started anew, and what runs in pods was not ended.
    target.run("target", f"kill $(cat {path}); rm {path}")
