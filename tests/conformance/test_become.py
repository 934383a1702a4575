"""Plays that become another user: with and without a password, right, wrong, missing, or mute."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support import inventory, processes
from support.ansible import Ansible
from support.pods import pod
from support.targets import Target

PLAYS = Path(__file__).parent / "plays"
PASSWORD = "s3cret-right"
# The same, as /etc/shadow has it.
HASH = (
    "$6$gangway$UQslpRTo5jb9rT4a4b7ikaPOib02ehpsSnd20YSDOrwxQaeYdhRBZSlN9EwxKMbX7vHOems"
    "/kfqyHDTyl1EvH0"
)
SUDOERS = "Defaults lecture=never\napp ALL=(ALL) ALL\n"
# Stands for a sudo that never says a word; a length that no other process has.
MUTE = f"sleep 600.{os.getpid()}"
NAP = f"sleep 700.{os.getpid()}"


@pytest.fixture(scope="module")
def as_app(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Return the variables of a container entered as `app`, whom sudo asks for a password."""
    name = f"gangway-become-{os.getpid()}"
    with ExitStack() as stack:
        if target.engine == "kubectl":  # which enters a container as nobody else than its own user
            files = tmp_path_factory.mktemp("etc")
            shadow = target.run("target", "cat /etc/shadow").decode()
            (files / "shadow").write_text(shadow.replace("app:!:", f"app:{HASH}:"))
            (files / "sudoers").write_text(SUDOERS)
            for file in files.iterdir():
                file.chmod(0o440)
            mounts = {"/etc/shadow": files / "shadow", "/etc/sudoers.d/app": files / "sudoers"}
            stack.enter_context(pod(target, name, {"runAsUser": 1000}, mounts))
            yield target.variables(name)
            return
        stack.enter_context(target.container(name))
        target.run(name, "chpasswd --encrypted", f"app:{HASH}\n".encode())
        target.run(name, "umask 227; cat >/etc/sudoers.d/app", SUDOERS.encode())
        yield target.variables(name) | {"ansible_user": "app"}


def cases(target: Target, app: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the hosts of plays/become.yml."""
    root = app | {"ansible_user": "root"}
    if target.engine == "kubectl":
        root = target.variables("target")
    plain = {"ansible_pipelining": False}
    # Podman has no daemon: on a busy machine each of many commands at once takes seconds to start.
    seconds = 10 if target.engine == "podman" else 3
    short = app | {f"ansible_{target.engine}_timeout": seconds}
    mute = rf"timeout \({seconds} s\) waiting for privilege escalation by sudo"

    def case(variables: dict[str, Any], ends: str, wanted: str, **become: str) -> dict[str, Any]:
        options = {f"ansible_become_{key}": value for key, value in become.items()}
        return variables | options | {"ends": ends, "wanted": wanted}

    return {
        "root-sudo": case(root, "ok", "app", user="app"),
        "root-sudo-plain": case(root | plain, "ok", "app", user="app"),
        "root-su": case(root, "ok", "app", user="app", method="su"),
        "needless": case(root, "ok", "app", user="app", password="s3cret-needless"),
        "right": case(app, "ok", "root", password=PASSWORD),
        "right-plain": case(app | plain, "ok", "root", password=PASSWORD),
        "right-su": case(app, "ok", "app", user="app", password=PASSWORD, method="su"),
        "wrong": case(app, "failed", "Incorrect sudo password", password="s3cret-wrong"),
        "wrong-plain": case(app | plain, "failed", "Incorrect sudo password", password="s3cret"),
        "wrong-su": case(app, "failed", "Incorrect su password", password="s3cret", method="su"),
        "missing": case(app, "failed", "Missing sudo password"),
        "missing-su": case(app, "failed", "Missing su password", method="su"),
        "mute": case(short, "unreachable", mute, password="s3cret-mute", exe=f"{MUTE} #"),
        "mute-unasked": case(short, "unreachable", mute, exe=f"{MUTE} #"),
    }


def test_become(target: Target, ansible: Ansible, as_app: dict[str, Any], tmp_path: Path) -> None:
    """Each case ends as it must through raw and through a module, with and without pipelining."""
    hosts = cases(target, as_app)
    given_up = {host: hosts[host] | {"nap": NAP} for host in ("root-sudo", "right")}
    if target.engine == "kubectl":  # no exec of a pod's is root's there, to end what sudo began
        del given_up["right"]
    file = inventory.write(tmp_path / "inventory.json", cases=hosts, given_up=given_up)
    result = ansible.run(
        "ansible-playbook",
        "-vvvv",
        *("--inventory", file),
        *("--forks", str(len(hosts))),
        PLAYS / "become.yml",
        env=target.env,
        seconds=100,
    )
    assert result.rc == 0, str(result)
    assert set(result.recap) == set(hosts), str(result)
    assert "s3cret" not in result.stdout + result.stderr
    for command in (MUTE, NAP):
        for container in {variables["ansible_host"] for variables in hosts.values()}:
            processes.wait_until_gone(target, container, command)
