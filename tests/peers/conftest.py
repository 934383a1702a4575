"""Each known defect of another connection plugin, shown on that plugin and absent in ours.

A test's name has the defect's number. Both plugins enter the same container in the same test: that
the peer fails there proves that the test can fail. A table of what both did is printed at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peers import installed
from peers.buildah import Buildah
from peers.side_by_side import NAME, Pair, SideBySide, Verdict
from support.ansible import Ansible
from support.targets import Docker, Kubectl, Podman, Target

OF_A_DEFECT = re.compile(r"tests/peers/.*::test_(d\d\d)_(\w+)")


@pytest.fixture
def verdict(request: pytest.FixtureRequest) -> Verdict:
    """Return what adds a row to the table: the peers, what they did, what ours did."""

    def add(*row: str) -> None:
        request.node.user_properties.append(("verdict", row))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table; of a test that did not pass, only that."""
    rows = set()
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            found = OF_A_DEFECT.search(report.nodeid)
            if found and (outcome != "passed" or report.when == "call"):
                unknown = (outcome.upper(), "", "")
                row = dict(report.user_properties).get("verdict", unknown)
                rows.add((found[1].upper(), found[2].replace("_", " "), *row))
    if rows:
        terminalreporter.section("defects of other plugins, and ours in their place")
    for number, title, plugins, theirs, ours in sorted(rows):
        terminalreporter.line(f"{number} {title}")
        terminalreporter.line(f"    {plugins}: {theirs}" if theirs else f"    {plugins}")
        if ours:
            terminalreporter.line(f"    gangway: {ours}")


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
    """Return a working container of Buildah, for containers.podman.buildah alone.

    Ours has no such engine: it is compared on Podman, the nearest.
    """
    Buildah.install()
    # Its containers and Podman's are in one storage, where a name is taken once.
    with pair(Buildah(bed_podman), "containers.podman.buildah", f"{NAME}-buildah") as made:
        yield made
