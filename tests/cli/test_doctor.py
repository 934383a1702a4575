"""`gangway doctor`: what it finds, what it advises, and how it ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ansible_gangway
from ansible_gangway import doctor, engines, link, probe

COLLECTION = link.plugin_directory().parent.parent
ENGINES = ("runc", "docker", "podman", "kubectl")


class Report(NamedTuple):
    """What the command printed with --json, and its exit status."""

    rc: int
    findings: dict[str, dict[str, Any]]


@pytest.fixture
def examine(tmp_path: Path) -> Callable[..., Report]:
    """Run `gangway doctor --json` where there are no engines, with a HOME of its own."""

    def run(**environment: str) -> Report:
        done = subprocess.run(
            [
                *(
                    sys.executable,
                    "-c",
                    "from ansible_gangway import cli; raise SystemExit(cli.main())",
                ),
                *("doctor", "--json", "--playbook-dir", str(tmp_path)),
            ],
            env={
                "PATH": str(tmp_path / "no programs"),
                "HOME": str(tmp_path),
                "PYTHONPATH": str(Path(ansible_gangway.__file__).parent.parent),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stderr == ""
        findings = json.loads(done.stdout)
        return Report(done.returncode, {found["subject"]: found for found in findings})

    return run


@pytest.mark.plays
def test_missing_engines_are_no_error(examine: Callable[..., Report]) -> None:
    report = examine()
    assert report.rc == 0
    states = {subject: found["state"] for subject, found in report.findings.items()}
    assert states == {
        "ansible-gangway": "ok",
        "ansible-core": "ok",
        "gangway.exec": "ok",
        **{subject: "absent" for engine in ENGINES for subject in (engine, f"'{engine}'")},
    }
    for engine in ENGINES:
        assert f"no {engine} in PATH" in report.findings[engine]["text"]
        assert f"ansible_{engine}_executable" in report.findings[engine]["advice"]
    assert sys.executable in report.findings["ansible-core"]["text"]
    assert str(COLLECTION) in report.findings["gangway.exec"]["text"]


@pytest.mark.plays
def test_a_collection_of_another_version_is_an_error(
    examine: Callable[..., Report], tmp_path: Path
) -> None:
    # Next to the playbooks, where Ansible looks first of all.
    front = tmp_path / "collections/ansible_collections/gangway/exec"
    shutil.copytree(COLLECTION, front)
    galaxy = front / "galaxy.yml"
    galaxy.write_text(galaxy.read_text().replace("0.1.0", "0.0.9"))
    report = examine()
    assert report.rc == 1
    found = report.findings["gangway.exec"]
    assert found["state"] == "broken"
    assert found["text"].startswith(f"0.0.9 in {front} is in front of")
    assert "ansible-gangway==0.0.9" in found["advice"]


@pytest.mark.plays
def test_a_collection_that_is_not_found_is_an_error(examine: Callable[..., Report]) -> None:
    report = examine(ANSIBLE_COLLECTIONS_SCAN_SYS_PATH="0")
    assert report.rc == 1
    assert report.findings["gangway.exec"]["state"] == "broken"
    assert "COLLECTIONS_SCAN_SYS_PATH" in report.findings["gangway.exec"]["advice"]


@pytest.mark.plays
def test_short_names(examine: Callable[..., Report], tmp_path: Path) -> None:
    user, playbooks = tmp_path / ".ansible/plugins/connection", tmp_path / "connection_plugins"
    link.link(user)
    playbooks.mkdir()
    (playbooks / "docker.py").write_text("class Connection: pass\n")
    (user / "kubectl.py").unlink()
    old = "/old/ansible_collections/gangway/exec/plugins/connection/kubectl.py"
    (user / "kubectl.py").symlink_to(old)
    report = examine()
    assert report.rc == 0
    runc, docker, kubectl = (report.findings[f"'{name}'"] for name in ("runc", "docker", "kubectl"))
    assert (runc["state"], runc["advice"]) == ("ok", None)
    assert str(user / "runc.py") in runc["text"]
    assert docker["state"] == "absent"
    assert f"means {playbooks / 'docker.py'}" in docker["text"]
    assert kubectl["state"] == "problem"
    assert old in kubectl["text"]
    assert "gangway unlink" in kubectl["advice"]
    hidden = examine(ANSIBLE_CONNECTION_PLUGINS="/opt/plugins").findings["'runc'"]
    assert hidden["state"] == "problem"
    assert "where Ansible does not look" in hidden["text"]


def test_an_ansible_that_cannot_import_the_package() -> None:
    view = {
        "ansible": "2.21.5",
        "python": "3.13.0",
        "executable": "/usr/bin/python3",
        "package": None,
        "import_error": "No module named 'ansible_gangway'",
        "collection": None,
    }
    found = doctor.ansible(view)[0]
    assert found.state == "broken"
    assert found.advice == "Run '/usr/bin/python3 -m pip install ansible-gangway'."


@pytest.mark.parametrize(
    ("name", "text", "version"),
    [
        ("galaxy.yml", "name: exec\nversion: 1.2.3\n", "1.2.3"),
        ("galaxy.yml", 'version: "1.2.3"  # released\n', "1.2.3"),
        ("MANIFEST.json", '{"collection_info": {\n "version": "1.2.3",\n "x": 1}}', "1.2.3"),
        ("README.md", "version: 1.2.3", "of unknown version"),
    ],
)
def test_collection_version(name: str, text: str, version: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert doctor.collection_version(tmp_path) == version


def test_rendering() -> None:
    assert doctor.render(probe.Finding("runc", "ok", "fine")) == "ok  runc             fine"
    assert doctor.render(probe.Finding("docker", "problem", "down", "Start it.")).splitlines() == [
        "!!  docker           down",
        "                     -> Start it.",
    ]


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a program in the place of an engine's client, to see how a bad one is dealt with."""

    def write(engine: str, script: str) -> None:
        path = tmp_path / engine
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv(f"ANSIBLE_{engine.upper()}_EXECUTABLE", str(path))

    return write


