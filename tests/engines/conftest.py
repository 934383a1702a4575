"""The engines' containers, entered from surroundings without settings of the developer's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support import targets

# What leads an engine's client elsewhere, or through a proxy.
SETTINGS = ("ANSIBLE_", "CONTAINER", "DOCKER_", "K8S_AUTH_", "KUBECONFIG", "XDG_")
BROKERS = ("XDG_RUNTIME_DIR", "XDG_STATE_HOME")  # of this run


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give every test an environment without an engine's settings; return its HOME, empty."""
    # The beds keep their cache in the real one.
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    monkeypatch.setenv("GANGWAY_CACHE", os.environ.get("GANGWAY_CACHE") or f"{cache}/gangway")
    for name in list(os.environ):
        if name in BROKERS:
            continue
        if name.startswith(SETTINGS) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture(scope="session")
def runc(bed_runc: dict[str, str]) -> targets.Runc:
    """Return runc's containers."""
    return targets.Runc(bed_runc)


@pytest.fixture(scope="session")
def docker(bed_docker: dict[str, str]) -> targets.Docker:
    """Return Docker's containers."""
    return targets.Docker(bed_docker)


@pytest.fixture(scope="session")
def podman(bed_podman: dict[str, str]) -> targets.Podman:
    """Return Podman's containers."""
    return targets.Podman(bed_podman)


@pytest.fixture(scope="session")
def kubectl(bed_kubernetes: dict[str, str]) -> targets.Kubectl:
    """Return the pods of Kubernetes."""
    return targets.Kubectl(bed_kubernetes)
