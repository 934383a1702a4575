# Copyright (c) 2026 The gangway authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Times one put_file or fetch_file of the connection plugin, whichever it is.

A put counts until the container itself says how long the file is: a plugin may return before the
last byte has arrived.
"""

from __future__ import annotations

import os
import time

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Arguments: `direction` (put or fetch), `local`, `remote`, `size` in bytes."""

    _requires_connection = True

    def run(self, tmp=None, task_vars=None):
        """Transfer the file; fail unless all of it arrived."""
        result = super().run(tmp, task_vars)
        arguments = self._task.args
        local, remote, size = arguments["local"], arguments["remote"], int(arguments["size"])
        connection = self._connection
        connection.exec_command("true")  # connects, where that is a step of its own
        start = time.perf_counter()
        if arguments["direction"] == "put":
            connection.put_file(local, remote)
            stdout = connection.exec_command(f"wc -c < {remote}")[1]
            seconds = time.perf_counter() - start
            arrived = int(stdout.split()[0]) if stdout.split() else 0
        else:
            connection.fetch_file(remote, local)
            seconds = time.perf_counter() - start
            arrived = os.path.getsize(local)
        if arrived != size:
            raise AnsibleActionFail(f"{arrived} of {size} bytes arrived")
        result["bench_transfer"] = {"seconds": seconds, "size": size, **arguments}
        return result
