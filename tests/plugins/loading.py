"""Load a plugin as a task does, in this process."""

from __future__ import annotations

import os
from typing import Any

from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader, init_plugin_loader

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
