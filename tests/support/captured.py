"""What ansible-core sends to an interpreter for a module: captured from a play."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PLUGIN = '''
import os
from ansible.plugins.connection.local import Connection as Local

DOCUMENTATION = """
name: capturing
short_description: keeps what is sent to interpreters, and runs none
description: For tests.
author: The gangway authors
version_added: "0"
options:
  pipelining:
    default: true
    description: On.
    type: bool
"""


class Connection(Local):
    transport = "capturing"
    has_pipelining = True

    def exec_command(self, cmd, in_data=None, sudoable=True):
        if in_data:
            directory = os.environ["CAPTURED"]
            with open("%s/%03d" % (directory, len(os.listdir(directory))), "wb") as file:
                file.write(in_data)
            return 0, b'{"changed": false}', b""
        return super().exec_command(cmd, in_data, sudoable)
'''


def capture(directory: Path, tasks: list[dict[str, Any]], **environment: str) -> list[bytes]:
    """Run tasks with the ansible-core that is installed here; return the texts of their modules."""
    (directory / "plugins").mkdir(parents=True)
    (directory / "captured").mkdir()
    (directory / "plugins" / "capturing.py").write_text(PLUGIN)
    play = [{"hosts": "all", "gather_facts": False, "tasks": tasks}]
    (directory / "play.json").write_text(json.dumps(play))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "PYTHON"))}
    done = subprocess.run(
        [
            Path(sys.executable).parent / "ansible-playbook",
            "-i",
            "localhost,",
            "-c",
            "capturing",
            "-e",
            f"ansible_python_interpreter={sys.executable}",
            directory / "play.json",
        ],
        env={
            **kept,
            "CAPTURED": str(directory / "captured"),
            "ANSIBLE_CONNECTION_PLUGINS": str(directory / "plugins"),
            "ANSIBLE_HOME": str(directory / "home"),
            "ANSIBLE_PIPELINING": "1",
            **environment,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    texts = [file.read_bytes() for file in sorted((directory / "captured").iterdir())]
    assert len(texts) >= len(tasks), done.stdout + done.stderr
    return texts
