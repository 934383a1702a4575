"""One version everywhere, and a clear sentence where Ansible meets two."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleError

import ansible_gangway
from ansible_gangway import _core, link
from plugins.conftest import RecordingSession
from plugins.loading import ENGINES, connection

pytestmark = pytest.mark.plays
COLLECTION = link.plugin_directory().parent.parent


def test_one_version_everywhere(repository: Path) -> None:
    versions = {
        "_core": _core.__version__,
        "ansible_gangway": ansible_gangway.__version__,
        "galaxy.yml": yaml.safe_load((COLLECTION / "galaxy.yml").read_text())["version"],
        **{engine: connection(engine).collection_version for engine in ENGINES},
    }
    for name in ("Cargo.toml", "pyproject.toml"):
        match = re.search(r'^version = "(.*)"$', (repository / name).read_text(), re.MULTILINE)
        versions[name] = match and match.group(1)
    requirements = (COLLECTION / "meta" / "ee-requirements.txt").read_text()
    versions["ee-requirements.txt"] = requirements.split("ansible-gangway==")[1].strip()
    assert versions == dict.fromkeys(versions, "0.1.0")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_plugin_file_of_another_version_is_refused(
    engine: str, sessions: list[RecordingSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = connection(engine)
    monkeypatch.setattr(type(plugin), "collection_version", "0.0.9")
    with pytest.raises(AnsibleError) as caught:
        plugin.exec_command("true")
    message = str(caught.value)
    for part in ("0.0.9", _core.__version__, str(COLLECTION), "ansible-gangway==0.0.9"):
        assert part in message
    assert not sessions


def play(home: Path, connection_name: str, **environment: str) -> str:
    """Run `ansible` on a host that is never reached, with a HOME of its own; return its text."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from ansible.cli.adhoc import main; main()"),
            *("box", "-i", "box,", "-c", connection_name, "-m", "raw", "-a", "id"),
        ],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8", **environment},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2, said
    assert "FAILED" in said
    return said


@pytest.mark.parametrize("engine", ENGINES)
def test_a_collection_in_front_of_the_wheels_is_named(engine: str, tmp_path: Path) -> None:
    front = tmp_path / ".ansible/collections/ansible_collections/gangway/exec"
    shutil.copytree(COLLECTION, front)
    plugin = front / f"plugins/connection/{engine}.py"
    plugin.write_text(plugin.read_text().replace('version = "0.1.0"', 'version = "0.0.9"'))
    package = str(Path(ansible_gangway.__file__).parent.parent)
    said = play(tmp_path, f"gangway.exec.{engine}", PYTHONPATH=package)
    assert f"version 0.0.9 of the collection gangway.exec, in {front}, is in front of" in said


@pytest.mark.parametrize("engine", ENGINES)
def test_without_the_package_a_linked_plugin_says_what_to_do(engine: str, tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    link.link(plugins)
    # Stands for an Ansible beside which ansible-gangway was never installed.
    package = tmp_path / "path" / "ansible_gangway"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not here')\n")
    said = play(
        tmp_path,
        engine,
        PYTHONPATH=str(package.parent),
        ANSIBLE_CONNECTION_PLUGINS=str(plugins),
    )
    assert f"the connection plugin {plugins / engine}.py needs ansible-gangway" in said
    assert f"'{sys.executable} -m pip install ansible-gangway'" in said
    assert ": not here" in said
    assert "not here: not here" not in said
