"""kubectl: how options and surroundings reach a real API server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support import variables
from support.ansible import Ansible
from support.ask import Answer, ask, raw
from support.sentences import (
    NOT_REACHED,
    UNREACHABLE,
    WRONG_SETTINGS,
    assert_refused,
    assert_unreachable,
)
from support.servers import Proxy, serving
from support.targets import Kubectl
from support.transfers import assert_works

# The kubelet mounts this file from a path that names the pod and the container.
WHERE = (
    r"""sed -n 's|.*/pods/\([^/]*\)/containers/\([^/]*\)/.* /dev/termination-log .*|\1 \2|p' """
    r"""/proc/self/mountinfo; printf '%s\n' "$PWD" "$WORD" """
)
CONNECTION = {"ansible_connection": "gangway.exec.kubectl", "ansible_host": "target"}


def uid(kubectl: Kubectl, pod: str, namespace: str = "default") -> str:
    """Return what no other pod has ever had."""
    argv = ["get", "pod", pod, f"--namespace={namespace}", "--output=jsonpath={.metadata.uid}"]
    return subprocess.check_output([*kubectl.client, *argv], text=True, timeout=60)


@pytest.fixture(scope="module")
def places(bed_kubernetes: dict[str, str]) -> dict[str, list[str]]:
    """Return what WHERE prints in the containers of the bed when no option is set."""
    kubectl = Kubectl(bed_kubernetes)
    return {
        "target": [f"{uid(kubectl, 'target')} main", "/", ""],
        "other": [f"{uid(kubectl, 'target', 'other')} main", "/", ""],
        "one": [f"{uid(kubectl, 'pair')} one", "/", ""],
        "two": [f"{uid(kubectl, 'pair')} two", "/", ""],
    }


def seen(answer: Answer) -> list[str]:
    """Return what WHERE printed."""
    assert answer.get("rc") == 0, answer
    assert answer["stderr"] == "", answer  # kubectl's own remarks are not the command's
    return list(answer["stdout_lines"])


# Options through Ansible.


def test_variables(
    kubectl: Kubectl, ansible: Ansible, tmp_path: Path, places: dict[str, list[str]]
) -> None:
    """Each does what it is for, by every name that it has; nothing but it leads to the cluster."""
    env = kubectl.env
    admin, server, ca = env["KUBECONFIG"], env["GANGWAY_KUBE_SERVER"], env["GANGWAY_KUBE_CA"]
    spaced = tmp_path / "a b" / "config"
    spaced.parent.mkdir()
    spaced.symlink_to(admin)
    token = {"kubectl_host": server, "kubectl_token": env["GANGWAY_KUBE_TOKEN"]}
    cert, key = env["GANGWAY_KUBE_CLIENT_CERT"], env["GANGWAY_KUBE_CLIENT_KEY"]
    config = {"kubectl_kubeconfig": admin}
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "target": ("target", config | {"host": "{{ inventory_hostname }}"}),
        "pod": ("target", config | {"host": "nosuch", "kubectl_pod": "target"}),
        "type": ("target", config | {"kubectl_pod": "pod/target"}),
        "first-container": ("one", config | {"kubectl_pod": "pair"}),
        "container": ("two", config | {"kubectl_pod": "pair", "kubectl_container": "two"}),
        "namespace": ("other", config | {"kubectl_namespace": "other"}),
        "context": ("other", config | {"kubectl_context": "other"}),
        "config": ("target", {"kubectl_config": admin}),
        "dictionary": ("target", {"kubectl_kubeconfig": json.loads(Path(admin).read_text())}),
        "token": ("target", token | {"kubectl_ssl_ca_cert": ca}),
        "api-key": (
            "target",
            {
                "kubectl_server": server,
                "kubectl_api_key": env["GANGWAY_KUBE_TOKEN"],
                "kubectl_ca_cert": ca,
            },
        ),
        "certificate": (
            "target",
            {"kubectl_host": server, "kubectl_ca_cert": ca}
            | {"kubectl_cert_file": cert, "kubectl_key_file": key},
        ),
        "client-certificate": (
            "target",
            {"kubectl_host": server, "kubectl_ca_cert": ca}
            | {"kubectl_client_cert": cert, "kubectl_client_key": key},
        ),
        "unverified": ("target", token | {"kubectl_validate_certs": False}),
        "unverified-ssl": ("target", token | {"kubectl_verify_ssl": "no"}),
        "verified": ("target", token | {"kubectl_ca_cert": ca, "kubectl_validate_certs": True}),
        "extra-args": (
            "other",
            {"kubectl_extra_args": f"--kubeconfig '{spaced}' --namespace=other"},
        ),
        "local-env": ("target", {"kubectl_local_env_vars": {"KUBECONFIG": admin}}),
        "executable": ("target", config | {"kubectl_executable": env["GANGWAY_KUBECTL"]}),
    }
    hosts = {
        name: CONNECTION | {f"ansible_{key}": value for key, value in options.items()}
        for name, (_, options) in cases.items()
    }
    unknown = token | {"kubectl_validate_certs": True}
    hosts["not-verified"] = CONNECTION | {f"ansible_{k}": v for k, v in unknown.items()}
    word = """grüße, 'one'  "two" $HOME"""
    hosts["command"] = CONNECTION | {
        "ansible_kubectl_kubeconfig": admin,
        "ansible_kubectl_working_dir": "/usr/lib",
        "ansible_kubectl_extra_env": {"WORD": word},
        "ansible_user": "nobody-that-exists",  # of no meaning here
    }
    # Only the way to the program; and a HOME without a kubeconfig.
    program = {"GANGWAY_KUBECTL": env["GANGWAY_KUBECTL"]}
    answers = ask(ansible, tmp_path, hosts, raw(WHERE), env=program)
    for name, (place, _) in cases.items():
        assert seen(answers[name]) == places[place], name
    assert seen(answers["command"]) == [places["target"][0], "/usr/lib", word]
    assert_unreachable(
        answers["not-verified"], WRONG_SETTINGS.format(".*x509: .* signed by unknown authority")
    )


def test_environment(
    kubectl: Kubectl, ansible: Ansible, tmp_path: Path, places: dict[str, list[str]]
) -> None:
    """Every K8S_AUTH_ variable; those that exclude each other in several runs."""
    env = kubectl.env
    server, ca = env["GANGWAY_KUBE_SERVER"], env["GANGWAY_KUBE_CA"]
    token = env["GANGWAY_KUBE_TOKEN"]
    runs: list[tuple[str, dict[str, str]]] = [
        ("other", {"KUBECONFIG": env["KUBECONFIG"], "CONTEXT": "other"}),
        ("other", {"EXTRA_ARGS": f"--kubeconfig={env['KUBECONFIG']}", "NAMESPACE": "other"}),
        (
            "two",
            {"HOST": server, "TOKEN": token, "SSL_CA_CERT": ca, "POD": "pair", "CONTAINER": "two"},
        ),
        (
            "target",
            {
                "SERVER": server,
                "VERIFY_SSL": "false",
                "CERT_FILE": env["GANGWAY_KUBE_CLIENT_CERT"],
                "KEY_FILE": env["GANGWAY_KUBE_CLIENT_KEY"],
            },
        ),
        ("target", {"SERVER": server, "SSL_CA_CERT": ca, "API_KEY": token, "VERIFY_SSL": "yes"}),
    ]
    for place, settings in runs:
        program = {"ANSIBLE_KUBECTL_EXECUTABLE": env["GANGWAY_KUBECTL"]}
        options = {f"K8S_AUTH_{name}": value for name, value in settings.items()}
        answers = ask(ansible, tmp_path, {"a": CONNECTION}, raw(WHERE), env=program | options)
        assert seen(answers["a"]) == places[place], settings


def test_ini(
    kubectl: Kubectl, ansible: Ansible, tmp_path: Path, places: dict[str, list[str]]
) -> None:
    """What has a key of ansible.cfg, and KUBECONFIG."""
    settings = tmp_path / "ansible.cfg"
    settings.write_text(
        f"[kubectl_connection]\nexecutable = {kubectl.env['GANGWAY_KUBECTL']}\n"
        "working_dir = /usr/lib\ntimeout = 1\n"
    )
    env = {"ANSIBLE_CONFIG": str(settings), "KUBECONFIG": kubectl.env["KUBECONFIG"]}
    with socket.create_server(("127.0.0.1", 0)) as mute:
        hosts = {
            "patient": CONNECTION | {"ansible_kubectl_timeout": 60},
            "mute": CONNECTION
            | {"ansible_kubectl_host": f"https://127.0.0.1:{mute.getsockname()[1]}"},
        }
        answers = ask(ansible, tmp_path, hosts, raw(WHERE), env=env)
    assert seen(answers["patient"]) == [places["target"][0], "/usr/lib", ""]
    assert_unreachable(answers["mute"], 'pod "target": .* within 1 seconds and was ended')


# Credentials and surroundings.


def test_who_may_exec(kubectl: Kubectl, tmp_path: Path) -> None:
    """`create` on pods/exec is enough, as kubectl falls back to SPDY; options name the user."""
    env = kubectl.env
    for config in ("GANGWAY_KUBE_EXEC_CONFIG", "GANGWAY_KUBE_CREATE_ONLY_CONFIG"):
        assert_works(kubectl.session(kubeconfig=os.fsencode(env[config])), tmp_path, 5 << 20)
    # The token is somebody else's than the certificate of the kubeconfig, who may nothing.
    forbidden = os.fsencode(env["GANGWAY_KUBE_FORBIDDEN"])
    token = env["GANGWAY_KUBE_TOKEN"].encode()
    assert_works(kubectl.session(kubeconfig=forbidden, token=token), tmp_path, 1000)


def test_default_kubeconfig(kubectl: Kubectl, surroundings: Path) -> None:
    """KUBECONFIG with several files, and ~/.kube/config, also with a token in front of them."""
    env = kubectl.env
    home = surroundings / ".kube" / "config"
    home.parent.mkdir()
    home.symlink_to(env["GANGWAY_KUBE_FORBIDDEN"])
    token = env["GANGWAY_KUBE_TOKEN"].encode()
    assert kubectl.session(kubeconfig=None, token=token).exec_command(b"echo ok")[1] == b"ok\n"
    several = f"/no/such/file:{env['KUBECONFIG']}".encode()
    for options in ({}, {"token": token}):
        session = kubectl.session(kubeconfig=None, local_env={b"KUBECONFIG": several}, **options)
        assert session.exec_command(b"echo ok") == (0, b"ok\n", b"")


def test_a_proxy_of_the_environment(kubectl: Kubectl, tmp_path: Path) -> None:
    """HTTPS_PROXY in kubectl_local_env_vars. kubectl asks none for 127.0.0.1: so it has a name."""
    port = int(kubectl.env["GANGWAY_KUBE_SERVER"].rpartition(":")[2])
    proxy = Proxy(("127.0.0.1", port))
    with serving(proxy.server):
        session = kubectl.session(
            server=f"https://cluster.gangway.invalid:{port}".encode(),
            extra_args=b"--tls-server-name=localhost",
            local_env={b"HTTPS_PROXY": proxy.url.encode(), b"NO_PROXY": b""},
        )
        assert_works(session, tmp_path)
    assert set(proxy.asked_for) == {f"cluster.gangway.invalid:{port}"}
    assert len(proxy.asked_for) >= 4


def test_a_proxy_of_the_kubeconfig(kubectl: Kubectl, tmp_path: Path) -> None:
    """`proxy-url`, in a dictionary."""
    server = kubectl.env["GANGWAY_KUBE_SERVER"].removeprefix("https://")
    proxy = Proxy(("127.0.0.1", int(server.rpartition(":")[2])))
    config = json.loads(Path(kubectl.env["KUBECONFIG"]).read_text())
    config["clusters"][0]["cluster"]["proxy-url"] = proxy.url
    with serving(proxy.server):
        content = json.dumps(config).encode()
        session = kubectl.session(kubeconfig=None, kubeconfig_content=content)
        assert_works(session, tmp_path)
    assert set(proxy.asked_for) == {server}
    # kubectl blames the server when it does not reach the proxy.
    assert_refused(
        lambda: session.exec_command(b"true"),
        UNREACHABLE,
        'pod "target": '
        + NOT_REACHED.format(f"The connection to the server {server} was refused.*"),
    )


def test_environment_variables_arrive_unchanged(kubectl: Kubectl) -> None:
    """The shell in the pod sets them, also bytes that are no text."""
    session = kubectl.session(
        env=variables.ENV | {b"BYTES": b"\xff\xfe\n"}, working_dir=b"/usr/lib"
    )
    printed = session.exec_command(variables.PRINT + b' "$BYTES"')
    assert printed == (0, variables.PRINTED + b"\xff\xfe\n\0", b"")
