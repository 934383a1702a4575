"""Load a plugin as a task does, in this process."""

from __future__ import annotations

import os
from typing import Any

import yaml
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader, fragment_loader, init_plugin_loader
from ansible.utils.plugin_docs import add_fragments

ENGINES = ("runc", "docker", "podman", "kubectl")

init_plugin_loader()


def connection(engine: str, keys: dict[str, Any] | None = None, **variables: Any) -> Any:
    """Load a plugin, with variables of the host `box` and keywords of the task."""
    context = PlayContext()
    context.remote_addr = "box"
    plugin = connection_loader.get(f"gangway.exec.{engine}", context, os.devnull)
    set_options(plugin, keys, **variables)
    return plugin


def set_options(plugin: Any, keys: dict[str, Any] | None = None, **variables: Any) -> None:
    """Set options as core does before each task and each item of a loop."""
    plugin.set_options(
        task_keys={"timeout": 10, "remote_user": None, "environment": [], **(keys or {})},
        var_options={"inventory_hostname": "box", "ansible_host": "box", **variables},
    )


def documented_options(documentation: str) -> dict[str, Any]:
    """Return the options that a DOCUMENTATION stands for, with those of its fragments."""
    parsed = yaml.safe_load(documentation)
    add_fragments(parsed, "/plugin.py", fragment_loader)
    options: dict[str, Any] = parsed["options"]
    return options
