"""`pip install` of the wheel is all it takes, beside ansible-core or the whole `ansible`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.ansible import Ansible
from support.skip import cannot_run

PLUGINS = ["runc", "docker", "podman", "kubectl"]
# What is installed first: the Python for it.
INSTALLED = {
    "ansible-core~=2.21.0": "3.13",
    "ansible-core~=2.16.0": "3.11",
    "ansible": "3.13",
}


@pytest.fixture(scope="module", params=INSTALLED)
def installed(
    request: pytest.FixtureRequest,
    wheel: Path,
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Ansible:
    """Return an Ansible in a virtual environment with nothing else but the wheel."""
    version = INSTALLED[request.param]
    find = subprocess.run(
        [repository / "scripts" / "find-python", version], capture_output=True, text=True
    )
    if find.returncode != 0:
        cannot_run(f"there is no Python {version} for {request.param}")
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([find.stdout.strip(), "-m", "venv", venv], check=True, timeout=120)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, request.param], check=True, timeout=900)
    subprocess.run([*pip, wheel], check=True, timeout=120)
    return Ansible(home=tmp_path_factory.mktemp("home"), bin_dir=venv / "bin")


@pytest.mark.parametrize("plugin", PLUGINS)
def test_ansible_doc_renders_options_and_examples(installed: Ansible, plugin: str) -> None:
    done = installed.run("ansible-doc", "-t", "connection", f"gangway.exec.{plugin}")
    assert done.rc == 0, done
    options, _, examples = done.stdout.partition("EXAMPLES:")
    assert "remote_addr" in options, done
    assert f"gangway.exec.{plugin}" in examples, done
    assert "WARNING" not in done.stderr, done


def test_ansible_galaxy_lists_the_collection(installed: Ansible) -> None:
    done = installed.run("ansible-galaxy", "collection", "list", "gangway.exec")
    assert done.rc == 0, done
    assert "gangway.exec 0.1.0" in [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "gangway" not in done.stderr, done


def test_command_line_is_installed(installed: Ansible) -> None:
    done = installed.run("gangway", "--version")
    assert done.rc == 0, done
    assert "0.1.0" in done.stdout, done


def test_raw_works_without_configuration(installed: Ansible, bed_runc: dict[str, str]) -> None:
    env = {"ANSIBLE_RUNC_ROOT": bed_runc["GANGWAY_RUNC_ROOT"]}
    target = bed_runc["GANGWAY_RUNC_TARGET"]
    done = installed.adhoc(target, "gangway.exec.runc", "raw", "echo in $((6 * 7))", env=env)
    assert done.rc == 0, done
    assert "in 42" in done.stdout, done
