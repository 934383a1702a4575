"""`gangway doctor` on real engines."""

from __future__ import annotations

import pytest

from ansible_gangway import engines


def use(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables of a bed."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)


def test_runc(bed_runc: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_RUNC_ROOT", bed_runc["GANGWAY_RUNC_ROOT"])
    found = engines.runc()
    assert found.state == "ok", found
    assert f"root {bed_runc['GANGWAY_RUNC_ROOT']}: " in found.text
    assert int(found.text.split(": ")[1].split(" running")[0].split(", ")[-1]) >= 3


def test_docker(bed_docker: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    use(bed_docker, monkeypatch)
    found = engines.docker()
    assert found.state == "ok", found
    assert "daemon " in found.text
    assert "unknown version" not in found.text


def test_docker_without_a_daemon(
    bed_docker: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use({**bed_docker, "DOCKER_HOST": "unix:///nowhere.sock"}, monkeypatch)
    found = engines.docker()
    assert found.state == "problem"
    assert "Cannot connect to the Docker daemon at unix:///nowhere.sock" in found.text
    assert found.advice


def test_podman(bed_podman: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_PODMAN_EXECUTABLE", bed_podman["GANGWAY_PODMAN"])
    found = engines.podman()
    assert found.state == "ok", found
    assert "unknown version" not in found.text
    assert int(found.text.split(" running")[0].split()[-1]) >= 2


def test_podman_without_its_service(
    bed_podman: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTAINER_HOST", "unix:///nowhere.sock")
    found = engines.podman()
    assert found.state == "problem"
    assert "CONTAINER_HOST unix:///nowhere.sock" in found.text
    assert found.advice


def test_kubectl(bed_kubernetes: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    use(bed_kubernetes, monkeypatch)
    monkeypatch.setenv("ANSIBLE_KUBECTL_EXECUTABLE", bed_kubernetes["GANGWAY_KUBECTL"])
    found = engines.kubectl()
    assert found.state == "ok", found
    assert "may create pods/exec" in found.text
    assert "server v" in found.text


def test_kubectl_without_the_right(
    bed_kubernetes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(bed_kubernetes, monkeypatch)
    monkeypatch.setenv("ANSIBLE_KUBECTL_EXECUTABLE", bed_kubernetes["GANGWAY_KUBECTL"])
    monkeypatch.setenv("K8S_AUTH_KUBECONFIG", bed_kubernetes["GANGWAY_KUBE_FORBIDDEN"])
    found = engines.kubectl()
    assert found.state == "problem"
    assert "may not create pods/exec in this namespace (no)" in found.text


def test_kubectl_without_a_server(
    bed_kubernetes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(bed_kubernetes, monkeypatch)
    monkeypatch.setenv("ANSIBLE_KUBECTL_EXECUTABLE", bed_kubernetes["GANGWAY_KUBECTL"])
    monkeypatch.setenv("K8S_AUTH_HOST", "https://127.0.0.1:1")
    found = engines.kubectl()
    assert found.state == "problem"
    assert "127.0.0.1:1 was refused" in found.text
