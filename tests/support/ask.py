"""Run one task on many hosts by Ansible, all at once, and read what each of them answered."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support import inventory
from support.ansible import Ansible

Answer = dict[str, Any]
# The registered results of all hosts, in a form that no callback changes.
COLLECT = (
    "ANSWERS={{ dict(ansible_play_hosts_all | zip(ansible_play_hosts_all"
    " | map('extract', hostvars, 'answer'))) | to_json | b64encode }}"
)


def ask(
    ansible: Ansible,
    directory: Path,
    hosts: Mapping[str, Mapping[str, Any]],
    task: Mapping[str, Any],
    *options: str,
    env: Mapping[str, str] | None = None,
    keywords: Mapping[str, Any] | None = None,
) -> dict[str, Answer]:
    """Return the registered result of `task` by host, also where it failed or was unreachable.

    `hosts` maps each host to its variables, `keywords` are the play's. The whole output is left
    in the file `log` of `directory`.
    """
    play = {
        "hosts": "all",
        "gather_facts": False,
        **(keywords or {}),
        "tasks": [
            {**task, "register": "answer", "ignore_errors": True, "ignore_unreachable": True},
            {"ansible.builtin.debug": {"msg": COLLECT}, "run_once": True},
        ],
    }
    book = directory / "play.json"
    book.write_text(json.dumps([play]))
    hosts_file = inventory.write(directory / "hosts.json", all=hosts)
    done = ansible.playbook(book, "-i", hosts_file, *options, env=env)
    (directory / "log").write_text(str(done))
    found = re.search(r"ANSWERS=([\w+/=]+)", done.stdout)
    assert found, done
    answers: dict[str, Answer] = json.loads(base64.b64decode(found[1]))
    return answers


def raw(script: str) -> dict[str, Any]:
    """Return the task that runs a shell script, whatever is quoted in it."""
    return {"ansible.builtin.raw": "{{ script }}", "vars": {"script": script}}
