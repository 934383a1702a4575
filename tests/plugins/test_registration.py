"""Ansible has a plugin's options without parsing its documentation, and they are the same."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible import constants

import ansible_gangway
from ansible_gangway import connection as base
from ansible_gangway import link
from plugins.loading import ENGINES, connection, documented_options
from support.ansible import Ansible

pytestmark = pytest.mark.plays
COLLECTION = link.plugin_directory().parent.parent
PARSED = "Loaded config def from plugin (connection/"


@pytest.fixture
def definitions(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what Ansible knows of connection plugins, empty; after the test it is as before."""
    monkeypatch.setitem(constants.config._plugins, "connection", {})
    return constants.config._plugins["connection"]


def module(engine: str) -> Any:
    """Return a plugin file as Ansible has loaded it."""
    return sys.modules[type(connection(engine)).__module__]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_registered_options_are_those_of_the_documentation(
    engine: str, definitions: dict[str, Any]
) -> None:
    plugin = module(engine)
    definitions.clear()
    base.register_options(plugin, engine)
    assert definitions == {plugin.__name__: documented_options(plugin.DOCUMENTATION)}


def test_a_short_name_is_registered_as_ansible_looks_it_up(definitions: dict[str, Any]) -> None:
    documentation = module("docker").DOCUMENTATION
    definitions.clear()
    plugin = SimpleNamespace(
        __name__="ansible.plugins.connection.docker", DOCUMENTATION=documentation
    )
    base.register_options(plugin, "docker")
    assert list(definitions) == ["docker"]


def changed(plugin: Any) -> Any:
    """Return the plugin as another version of it would be."""
    text = plugin.DOCUMENTATION.replace("timeout", "patience")
    return SimpleNamespace(__name__=plugin.__name__, DOCUMENTATION=text)


@pytest.mark.parametrize(
    "other",
    [
        changed,
        lambda plugin: SimpleNamespace(__name__=plugin.__name__),
        lambda plugin: SimpleNamespace(__name__="mine.docker", DOCUMENTATION=plugin.DOCUMENTATION),
    ],
    ids=["another text", "no text", "another place"],
)
def test_what_is_not_this_text_is_left_to_ansible(other: Any, definitions: dict[str, Any]) -> None:
    plugin = other(module("docker"))
    definitions.clear()
    base.register_options(plugin, "docker")
    assert not definitions


@pytest.mark.parametrize("lost", [None, object(), SimpleNamespace(has_configuration_definition=1)])
def test_an_ansible_that_keeps_options_differently_reads_them_itself(
    lost: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = module("docker")
    monkeypatch.setattr(constants, "config", lost)
    base.register_options(plugin, "docker")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the package and its collection."""
    place = tmp_path / "copy"
    shutil.copytree(Path(ansible_gangway.__file__).parent, place / "ansible_gangway")
    shutil.copytree(COLLECTION, place / "ansible_collections/gangway/exec")
    return place


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("short", [False, True], ids=["full name", "short name"])
def test_ansible_parses_the_documentation_only_where_it_must(
    engine: str, short: bool, copy: Path, tmp_path: Path
) -> None:
    ansible = Ansible(tmp_path)
    env = {"PYTHONPATH": str(copy), "ANSIBLE_DEBUG": "1"}
    name = f"gangway.exec.{engine}"
    if short:
        name = engine
        env["ANSIBLE_CONNECTION_PLUGINS"] = str(
            copy / "ansible_collections/gangway/exec/plugins/connection"
        )
    # No container is reached: the executable is not there.
    arguments = ["box", "-i", "box,", "-c", name, "-m", "raw", "-a", "id"]
    arguments += ["-e", f"ansible_{engine}_executable={os.devnull}/none"]
    said = str(ansible.run("ansible", *arguments, env=env))
    assert f"{os.devnull}/none" in said, "the plugin did not get its option"
    assert PARSED not in said
    shutil.rmtree(copy / "ansible_gangway/options")
    said = str(ansible.run("ansible", *arguments, env=env))
    assert f"{os.devnull}/none" in said
    assert PARSED in said


@pytest.mark.parametrize("command", ["list", "dump"])
def test_ansible_config_says_the_same(command: str, copy: Path, tmp_path: Path) -> None:
    ansible = Ansible(tmp_path)

    def said() -> str:
        names = [f"gangway.exec.{engine}" for engine in ENGINES]
        done = ansible.run(
            "ansible-config", command, "-t", "connection", *names, env={"PYTHONPATH": str(copy)}
        )
        assert done.rc == 0, done
        return done.stdout

    registered = said()
    assert "kubectl_pod" in registered
    shutil.rmtree(copy / "ansible_gangway/options")
    assert said() == registered
