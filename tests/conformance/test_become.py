"""Plays that become another user through the real sudo, su and doas.

The matrix is method x password (none needed, right, wrong, missing, mute: a program that never says
a word) x the three ways to run something (raw, a pipelined module, a module that is a file). runc
takes all of it; elsewhere, in a sample, each pair of method and password comes with one of the two
pipelinings, and the other engines share what is not in the matrix.

doas reads a password from a terminal and nowhere else, and no connection to a container has one: it
works where none is asked for, and what must be otherwise is its own refusal at once, not a hang.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from peers import installed
from support import inventory, processes
from support.ansible import Ansible
from support.ask import ask
from support.entrances import PASSWORD, UTF_8, Entrances
from support.pods import pod
from support.targets import ENGINES, Target

PLAYS = Path(__file__).parent / "plays"
# Stands for a program that never says a word; a length that no other process has.
MUTE = f"sleep 600.{os.getpid()}"
NAP = f"sleep 700.{os.getpid()}"
GERMAN = {"LC_ALL": "de_DE.UTF-8"}

Case = dict[str, Any]


def entered(target: Target, entrances: Entrances, user: str, method: str) -> Case:
    """Return what all cases of a user have in common; many run at once, so each may be slow."""
    patience = {f"ansible_{target.engine}_timeout": 60}
    return entrances[user] | {"ansible_become_method": method} | patience


def case(variables: Case, ends: str, wanted: str, **become: str) -> Case:
    """Return a host of plays/become.yml."""
    options = {f"ansible_become_{key}": value for key, value in become.items()}
    return variables | options | {"ends": ends, "wanted": wanted}


def matrix(target: Target, entrances: Entrances, method: str) -> dict[str, Case]:
    """Return what each kind of password leads to, by its name."""
    root, app = (entered(target, entrances, user, method) for user in ("root", "app"))
    # On a busy machine each of many commands at once takes seconds to start.
    seconds = 3 if target.engine == "runc" else 10
    short = app | {f"ansible_{target.engine}_timeout": seconds}
    mute = rf"timeout \({seconds} s\) waiting for privilege escalation by {method}"
    cases = {
        "none": case(root, "ok", "app", user="app"),
        "right": case(app, "ok", "root", password=PASSWORD),
        "wrong": case(app, "failed", f"Incorrect {method} password", password="s3cret-wrong"),
        "missing": case(app, "failed", f"Missing {method} password"),
        "mute": case(short, "unreachable", mute, password="s3cret-mute", exe=f"{MUTE} #"),
    }
    if method == "community.general.doas":
        cases |= {
            "right": case(app, "failed", "doas: Authentication failed", password=PASSWORD),
            "wrong": case(app, "failed", "doas: Authentication failed", password="s3cret-wrong"),
            "missing": case(app, "failed", "doas: Authentication required"),
        }
    return cases


def more(target: Target, entrances: Entrances, method: str) -> dict[str, Case]:
    """Return what is not in the matrix: other languages, other characters, prompts in a row."""
    root, app = (entered(target, entrances, user, method) for user in ("root", "app"))
    german = app | {f"ansible_{target.engine}_extra_env": GERMAN}
    unasked = matrix(target, entrances, method)["mute"]
    unasked = {k: v for k, v in unasked.items() if k != "ansible_become_password"}
    cases = {
        "needless": case(root, "ok", "app", user="app", password="s3cret-needless"),
        "unasked": unasked,  # a program that says nothing, and no password to tell it
        "utf-8": case(app, "ok", "ops", user="ops", password=UTF_8),
        "utf-8-wrong": case(
            app, "failed", f"Incorrect {method} password", user="ops", password="s3cret-pässwörd"
        ),
        "german": case(german, "ok", "root", password=PASSWORD),
    }
    if method == "sudo":
        cases["login"] = case(app, "ok", "root", password=PASSWORD, flags="-H -S -i")
        # It asks, and then says no more.
        falls_silent = f"sh -c 'printf %s \"$4\" >&2; read -r answer; exec {MUTE}' sh"
        cases["silent"] = matrix(target, entrances, method)["mute"]
        cases["silent"] |= {"ansible_become_exe": falls_silent}
        # The prompt is Ansible's own words; what sudo says of the password is not.
        cases["german-wrong"] = case(
            german, "failed", "Incorrect sudo password", password="s3cret-wrong"
        )
        cases["german-missing"] = case(german, "failed", "Ein Passwort ist notwendig")
    else:
        cases["german-wrong"] = case(
            german, "failed", "Fehler bei Authentifizierung", password="s3cret-wrong"
        )
        cases["german-missing"] = case(german, "failed", "Missing su password")
        cases["login"] = case(app, "ok", "root", password=PASSWORD, flags="--login")
        # sudo starts su: only the first asks, only the second, or both, of which one is answered.
        outer, inner = "sudo -S -p Password: su", "sudo -u nobody su"
        password = {"password": PASSWORD}
        cases["outer-asks"] = case(app, "ok", "ops", exe=outer, user="ops", **password)
        cases["inner-asks"] = case(app, "ok", "app", exe=inner, user="app", **password)
        both = case(app, "failed", "Incorrect su password", password=UTF_8)
        cases["both-ask"] = both | {"ansible_become_exe": "sudo -S -p Password: -u ops su"}
    return cases


@pytest.mark.timeout(400)  # most of it is what PAM lets pass after a wrong password
@pytest.mark.parametrize("method", ["sudo", "su", "doas"])
def test_become(
    request: pytest.FixtureRequest,
    target: Target,
    ansible: Ansible,
    entrances: Entrances,
    repository: Path,
    tmp_path: Path,
    method: str,
) -> None:
    """Each case ends as it must through raw and through a module."""
    env = {}
    if method == "doas":  # a plugin of another collection, which the peers bring
        method = "community.general.doas"
        packages = next(installed.environment(repository).glob("lib/python3*/site-packages"))
        env["ANSIBLE_COLLECTIONS_PATH"] = str(packages)
    everything = target.engine == "runc" or not request.config.getoption("--sample")
    hosts: dict[str, Case] = {}
    cases = matrix(target, entrances, method)
    for index, (name, variables) in enumerate(cases.items()):
        if everything or index % 2 == 0:
            hosts[name] = variables
        if everything or index % 2 == 1:
            hosts[f"{name}-plain"] = variables | {"ansible_pipelining": False}
    if method in ("sudo", "su"):
        others = sorted(set(ENGINES) - {"runc"})
        for index, (name, variables) in enumerate(more(target, entrances, method).items()):
            if everything or others[index % len(others)] == target.engine:
                hosts[name] = variables
    ended = [name for name in ("none", "right") if cases[name]["ends"] == "ok"]
    if target.engine == "kubectl":  # no exec of a pod's is root's there, to end what sudo began
        ended = ["none"]
    given_up = {name: cases[name] | {"nap": NAP} for name in ended}
    file = inventory.write(tmp_path / "inventory.json", cases=hosts | given_up, given_up=given_up)
    result = ansible.run(
        "ansible-playbook",
        "-vvvv",
        *("--inventory", file),
        *("--forks", "12"),
        PLAYS / "become.yml",
        env=target.env | env,
    )
    assert result.rc == 0, str(result)
    assert set(result.recap) == {*hosts, *given_up}, str(result)
    assert "s3cret" not in result.stdout + result.stderr
    for command in (MUTE, NAP):
        for container in {variables["ansible_host"] for variables in hosts.values()}:
            processes.wait_until_gone(target, container, command)


# How a module that is a file is given to a user who is neither root nor its owner.
GIVEN = {
    "by an access list": ({}, "user:ops:r-x"),
    "by a common group": ({"ansible_common_remote_group": "extra"}, "group:extra:r-x"),
    "to everybody": ({"ansible_shell_allow_world_readable_temp": True}, "other::r-x"),
}
# Its own file is the one that holds this command, and so the host's name.
LOOK = (
    "id -un; file=$(grep -ls '{{ inventory_hostname }}' /var/tmp/ansible-tmp-*/AnsiballZ_*.py);"
    " ls -l $file; getfacl --absolute-names $file; stat -c group:%G:r-x $file"
)


def test_from_one_ordinary_user_to_another(
    target: Target, ansible: Ansible, tmp_path: Path
) -> None:
    """By each of Ansible's ways; the first is not there where `setfacl` is not."""
    name = f"gangway-ordinary-{os.getpid()}"
    rule = "app ALL=(ALL) NOPASSWD: ALL\n"
    with ExitStack() as stack:
        for container in (name, f"{name}-bare"):
            if target.engine == "kubectl":
                sudoers, no_program = tmp_path / "sudoers", tmp_path / "setfacl"
                sudoers.write_text(rule)
                no_program.touch(0o444)
                mounts = {"/etc/sudoers.d/app": sudoers}
                if container != name:
                    mounts["/usr/bin/setfacl"] = no_program
                stack.enter_context(pod(target, container, {"runAsUser": 1000}, mounts))
            else:
                stack.enter_context(target.container(container))
                target.run(container, "umask 227; cat >/etc/sudoers.d/app", rule.encode())
                if container != name:
                    target.run(container, "rm /usr/bin/setfacl")
        user = {} if target.engine == "kubectl" else {"ansible_user": "app"}
        common = user | {"ansible_pipelining": False} | inventory.PYTHON
        hosts = {
            way: target.variables(f"{name}-bare" if variables else name) | common | variables
            for way, (variables, _) in GIVEN.items()
        }
        become = {"become": True, "become_user": "ops"}
        shell = {"ansible.builtin.shell": LOOK}
        answers = ask(ansible, tmp_path, hosts, shell, env=target.env, keywords=become)
        for way, (_, seen) in GIVEN.items():
            printed = answers[way].get("stdout_lines")
            assert printed and printed[0] == "ops" and seen in printed, (way, answers[way])
        # An action that brings a file of its own, too.
        (tmp_path / "script").write_text("#!/bin/sh\nid -un\n")
        script = {"ansible.builtin.script": str(tmp_path / "script")}
        answers = ask(ansible, tmp_path, hosts, script, env=target.env, keywords=become)
        users = {way: answer.get("stdout_lines", answer) for way, answer in answers.items()}
        assert users == {way: ["ops"] for way in GIVEN}
