"""put_file and fetch_file."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peers.side_by_side import Pair, SideBySide, Verdict


def fetch(source: str, directory: Path) -> dict[str, object]:
    """Return the task that fetches `source` to directory/HOST."""
    into = f"{directory}/{{{{ inventory_hostname }}}}"
    return {"ansible.builtin.fetch": {"src": source, "dest": into, "flat": True}}


def test_d01_fetch_destroys_an_unrelated_local_file(
    peers: SideBySide, docker: Pair, kubectl: Pair, tmp_path: Path, verdict: Verdict
) -> None:
    """The peers write beside the destination, to the source's name, and rename."""
    hosts = docker.hosts() | kubectl.hosts()
    for host in hosts:
        (tmp_path / host).mkdir()
        (tmp_path / host / "passwd").write_text("precious")
    into = f"{tmp_path}/{{{{ inventory_hostname }}}}/fetched"
    task = {"ansible.builtin.fetch": {"src": "/etc/passwd", "dest": into, "flat": True}}
    run = peers.play([docker, kubectl], hosts, {"fetch": task})
    for pair in (docker, kubectl):
        for plugin in pair.plugins:
            assert run["fetch", plugin].ended == "ok", run.printed
            assert "root:x:0:0" in (tmp_path / plugin / "fetched").read_text()
        assert not (tmp_path / pair.peer / "passwd").exists()
        assert (tmp_path / pair.ours / "passwd").read_text() == "precious"
    verdict("docker, kubectl", "removed it", "left it alone")


def test_d02_fetch_runs_a_file_name_as_shell_code(
    peers: SideBySide, docker: Pair, kubectl: Pair, tmp_path: Path, verdict: Verdict
) -> None:
    """The name stands unquoted in a shell line; docker's when `docker cp` cannot see the file.

    It cannot see a tmpfs, such as /dev/shm.
    """
    hosts = docker.hosts() | kubectl.hosts()
    for pair in (docker, kubectl):
        for plugin in pair.plugins:
            for name in ("a b", f"x;touch {plugin}"):
                file = shlex.quote(f"/dev/shm/{name}")
                pair.sh(f"echo ok >{file}")
    tasks = {
        "blank": fetch("/dev/shm/a b", tmp_path),
        "code": fetch("/dev/shm/x;touch {{ inventory_hostname }}", tmp_path),
    }
    run = peers.play([docker, kubectl], hosts, tasks)
    for pair in (docker, kubectl):
        assert run["blank", pair.peer].ended == "failed", run.printed
        assert run["blank", pair.ours].ended == run["code", pair.ours].ended == "ok", run.printed
        assert (tmp_path / pair.ours).read_text() == "ok\n"
        # An option of `dd` after the name is one more name for `touch`.
        made = pair.sh("ls /").split()
        assert {pair.peer, "bs=65536"} <= set(made)
        assert pair.ours not in made
        pair.sh(f"rm /{pair.peer} /bs=65536 /dev/shm/x* '/dev/shm/a b'")
    verdict("docker, kubectl", "ran `touch` in the container", "fetched the file")


def test_d03_kubectl_fails_the_connection_test_of_ansible_core(
    peers: SideBySide, kubectl: Pair, tmp_path: Path, verdict: Verdict
) -> None:
    """The test is ansible-core's own, unchanged."""
    results = peers.connection_test(kubectl, tmp_path)
    theirs, ours = results[kubectl.peer], results[kubectl.ours]
    assert theirs.rc != 0
    assert "failed to fetch file" in theirs.stdout and "汉语-['foo bar'].txt" in theirs.stdout
    assert ours.rc == 0, ours
    verdict("kubectl", "failed to fetch 汉语-['foo bar'].txt", "passed")


def test_d12_fetch_leaves_extra_args_out(
    peers: SideBySide, docker: Pair, podman: Pair, tmp_path: Path, verdict: Verdict
) -> None:
    """The arguments name a daemon, DOCKER_HOST another, with a container of the same name.

    The other daemon is Podman's, which speaks Docker's protocol.
    """
    assert docker.container == podman.container
    for pair in (docker, podman):
        pair.sh("cat >/tmp/daemon", pair.target.engine)
    here = f"-H {docker.target.env['DOCKER_HOST']}"
    task = {"fetch": fetch("/tmp/daemon", tmp_path)}
    with podman_service(podman, tmp_path / "podman.sock") as other:
        hosts = docker.hosts(ansible_docker_extra_args=here)
        run = peers.play([docker], hosts, task, env={"DOCKER_HOST": other})
    assert (tmp_path / docker.peer).read_text() == "podman", run.printed
    assert run["fetch", docker.ours].ended == "ok", run.printed
    assert (tmp_path / docker.ours).read_text() == "docker"
    verdict("docker", "fetched from the wrong daemon", "fetched from the right one")


