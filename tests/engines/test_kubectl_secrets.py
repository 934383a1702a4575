"""kubectl: credentials reach the server, and nothing else on the way."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import command_lines
from support.ansible import Ansible
from support.ask import ask, raw
from support.certificates import self_signed
from support.sentences import (
    REFUSED_ACCESS,
    UNREACHABLE,
    assert_refused,
    assert_unreachable,
)
from support.servers import ApiServer, serving
from support.targets import Kubectl

# What needs quoting in JSON, in YAML and in a shell.
PASSWORD = """s3cret: "quoted" 'too' {x} # $HOME grüße"""


def basic(user: str, password: str) -> str:
    """Return the header of basic authentication."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """Return the certificates of a server of this test's own."""
    return self_signed(tmp_path / "server")


@pytest.fixture
def server(certificates: Path) -> Iterator[ApiServer]:
    """Return a server that knows everybody and lets nobody in (403)."""
    server = ApiServer(certificates, 403)
    with serving(server.server):
        yield server


def test_user_and_password(
    kubectl: Kubectl, ansible: Ansible, tmp_path: Path, certificates: Path, server: ApiServer
) -> None:
    """Real API servers dropped basic authentication, so the header is what can be proven."""
    variables = {
        "ansible_connection": "gangway.exec.kubectl",
        "ansible_kubectl_host": server.url,
        "ansible_kubectl_ca_cert": str(certificates / "ca.pem"),
        "ansible_kubectl_pod": "web",
        "ansible_kubectl_namespace": "shop",
    }
    named = {"ansible_kubectl_username": "ann", "ansible_kubectl_password": PASSWORD}
    hosts = {
        "variables": variables | named,
        "alias": variables | {"ansible_kubectl_user": "bob"},
        "environment": variables,
    }
    env = {
        "ANSIBLE_KUBECTL_EXECUTABLE": kubectl.env["GANGWAY_KUBECTL"],
        "K8S_AUTH_USERNAME": "eve",
        "K8S_AUTH_PASSWORD": "s3cret-too",
    }
    answers = ask(ansible, tmp_path, hosts, raw("true"), "-vvvv", env=env)
    reason = r"Error from server \(Forbidden\): pods \"web\" is forbidden: not for you"
    for answer in answers.values():
        assert_unreachable(
            answer, f'pod "web" in namespace "shop": {REFUSED_ACCESS.format(reason)}'
        )
    log = (tmp_path / "log").read_text()
    assert "ESTABLISH KUBECTL CONNECTION" in log
    assert log.count("s3cret") == 0
    expected = {basic("ann", PASSWORD), basic("bob", "s3cret-too"), basic("eve", "s3cret-too")}
    assert set(server.authorizations) == expected


def test_a_token_that_nobody_knows(kubectl: Kubectl, certificates: Path) -> None:
    """It arrives as it is; the server's 401 is no command's failure."""
    server = ApiServer(certificates, 401)
    with serving(server.server):
        session = kubectl.session(
            kubeconfig=None,
            server=server.url.encode(),
            ca_cert=bytes(certificates / "ca.pem"),
            token=PASSWORD.encode("ascii", "ignore"),
        )
        assert_refused(
            lambda: session.exec_command(b"true"),
            UNREACHABLE,
            'pod "target": '
            + REFUSED_ACCESS.format(r"error: You must be logged in to the server \(.*\)"),
        )
    assert set(server.authorizations) == {f"Bearer {PASSWORD.encode('ascii', 'ignore').decode()}"}


def test_secrets_are_on_no_command_line_and_no_disk(
    kubectl: Kubectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, surroundings: Path
) -> None:
    """Tokens, passwords and a kubeconfig given as a dictionary are in memory only."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    token = kubectl.env["GANGWAY_KUBE_TOKEN"]
    config = json.loads(Path(kubectl.env["KUBECONFIG"]).read_text())
    user = config["users"][0]["user"]
    user["password"] = "passw0rd-not-used"
    marker = f"gangway-marker-{os.getpid()}"
    session = kubectl.session(
        kubeconfig=None,
        kubeconfig_content=json.dumps(config).encode(),
        token=token.encode(),
        env={b"SECRET": b"s3cret-value"},
    )
    secrets = [token, "passw0rd-not-used", "s3cret-value", user["client-key-data"]]
    files = b""
    with command_lines.watched() as lines, ThreadPoolExecutor(1) as pool:
        call = pool.submit(session.exec_command, f"echo $SECRET; sleep 1; : {marker}".encode())
        while not call.done():
            files += contents(tmp_path, surroundings)
            time.sleep(0.05)
    assert call.result() == (0, b"s3cret-value\n", b"")
    files += contents(tmp_path, surroundings)
    assert lines.having(marker)  # it did look at the right processes
    for secret in secrets:
        assert lines.having(secret) == []
        assert secret.encode() not in files


def contents(*directories: Path) -> bytes:
    """Return everything that lies in files below the directories."""
    found = b""
    for directory in directories:
        for path in directory.rglob("*"):
            with contextlib.suppress(OSError):
                found += path.read_bytes()
    return found
