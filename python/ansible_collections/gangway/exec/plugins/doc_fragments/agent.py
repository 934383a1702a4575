# Copyright (c) 2026 The gangway authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of agents, which all connection plugins of this collection have."""

from __future__ import annotations


class ModuleDocFragment:
    """What `extends_documentation_fragment: gangway.exec.agent` stands for."""

    DOCUMENTATION = r"""
options:
  gangway_agent:
    description:
      - Keep an exec open in the container, with a small Python program that runs the steps of all
        tasks. C(false) makes each step an exec of its own, C(always) starts the program where the
        container has less than 100 MiB of memory to spare, too.
      - The engine's audit log then has one exec per container and user, and what the client is
        allowed is what it was allowed when that exec began.
    default: 'true'
    vars:
      - name: ansible_gangway_agent
    env:
      - name: ANSIBLE_GANGWAY_AGENT
    ini:
      - section: gangway
        key: agent
  gangway_persist:
    description: Seconds that this program stays after the last play that used it. 0 is like
      C(false) for O(gangway_agent).
    type: float
    default: 60
    vars:
      - name: ansible_gangway_persist
    env:
      - name: ANSIBLE_GANGWAY_PERSIST
    ini:
      - section: gangway
        key: persist
  gangway_kill_on_disconnect:
    description: End a running command when the connection to the program is lost. By default it
      may finish.
    type: boolean
    default: false
    vars:
      - name: ansible_gangway_kill_on_disconnect
    env:
      - name: ANSIBLE_GANGWAY_KILL_ON_DISCONNECT
    ini:
      - section: gangway
        key: kill_on_disconnect
  gangway_interpreter:
    description: Python for this program, an absolute path. Other values leave it to the container.
    vars:
      - name: ansible_python_interpreter
"""
