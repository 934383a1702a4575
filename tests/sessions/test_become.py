"""Warm interpreters behind become and `environment:`: how many there are, and who may use them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sessions.conftest import agents
from support import inventory
from support.ansible import Ansible
from support.entrances import PASSWORD, entrances
from support.targets import Target

# Of each host; `value` is another one in every task.
LOOP = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.command: printenv MINE
      environment: {MINE: "{{ item }}"}
      loop: "{{ range(100) | list }}"
      register: said
    - ansible.builtin.assert:
        that: said.results | map(attribute='stdout') | map('int') | list == range(100) | list
"""
BECOME = """
- hosts: all
  gather_facts: false
  become: true
  tasks:
    - ansible.builtin.command: id -un
      loop: "{{ range(20) | list }}"
      register: said
    - ansible.builtin.assert:
        that: said.results | map(attribute='stdout') | unique == ['root']
"""


def interpreters() -> int:
    return len([agent for agent in agents() if agent["serves"] == "modules"])


def test_a_loop_over_an_environment(target: Target, ansible: Ansible, tmp_path: Path) -> None:
    hosts = inventory.write(tmp_path / "hosts.json", all={"web": target.variables("target")})
    (play := tmp_path / "play.yml").write_text(LOOP)
    result = ansible.playbook(play, "-i", hosts, env=target.env)
    assert result.rc == 0, result
    assert interpreters() == 1


@pytest.mark.timeout(300)
@pytest.mark.in_turn
@pytest.mark.parametrize("method", ["sudo", "su"])  # by su modules come as files
def test_a_password_asked_for_once(
    target: Target, ansible: Ansible, tmp_path: Path, method: str
) -> None:
    """Twenty tasks need one interpreter; a wrong password does not get in beside the right one."""
    with entrances(target, tmp_path) as made:
        right = made["app"] | {
            "ansible_become_method": method,
            "ansible_become_password": PASSWORD,
            "ansible_gangway_persist": 600,
        }
        (play := tmp_path / "play.yml").write_text(BECOME)
        hosts = inventory.write(tmp_path / "hosts.json", all={"web": right})
        result = ansible.playbook(play, "-i", hosts, "-vvv", env=target.env)
        assert result.rc == 0, result
        assert interpreters() == 1
        assert len(re.findall("VIA interpreter .*, opened", result.stdout)) == 1
        assert len(re.findall("VIA interpreter .*, kept", result.stdout)) == 19
        assert PASSWORD not in result.stdout

        for password in ("s3cret-wrong", ""):
            wrong = right | {"ansible_become_password": password}
            hosts = inventory.write(tmp_path / "hosts.json", all={"web": wrong})
            play.write_text(BECOME.replace("20", "1"))  # who is wrong waits for two seconds
            result = ansible.playbook(play, "-i", hosts, env=target.env)
            verdict = "Incorrect" if password else "Missing"
            assert result.rc == 2 and f"{verdict} {method} password" in result.stdout, result
        assert interpreters() == 1


def test_one_interpreter_for_text_and_file(
    target: Target, ansible: Ansible, tmp_path: Path
) -> None:
    """Whether a module is sent or written to a file makes no other line."""
    tasks = [
        {"ping": {}, "vars": {"ansible_pipelining": pipelining, "ansible_remote_tmp": place}}
        for pipelining in (False, True, False)
        for place in ("/tmp/gangway-tmp", "/tmp/gangway tmp")
    ]
    play = {"hosts": "all", "gather_facts": False, "become": True, "tasks": tasks}
    (book := tmp_path / "play.json").write_text(json.dumps([play]))
    hosts = inventory.write(tmp_path / "hosts.json", all={"web": target.variables("target")})
    result = ansible.playbook(book, "-i", hosts, "-vvv", env=target.env)
    assert result.rc == 0, result
    assert interpreters() == 1
    assert len(re.findall("VIA interpreter ", result.stdout)) == len(tasks)
    assert len(re.findall(r"EXEC .*AnsiballZ_ping\.py", result.stdout)) >= 4, result


@pytest.mark.timeout(300)
def test_a_wrong_password_is_tried_once(target: Target, ansible: Ansible, tmp_path: Path) -> None:
    """Accounts get locked: the container's own log shows one attempt for one task.

    The interpreter that the right one opened before is there, and nobody else's.
    """
    with entrances(target, tmp_path) as made:
        name = made["app"]["ansible_host"]
        log = "/var/log/gangway-sudo"
        target.run(name, f"umask 227; echo 'Defaults logfile={log}' >/etc/sudoers.d/log")
        (play := tmp_path / "play.yml").write_text(BECOME.replace("20", "1"))
        right = made["app"] | {"ansible_become_password": PASSWORD, "ansible_gangway_persist": 600}
        hosts = inventory.write(tmp_path / "hosts.json", all={"web": right})
        result = ansible.playbook(play, "-i", hosts, env=target.env)
        assert result.rc == 0 and interpreters() == 1, result
        wrong = right | {"ansible_become_password": "s3cret-wrong"}
        hosts = inventory.write(tmp_path / "hosts.json", all={"web": wrong})
        result = ansible.playbook(play, "-i", hosts, env=target.env)
        assert result.rc == 2 and "Incorrect sudo password" in result.stdout, result
        attempts = target.run(name, f"cat {log}").decode()
        assert len(re.findall("incorrect password attempt", attempts)) == 1, attempts
        assert "1 incorrect password attempt" in attempts, attempts
        assert interpreters() == 1
