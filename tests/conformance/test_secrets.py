"""Secrets are on no command line and in no output, however much Ansible is asked to say.

What is covered: the password of sudo and of su, variables of `extra_env`, a kubeconfig given as a
dictionary with its keys, a token and a password for the API server; the command lines of all
processes of the machine (the engine's client and daemons, what runs in containers) during plays in
which each secret is in use for two seconds, everything that Ansible prints
with -vvvvv, and the log of the broker.

What is not: processes that live for less than 10 ms (which get no secret but by the same code), and
a task's `environment:` on the direct path, which ansible-core itself writes into the command line;
README.md says so.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support import command_lines, inventory
from support.ansible import Ansible
from support.ask import ask
from support.entrances import PASSWORD, UTF_8, Entrances
from support.targets import Target

# Nobody else on this machine has them on a command line.
VARIABLE = f"s3cret-variable-{os.getpid()}"
API_PASSWORD = f"s3cret-password-{os.getpid()}"
MARKER = f"gangway-marker-{os.getpid()}"
# Python, too, has to be seen with its command line: the second is in a process of its own.
TASKS = {
    "raw": {"ansible.builtin.raw": f"echo {MARKER} $SECRET | cksum; sleep 2"},
    "module": {"ansible.builtin.shell": f"echo {MARKER} $SECRET | cksum; sleep 2"},
}


def cksum(text: str) -> str:
    """Return what `cksum` says of a line."""
    return subprocess.run(["cksum"], input=f"{text}\n".encode(), stdout=-1).stdout.decode()


def hosts(target: Target, entrances: Entrances) -> dict[str, dict[str, Any]]:
    """Return every way in which a secret is given."""
    extra = {f"ansible_{target.engine}_extra_env": {"SECRET": VARIABLE}}
    app = entrances["app"] | extra
    found = {
        "sudo": {"ansible_become_password": PASSWORD, "ansible_become_user": "root"},
        "sudo-plain": {"ansible_become_password": PASSWORD, "ansible_pipelining": False},
        "su": {
            "ansible_become_method": "su",
            "ansible_become_password": UTF_8,
            "ansible_become_user": "ops",
            "ansible_pipelining": False,
        },
    }
    ways = {name: app | variables | {"ansible_become": True} for name, variables in found.items()}
    ways["plain"] = entrances["root"] | extra | {"ansible_pipelining": False}
    ways["pipelined"] = entrances["root"] | extra
    return ways


def kubernetes(target: Target) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return hosts whose secrets are of the API server, and those secrets."""
    with open(target.env["KUBECONFIG"]) as file:
        config = json.load(file)
    user = config["users"][0]["user"]
    user["password"] = API_PASSWORD
    token = target.env["GANGWAY_KUBE_TOKEN"]
    pod = target.variables("target") | {"ansible_kubectl_extra_env": {"SECRET": VARIABLE}}
    server = {
        "ansible_kubectl_host": target.env["GANGWAY_KUBE_SERVER"],
        "ansible_kubectl_ca_cert": target.env["GANGWAY_KUBE_CA"],
    }
    ways = {
        "dictionary": pod | {"ansible_kubectl_kubeconfig": config},
        "token": pod | server | {"ansible_kubectl_token": token},
    }
    return ways, [API_PASSWORD, user["client-key-data"], token]


@pytest.mark.parametrize("task", sorted(TASKS))
def test_secrets(
    target: Target, ansible: Ansible, entrances: Entrances, tmp_path: Path, task: str
) -> None:
    """Neither in `ps` nor in the output, and in use all the same."""
    ways, secrets = hosts(target, entrances), [PASSWORD, UTF_8, VARIABLE]
    if target.engine == "kubectl":
        more, its_own = kubernetes(target)
        ways |= more
        secrets += its_own
    ways = {name: variables | inventory.PYTHON for name, variables in ways.items()}
    with command_lines.watched() as lines:
        answers = ask(ansible, tmp_path, ways, TASKS[task], "-vvvvv", env=target.env)
    # The variable arrived wherever nobody was become: sudo and su clear the environment, or not.
    for way in set(ways) & {"plain", "pipelined", "dictionary", "token"}:
        assert answers[way].get("stdout") == cksum(f"{MARKER} {VARIABLE}").rstrip("\n") + (
            "\n" if task == "raw" else ""
        ), answers[way]
    assert [way for way, answer in answers.items() if answer.get("rc") != 0] == []
    log = (tmp_path / "log").read_text()
    assert MARKER in log
    # It did look at the right processes: the engine's client, sudo and su, and the command.
    assert lines.having(f"{MARKER} $SECRET")
    seen = b"\n".join(lines.seen)
    assert all(word in seen for word in (b"sudo\0", b"su\0", target.engine.encode()))
    broker = Path(os.environ["XDG_STATE_HOME"]) / "gangway/broker.log"
    kept = broker.read_text() if broker.exists() else ""
    assert target.path == "direct" or kept
    for secret in secrets:
        assert secret not in log
        assert secret not in kept
        assert lines.having(secret) == []