@pytest.mark.parametrize("engine", ENGINES)
def test_a_client_that_hangs_is_ended(
    engine: str,
    client: Callable[[str, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # With a child that keeps its output open, as a client may have.
    client(engine, f"sleep 77 & echo $! >> {tmp_path}/children; wait")
    monkeypatch.setattr(probe.run, "__defaults__", (0.3, None))
    start = time.monotonic()
    found = engines.PROBES[engine]()
    assert time.monotonic() - start < 10
    assert found.state == "problem"
    assert "no answer within 0.3 seconds" in found.text
    children = (tmp_path / "children").read_text().split()
    assert children
    while any(map(running, children)):  # a killed process needs a moment to go
        assert time.monotonic() - start < 10
        time.sleep(0.01)


def running(pid: str) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("script", ["exit 3", "echo nonsense", "echo '[]'", "echo null", ":"])
def test_a_client_that_talks_nonsense(
    engine: str, script: str, client: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    client(engine, script)
    monkeypatch.setenv("ANSIBLE_RUNC_ROOT", "/")
    found = engines.PROBES[engine]()
    assert found.subject == engine
    assert found.state in ("ok", "problem")


def test_an_executable_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_DOCKER_EXECUTABLE", "/opt/docker")
    assert engines.docker().text == "no program /opt/docker"


def test_secrets_are_hidden(
    client: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://bob:s3cret@docker:2376")
    client("docker", 'echo "cannot connect to $DOCKER_HOST" >&2; exit 1')
    found = engines.docker()
    assert "s3cret" not in repr(found)
    assert "tcp://bob:***@docker:2376" in found.text
    monkeypatch.setenv("CONTAINER_HOST", "ssh://bob:s3cret@podman/run/podman.sock")
    client("podman", 'echo "cannot connect to $CONTAINER_HOST" >&2; exit 125')
    found = engines.podman()
    assert "s3cret" not in repr(found)
    assert "cannot connect to ssh://bob:***@podman/run/podman.sock" in found.text
    monkeypatch.setenv("K8S_AUTH_TOKEN", "s3cret")
    monkeypatch.setenv("K8S_AUTH_CONTEXT", "prod")
    client("kubectl", f'echo "$@" >> {tmp_path}/arguments; echo no; exit 1')
    found = engines.kubectl()
    assert "s3cret" not in repr(found)
    assert "asked without K8S_AUTH_TOKEN" in found.text
    arguments = (tmp_path / "arguments").read_text()
    assert "--context=prod" in arguments
    assert "s3cret" not in arguments
