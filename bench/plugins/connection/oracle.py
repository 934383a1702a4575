# Copyright (c) 2026 The gangway authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A connection plugin that knows every answer at once: no connection plugin can be faster.

What remains is Ansible's own work. It enters no container and starts no process.
"""

from __future__ import annotations

DOCUMENTATION = """
name: oracle
short_description: Answers at once
description: The floor of any connection plugin, for the benchmark.
options:
  pipelining:
    type: bool
    default: true
    vars:
      - name: ansible_pipelining
"""

import os
import re

from ansible.plugins.connection import ConnectionBase

MODULE = re.compile(rb"^ansible_module='(?:[\w.]*\.)?(\w+)',?$", re.MULTILINE)
TEMPORARY = re.compile(r"echo (ansible-tmp-[\d.-]+)=\S* ?echo (\S+)")
CHANGED = b'{"changed": true, "rc": 0, "stdout": "", "stderr": "", "failed": false}'
ANSWERS = {
    b"ping": b'{"ping": "pong", "changed": false}',
    b"stat": b'{"changed": false, "stat": {"exists": false}}',
    b"command": b'{"changed": true, "rc": 0, "stdout": "", "stderr": "", "cmd": ["true"]}',
}


class Connection(ConnectionBase):
    """Answers what the module's or the shell command's answer would be, or near enough."""

    transport = "oracle"
    has_pipelining = True

    def _connect(self):
        self._connected = True
        return self

    def exec_command(self, cmd, in_data=None, sudoable=True):
        """Return an exit status, stdout and stderr."""
        if in_data is None:
            found = TEMPORARY.search(cmd)
            if found:
                path = found[2].replace("~", "/root", 1)
                return 0, f"{found[1]}={path}\n".encode(), b""
            return 0, b"/root\n" if "echo ~" in cmd else b"", b""
        found = MODULE.search(in_data)
        name = found[1] if found else b""
        if name == b"setup":
            # As large as a real answer: this machine's facts.
            with open(os.environ["BENCH_FACTS"], "rb") as file:
                return 0, file.read(), b""
        return 0, ANSWERS.get(name, CHANGED), b""

    def put_file(self, in_path, out_path):
        """Take a file and forget it."""

    def fetch_file(self, in_path, out_path):
        """Fetch an empty file."""
        with open(out_path, "wb"):
            pass

    def close(self):
        """Have nothing to close."""
        self._connected = False
