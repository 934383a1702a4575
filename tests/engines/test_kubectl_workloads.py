"""kubectl: the pod behind a Deployment or a Service, on both paths; pods that do not run."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import inventory, pods
from support.ansible import Ansible
from support.sentences import CHECK_NAME, UNREACHABLE, assert_refused
from support.targets import Kubectl


@pytest.fixture
def web(bed_kubernetes: dict[str, str]) -> Iterator[str]:
    """Return the name of a Deployment and a Service in front of two pods, NAME-1 and NAME-2.

    No controller makes pods in the bed: what is deleted stays away. NAME-unscheduled and
    NAME-imageless are pods that never run, and nobody's.
    """
    target = Kubectl(bed_kubernetes)
    name = f"gangway-web-{secrets.token_hex(4)}"
    spec = json.loads(pods.kubectl(target, "get", "pod", "target", "--output=json"))["spec"]
    keys = ("nodeName", "hostNetwork", "automountServiceAccountToken", "enableServiceLinks")
    # With 0 a pod would be gone from the API before its processes are.
    node = {key: spec[key] for key in keys} | {"terminationGracePeriodSeconds": 1}
    selector = {"app": name}

    def container(who: str, image: str = spec["containers"][0]["image"]) -> dict[str, Any]:
        env = [{"name": "WHO", "value": who}]
        return {"name": "main", "image": image, "imagePullPolicy": "Never", "env": env}

    def made(kind: str, suffix: str, labels: dict[str, str], **fields: Any) -> dict[str, Any]:
        version = "apps/v1" if kind == "Deployment" else "v1"
        metadata = {"name": name + suffix, "labels": labels | {"test": name}}
        return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": fields}

    template = {"metadata": {"labels": selector}, "spec": node | {"containers": [container("?")]}}
    unscheduled = {key: value for key, value in node.items() if key != "nodeName"}
    items = [
        made("Deployment", "", {}, selector={"matchLabels": selector}, template=template),
        made("Service", "", {}, selector=selector, ports=[{"port": 80}]),
        made("Pod", "-1", selector, **node, containers=[container("one")]),
        made("Pod", "-2", selector, **node, containers=[container("two")]),
        made("Pod", "-unscheduled", {}, **unscheduled, containers=[container("?")]),
        made("Pod", "-imageless", {}, **node, containers=[container("?", "localhost/no/such")]),
    ]
    stdin = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    try:
        pods.kubectl(target, "create", "--filename=-", stdin=stdin)
        ready = ("wait", "--for=condition=Ready", "--timeout=60s", "pod")
        pods.kubectl(target, *ready, f"--selector=app={name}")
        yield name
    finally:
        everything = ("deployments,services,pods", f"--selector=test={name}")
        pods.kubectl(target, "delete", *everything, "--wait=false")


def test_pods_that_never_ran(kubectl: Kubectl, web: str) -> None:
    """One without a node, and one without its image."""
    for suffix in ("unscheduled", "imageless"):
        pod = f"{web}-{suffix}"
        assert_refused(
            lambda pod=pod: kubectl.session(pod).exec_command(b"true"),
            UNREACHABLE,
            f'pod "{pod}" is pending, not running: see `kubectl describe pod` for the reason',
        )


def test_what_selects_no_pods(kubectl: Kubectl) -> None:
    assert_refused(
        lambda: kubectl.session("namespace/default").exec_command(b"true"),
        UNREACHABLE,
        rf'pod "namespace/default" does not exist \(it selects no pods\): {CHECK_NAME}',
    )


def test_steps_stay_in_one_pod(
    kubectl: Kubectl, ansible: Ansible, web: str, tmp_path: Path
) -> None:
    """Also another agent's, and a large file's own stream, where a new one would be chosen."""
    (tmp_path / "large").write_bytes(os.urandom(3 << 20))
    grace = ("--grace-period=60", "--wait=false")
    argv = [*kubectl.client, "delete", "pod", f"{web}-1", *grace]
    tasks = [
        {"ansible.builtin.raw": "echo $WHO", "register": "first"},
        {"ansible.builtin.command": {"argv": argv}, "delegate_to": "localhost"},
        {"ansible.builtin.copy": {"src": f"{tmp_path}/large", "dest": "/tmp/large"}},
        {"ansible.builtin.shell": "echo $WHO; cksum /tmp/large", "register": "second"},
        {"ansible.builtin.fetch": {"src": "/tmp/large", "dest": f"{tmp_path}/back", "flat": True}},
        {"ansible.builtin.debug": {"msg": "WHO={{ first.stdout | trim }},{{ second.stdout }}."}},
    ]
    play = {"hosts": "all", "gather_facts": False, "tasks": tasks}
    (book := tmp_path / "play.json").write_text(json.dumps([play]))
    variables = kubectl.variables("target") | {
        "ansible_host": f"deploy/{web}",
        "ansible_gangway_agent": True,
    }
    hosts = inventory.write(tmp_path / "hosts.json", all={"web": variables})
    done = ansible.playbook(book, "-i", hosts, "-vvv", env=kubectl.env)
    assert done.rc == 0, done
    assert done.stdout.count("a file of more than 1 MiB has a stream of its own") >= 1, done
    assert re.findall("WHO=(one,one)", done.stdout), done
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()
    # A new broker's agent goes to the one that stays.
    assert kubectl.session(f"deploy/{web}").exec_command(b"echo $WHO")[1] == b"two\n"


@pytest.mark.parametrize("path", ["direct", "agent"])
def test_a_pod_is_found_again_when_it_is_gone(
    kubectl: Kubectl, ansible: Ansible, web: str, tmp_path: Path, path: str
) -> None:
    """The ready and oldest one; when that is gone, the next task has the next one."""
    assert kubectl.session(f"svc/{web}").exec_command(b"echo $WHO")[1] == b"one\n"

    program = tmp_path / "counting-kubectl"
    program.write_text(
        '#!/bin/sh\nfor word; do case $word in get|exec) echo $word >>"$0.log"; break;; esac; '
        f'done\nexec {kubectl.env["GANGWAY_KUBECTL"]} "$@"\n'
    )
    program.chmod(0o755)
    variables = {
        "ansible_connection": "gangway.exec.kubectl",
        "ansible_kubectl_pod": f"deploy/{web}",
        "ansible_kubectl_executable": str(program),
        "ansible_gangway_agent": path == "agent",
    }
    who = {"ansible.builtin.raw": "echo $WHO"}
    argv = [*kubectl.client, "delete", "pod", f"{web}-1"]
    tasks = [
        who | {"register": "first"},
        {"ansible.builtin.copy": {"content": "x", "dest": "/tmp/gangway-web"}},
        {"ansible.builtin.command": {"argv": argv}, "delegate_to": "localhost"},
        who | {"register": "second"},
        {
            "ansible.builtin.debug": {
                "msg": "WHO={{ first.stdout | trim }},{{ second.stdout | trim }}."
            }
        },
    ]
    play = {"hosts": "all", "gather_facts": False, "tasks": tasks}
    book = tmp_path / "play.json"
    book.write_text(json.dumps([play]))
    hosts = inventory.write(tmp_path / "hosts.json", all={"web": variables})
    done = ansible.playbook(book, "-i", hosts, env=kubectl.env)
    assert done.rc == 0, done
    assert re.findall("WHO=(.*)\\.", done.stdout) == ["one,two"], done
    calls = program.with_name("counting-kubectl.log").read_text().split()
    # The Deployment and its pods: directly in each of three tasks; else for the first agent in each
    # pod, where others follow it.
    assert calls.count("get") == (6 if path == "direct" else 4)
    assert calls[:3] == ["get", "get", "exec"]
    if path == "direct":
        assert calls.count("exec") > 3  # copying needs several

    pods.kubectl(kubectl, "delete", "pod", f"{web}-2")
    assert_refused(
        lambda: kubectl.session(f"deploy/{web}").exec_command(b"true"),
        UNREACHABLE,
        f'pod "deploy/{web}" is without a running pod, not running: '
        f"see `kubectl get pods -l app={web}`",
    )
