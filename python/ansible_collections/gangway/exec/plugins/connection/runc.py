# Copyright (c) 2026 The gangway authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# ruff: noqa: D100, E402 (ansible-doc reads the first two literals; they are the docstring)
from __future__ import annotations

DOCUMENTATION = r"""
name: runc
short_description: Run tasks in runc containers
version_added: "0.1.0"
author:
  - The gangway authors (!UNKNOWN)
description:
  - Runs commands in, and copies files to and from, a running container with C(runc exec). No daemon
    is needed.
requirements:
  - ansible-gangway (Python package)
  - runc
notes:
  - Only the user who started a container can enter it, for most containers root.
  - The containers of other tools can be reached too, once O(runc_root) names where they keep them.
extends_documentation_fragment: gangway.exec.agent
options:
  remote_addr:
    description: ID of the container.
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_host
      - name: ansible_runc_host
  remote_user:
    description: User in the container, by name or number. Default is the container's own.
    vars:
      - name: ansible_user
      - name: ansible_runc_user
    env:
      - name: ANSIBLE_REMOTE_USER
    ini:
      - section: defaults
        key: remote_user
    cli:
      - name: user
    keyword:
      - name: remote_user
  runc_root:
    description: Directory of the containers' state (C(runc --root)). Default is that of runc
      itself.
    type: string
    vars:
      - name: ansible_runc_root
    env:
      - name: ANSIBLE_RUNC_ROOT
    ini:
      - section: runc_connection
        key: root
  runc_executable:
    description: Name or path of runc.
    default: runc
    vars:
      - name: ansible_runc_executable
    env:
      - name: ANSIBLE_RUNC_EXECUTABLE
    ini:
      - section: runc_connection
        key: executable
  runc_extra_args:
    description: Arguments of runc before C(exec), quoted as for a shell. Other users of this
      machine can read them.
    default: ''
    vars:
      - name: ansible_runc_extra_args
    ini:
      - section: runc_connection
        key: extra_cli_args
  extra_env:
    description: Environment variables for every command. Keys and values must be strings.
    type: dict
    vars:
      - name: ansible_runc_extra_env
  working_dir:
    description: Directory in the container in which commands start.
    type: string
    vars:
      - name: ansible_runc_working_dir
    env:
      - name: ANSIBLE_RUNC_WORKING_DIR
    ini:
      - section: runc_connection
        key: working_dir
  container_timeout:
    description: Seconds to wait for a command to start and for a become prompt to appear, at least
      1.
    type: integer
    default: 10
    vars:
      - name: ansible_timeout
      - name: ansible_runc_timeout
    env:
      - name: ANSIBLE_TIMEOUT
      - name: ANSIBLE_RUNC_TIMEOUT
    ini:
      - section: defaults
        key: timeout
      - section: runc_connection
        key: timeout
    cli:
      - name: timeout
  pipelining:
    description: Pass a module to its interpreter on stdin, not as a file.
    type: boolean
    default: true
    vars:
      - name: ansible_pipelining
    env:
      - name: ANSIBLE_PIPELINING
    ini:
      - section: defaults
        key: pipelining
      - section: connection
        key: pipelining
"""

EXAMPLES = r"""
# inventory.ini. With linked short names (gangway link) it is ansible_connection=runc.
#
#   [edge]
#   edge1
#   edge2 ansible_host=edge2-8f3c ansible_runc_user=app
#
#   [edge:vars]
#   ansible_connection=gangway.exec.runc
#   ansible_runc_root=/run/edge/runc

- name: Configure running containers
  hosts: edge
  tasks:
    - name: Install a configuration file
      ansible.builtin.copy:
        src: app.conf
        dest: /etc/app.conf
        mode: "0644"

- name: Start a container from a bundle and use it in the same play
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Start it
      ansible.builtin.shell: runc run -d -b /srv/scratch scratch </dev/null >/dev/null 2>&1

    - name: Add it to the inventory
      ansible.builtin.add_host:
        name: scratch
        ansible_connection: gangway.exec.runc

    - name: Use it
      ansible.builtin.raw: uname -a
      delegate_to: scratch
"""

import sys

from ansible.errors import AnsibleError

try:
    from ansible_gangway.connection import ContainerConnection
except ImportError as exc:
    from ansible.plugins.connection import ConnectionBase

    MISSING = exc

    class ContainerConnection(ConnectionBase):
        """For whoever uses the plugin; tools that only import it do not need ansible-gangway."""

        _connect = exec_command = put_file = fetch_file = close = None

        def __init__(self, *args: object, **kwargs: object) -> None:
            raise AnsibleError(
                f"the connection plugin {__file__} needs ansible-gangway where Ansible runs: run "
                f"'{sys.executable} -m pip install ansible-gangway' (or 'gangway unlink' where it "
                f"is installed, if the plugin is a link that should not be there): {MISSING}"
            ) from MISSING


class Connection(ContainerConnection):
    """A container of runc."""

    transport = "runc"
    collection_version = "0.1.0"

    def engine_arguments(self) -> dict[str, object]:
        """Return the arguments of _core.runc beyond the shared."""
        return {
            "container": self.bytes_option("remote_addr"),
            "root": self.path_option("runc_root"),
            "user": self.bytes_option("remote_user"),
        }
