"""Inventories that tests write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Variables = Mapping[str, Any]
# What a module costs without it is a look for Python in each task.
PYTHON = {"ansible_python_interpreter": "/usr/bin/python3"}


def write(path: Path, **groups: Mapping[str, Variables]) -> Path:
    """Write groups of hosts, each with its variables, as JSON; every value keeps its type."""
    content = {
        group: {"hosts": {host: PYTHON | dict(variables) for host, variables in hosts.items()}}
        for group, hosts in groups.items()
    }
    path.write_text(json.dumps(content))
    return path