@contextmanager
def podman_service(podman: Pair, socket: Path) -> Iterator[str]:
    """Serve Podman's API at a socket for as long as the block runs; return its address."""
    address = f"unix://{socket}"
    argv = [podman.target.env["GANGWAY_PODMAN"], "system", "service", "--time=0", address]
    service = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if socket.exists():
                break
            time.sleep(0.05)
        assert socket.exists(), argv
        yield address
    finally:
        service.terminate()
        service.wait(20)


def test_d15_fetch_takes_a_link_for_a_file(
    peers: SideBySide, docker: Pair, tmp_path: Path, verdict: Verdict
) -> None:
    """What arrives is a link, and leads to a file of the controller."""
    secret = tmp_path / "secret"
    secret.write_text("the controller's")
    docker.sh(f"mkdir -p {tmp_path}; cat >{secret}; ln -sf {secret} /tmp/link", "the container's")
    run = peers.play([docker], docker.hosts(), {"fetch": fetch("/tmp/link", tmp_path)})
    theirs, ours = tmp_path / docker.peer, tmp_path / docker.ours
    assert theirs.is_symlink() and theirs.read_text() == "the controller's"
    assert run["fetch", docker.ours].ended == "ok", run.printed
    assert not ours.is_symlink() and ours.read_text() == "the container's"
    verdict("docker", "made a link to a file of the controller", "fetched the file")


def test_d19_transfers_go_to_the_containers_directory_on_the_host(
    peers: SideBySide, podman: Pair, buildah: Pair, tmp_path: Path, verdict: Verdict
) -> None:
    """A link in the container leads the peers out of it, and what is mounted there is passed by.

    Ours runs on Podman for both.
    """
    secret, directory = tmp_path / "secret", tmp_path / "directory"
    secret.write_text("the controller's")
    directory.mkdir()
    for pair in (podman, buildah):
        pair.sh(
            f"mkdir -p {directory}; cat >{secret}; ln -sf {secret} /tmp/link;"
            f" ln -sfn {directory} /tmp/out",
            "the container's",
        )

    def module(temporary: str) -> dict[str, object]:
        variables = {"ansible_remote_tmp": temporary, "ansible_pipelining": False}
        return {"ansible.builtin.ping": {}, "vars": variables}

    tasks = {
        "read": fetch("/tmp/link", tmp_path),
        "write": module("/tmp/out"),
        "tmpfs": module("/dev/shm/ansible"),
    }
    theirs = {pair.peer: pair.host(pair.peer) for pair in (podman, buildah)}
    run = peers.play([podman, buildah], theirs, tasks)
    for peer in theirs:
        assert (tmp_path / peer).read_text() == "the controller's"
        assert run["write", peer].ended == run["tmpfs", peer].ended == "failed", run.printed
    strayed = [path.name for path in directory.rglob("*") if path.is_file()]
    assert strayed == ["AnsiballZ_ping.py"] * 2, run.printed

    run = peers.play([podman], {podman.ours: podman.host(podman.ours)}, tasks)
    assert {outcome.ended for outcome in run.values()} == {"ok"}, run.printed
    assert (tmp_path / podman.ours).read_text() == "the container's"
    assert len([path for path in directory.rglob("*") if path.is_file()]) == len(strayed)
    done = "read and wrote the controller's files"
    verdict("podman, buildah", done, "stayed in the container (podman)")


def test_d22_failed_transfers_pass_for_done(
    peers: SideBySide, buildah: Pair, podman: Pair, tmp_path: Path, verdict: Verdict
) -> None:
    """Called without a play, whose modules look before they transfer; the peer's mounts are off.

    Ours does the same on Podman.
    """
    local, back = tmp_path / "local", tmp_path / "back"
    local.write_text("x")
    calls = [
        ("put_file", str(local), "/etc/passwd/file"),
        ("fetch_file", "/no/such/file", str(back)),
    ]
    put, fetched = peers.call(buildah, buildah.peer, *calls, ansible_buildah_mount_detection=False)
    assert put == fetched == ""
    assert back.read_bytes() == b""
    back.unlink()
    put, fetched = peers.call(podman, podman.ours, *calls)
    assert put.startswith("AnsibleError: "), put
    assert "/etc/passwd/file" in put
    assert fetched.startswith("AnsibleFileNotFound: "), fetched
    assert not os.path.lexists(back)
    verdict("buildah", "reported success", "AnsibleError, AnsibleFileNotFound (podman)")
