"""Each known defect of another connection plugin, shown on that plugin and absent in ours.

The peer runs first or at the same time, on the same engine: its failure proves that the test can
fail. At the end stands a table of what both did.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peers import installed
from peers.engines import Buildah, Podman
from peers.side_by_side import Pair, SideBySide
from support.ansible import Ansible
from support.targets import Docker, Kubectl, Target

Verdict = Callable[[str, str, str], None]
NAME = f"gangway-peers-{os.getpid()}"


@pytest.fixture
def verdict(request: pytest.FixtureRequest) -> Verdict:
    """Return what adds a row to the table: the peers, what they did, what ours did."""

    def add(*row: str) -> None:
        request.node.user_properties.append(("verdict", row))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    rows = []
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            found = re.search(r"tests/peers/.*::test_(d\d\d)_(\w+)", report.nodeid)
            if found and (outcome != "passed" or report.when == "call"):
                verdict = dict(report.user_properties).get("verdict", (outcome.upper(), "", ""))
                rows.append((found[1].upper(), found[2].replace("_", " "), *verdict))
    if rows:
        terminalreporter.section("defects of other plugins, and ours in their place")
    for number, title, plugins, theirs, ours in sorted(rows):
        terminalreporter.line(f"{number} {title}")
        terminalreporter.line(f"    {plugins}: {theirs}" if theirs else f"    {plugins}")
        if ours:
            terminalreporter.line(f"    ours: {ours}")


@pytest.fixture(scope="session")
def peers(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> SideBySide:
    """Return what runs plays through the peers and ours."""
    venv = installed.environment(repository)
    ansible = Ansible(home=tmp_path_factory.mktemp("home"), bin_dir=venv / "bin")
    ours = installed.link_ours(tmp_path_factory.mktemp("ours"))
    return SideBySide(ansible, ours, tmp_path_factory.mktemp("plays"))


@contextmanager
def pair(target: Target, peer: str, name: str = NAME) -> Iterator[Pair]:
    """Make a container that only these tests use."""
    with target.container(name):
        yield Pair(target, name, peer)


@pytest.fixture(scope="session")
def docker(bed_docker: dict[str, str]) -> Iterator[Pair]:
    """Return a container of Docker, for community.docker.docker and ours."""
    with pair(Docker(bed_docker), "community.docker.docker") as made:
        yield made


@pytest.fixture(scope="session")
def docker_api(docker: Pair) -> Pair:
    """Return the same container, for community.docker.docker_api and ours."""
    return Pair(docker.target, docker.container, "community.docker.docker_api")


@pytest.fixture(scope="session")
def kubectl(bed_kubernetes: dict[str, str]) -> Iterator[Pair]:
    """Return a pod, for kubernetes.core.kubectl and ours."""
    with pair(Kubectl(bed_kubernetes), "kubernetes.core.kubectl") as made:
        yield made


@pytest.fixture(scope="session")
def podman(bed_podman: dict[str, str]) -> Iterator[Pair]:
    """Return a container of Podman, for containers.podman.podman and ours."""
    with pair(Podman(bed_podman), "containers.podman.podman") as made:
        yield made


@pytest.fixture(scope="session")
def buildah(bed_podman: dict[str, str]) -> Iterator[Pair]:
    """Return a working container of Buildah, for containers.podman.buildah; ours has no such."""
    Buildah.install()
    # Its containers and Podman's are in one storage, so a name is taken once.
    name = f"{NAME}-buildah"
    with pair(Buildah(bed_podman), "containers.podman.buildah", name) as made:
        yield made
