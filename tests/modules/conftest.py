"""Two containers made alike, for every test of modules."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from modules import twins as making
from modules.twins import Twins
from support.ansible import IS_NEWEST, Ansible
from support.targets import Docker, Runc

# The collections beside the peers are made for the newest ansible-core.
collect_ignore = [] if IS_NEWEST else ["test_collections.py"]


@pytest.fixture(scope="session")
def pair(
    bed_runc: dict[str, str], ansible: Ansible, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Twins]:
    """Return two containers of runc, one on the plain path and one on the agent's."""
    directory = tmp_path_factory.mktemp("pair")
    name = f"gangway-modules-{os.getpid()}"
    target = Runc(bed_runc)
    with making.twins(target, ansible, directory, name, "modules", making.AGENT) as made:
        yield made


@pytest.fixture(scope="session")
def docker_pair(
    bed_docker: dict[str, str], ansible: Ansible, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Twins]:
    """Return two containers of Docker, from the smaller root file system."""
    directory = tmp_path_factory.mktemp("docker-pair")
    name = f"gangway-modules-{os.getpid()}"
    target = Docker(bed_docker)
    with making.twins(target, ansible, directory, name, "base", making.AGENT) as made:
        yield made


@pytest.fixture(scope="session")
def names(pair: Twins, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the variables that cases name."""
    key = pair.target.run(pair.containers["one"], "cat /srv/start/key.asc")
    return making.write_files(tmp_path_factory.mktemp("files"), key)
