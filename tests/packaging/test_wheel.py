"""What is in the wheel, and what is not."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import tomllib
from packaging.utils import parse_wheel_filename

COLLECTION = "ansible_collections/gangway/exec"
ENGINES = ("runc", "docker", "podman", "kubectl")


def test_tag_is_manylinux_2_28_for_every_python_from_3_10(wheel: Path) -> None:
    tags = {str(tag) for tag in parse_wheel_filename(wheel.name)[3]}
    assert tags == {"cp310-abi3-manylinux_2_28_x86_64"}


def test_version_is_the_projects(repository: Path, wheel: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert str(parse_wheel_filename(wheel.name)[1]) == project["version"]


@pytest.mark.parametrize(
    "name",
    [
        *(
            f"{COLLECTION}/plugins/connection/{engine}.py"
            for engine in ("runc", "docker", "podman", "kubectl")
        ),
        f"{COLLECTION}/galaxy.yml",
        f"{COLLECTION}/README.md",
        f"{COLLECTION}/meta/runtime.yml",
        f"{COLLECTION}/meta/execution-environment.yml",
        "ansible_gangway/_core.abi3.so",
        "ansible_gangway/_core.pyi",
        "ansible_gangway/py.typed",
        *(
            f"ansible_gangway/options/{engine}.json"
            for engine in ("runc", "docker", "podman", "kubectl")
        ),
    ],
)
def test_holds(wheel: Path, name: str) -> None:
    assert name in zipfile.ZipFile(wheel).namelist()


def test_holds_nothing_beside_the_packages(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    packages = {"ansible_collections", "ansible_gangway"}
    assert {top for top in tops if not top.endswith(".dist-info")} == packages
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "__pycache__" in name]


def test_names_no_directory_of_the_machine_that_built_it(wheel: Path, repository: Path) -> None:
    cargo = os.environ.get("CARGO_HOME", str(Path.home() / ".cargo"))
    rustup = os.environ.get("RUSTUP_HOME", str(Path.home() / ".rustup"))
    archive = zipfile.ZipFile(wheel)
    for directory in (str(repository), cargo, rustup):
        named = [name for name in archive.namelist() if directory.encode() in archive.read(name)]
        assert not named, f"{directory} is named"
