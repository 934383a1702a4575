"""Becoming another user with a password."""

from __future__ import annotations

import pytest

from peers.side_by_side import Pair, SideBySide, Verdict, both, raw

PASSWORD = "s3cret"
SUDOERS = "Defaults lecture=never, passwd_tries=1\napp ALL=(ALL) ALL\n"
BECOME = {
    "ansible_become": True,
    # Nobody asks root: so it is `app` who runs sudo.
    "ansible_become_exe": "setpriv --reuid=app --regid=app --init-groups sudo",
    "ansible_become_password": PASSWORD,
}


@pytest.fixture
def password(docker: Pair, kubectl: Pair, podman: Pair) -> None:
    """Give `app` a password, for which sudo asks."""
    for pair in (docker, kubectl, podman):
        pair.sh("chpasswd", f"app:{PASSWORD}\n")
        pair.sh("umask 227; cat >/etc/sudoers.d/app", SUDOERS)


@pytest.mark.usefixtures("password")
def test_d04_the_password_is_never_given(
    peers: SideBySide, kubectl: Pair, podman: Pair, verdict: Verdict
) -> None:
    """By raw, and by a module, whose first line sudo takes for the password when it is pipelined.

    The rest of the module nobody reads, for which kubectl waits: the task has a timeout.
    """
    pairs = (kubectl, podman)
    module = {"ansible.builtin.command": "id -un", "timeout": 8}
    plain = module | {"vars": {"ansible_pipelining": False}}
    tasks = {"raw": raw("id -un"), "module": module, "plain": plain}
    run = peers.play(pairs, both(*pairs, **BECOME), tasks)
    for pair in pairs:
        for task in tasks:
            assert run[task, pair.peer].ended == "failed", run.printed
            assert run[task, pair.ours].stdout.strip() == "root", run.printed
        assert "sudo: no password was provided" in run["raw", pair.peer].said
        assert "sudo: no password was provided" in run["plain", pair.peer].said
    # Of sudo's complaint podman may lose all but the prompt.
    assert "password" in run["module", podman.peer].said, run.printed
    assert "Timed out after 8 second" in run["module", kubectl.peer].said, run.printed
    theirs = "no password was provided; a pipelined module is taken for one, where kubectl hangs"
    verdict("kubectl, podman", theirs, "became root")


@pytest.mark.usefixtures("password")
def test_d07_a_mute_prompt_is_waited_for_without_a_bound(
    peers: SideBySide, docker: Pair, docker_api: Pair, verdict: Verdict
) -> None:
    """A sudo that says nothing for 9 seconds, and 2 seconds to wait for it."""
    mute = BECOME | {"ansible_become_exe": "sleep 9 #", "ansible_docker_timeout": 2}
    run = peers.play([docker], both(docker, docker_api, **mute), {"raw": raw("true")})
    ours = run["raw", docker.ours]
    for peer in (docker.peer, docker_api.peer):
        assert run["raw", peer].seconds > 9, run.printed
    assert ours.ended == "unreachable" and "waiting for privilege escalation" in ours.said
    assert ours.seconds < 8
    verdict("docker, docker_api", "failed when sudo had ended", "failed in time")
