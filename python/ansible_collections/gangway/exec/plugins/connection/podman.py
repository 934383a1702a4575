# Copyright (c) 2026 The gangway authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# ruff: noqa: D100, E402 (ansible-doc reads the first two literals; they are the docstring)
from __future__ import annotations

DOCUMENTATION = r"""
name: podman
short_description: Run tasks in Podman containers
version_added: "0.1.0"
author:
  - The gangway authors (!UNKNOWN)
description:
  - Runs commands in, and copies files to and from, a running container with C(podman exec).
  - Takes the options of P(containers.podman.podman#connection) under the same names.
requirements:
  - ansible-gangway (Python package)
  - podman or podman-remote
notes:
  - Without root, Podman knows only the containers of the user who runs Ansible.
  - Podman ends a command when its detach keys come one by one in what the command reads. This
    plugin chooses keys that never do. C(ansible.posix.synchronize) calls Podman itself; set
    C(detach_keys = "") in C(containers.conf) for it.
seealso:
  - plugin: containers.podman.podman
    plugin_type: connection
extends_documentation_fragment: gangway.exec.agent
options:
  remote_addr:
    description: Name or ID of the container. E(ANSIBLE_PODMAN_HOST) and the ini key count only
      where C(inventory_hostname) is not set; a play always sets it.
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_host
      - name: ansible_podman_host
    env:
      - name: ANSIBLE_PODMAN_HOST
    ini:
      - section: defaults
        key: remote_addr
  remote_user:
    description: User in the container. Default is the container's own.
    vars:
      - name: ansible_user
      - name: ansible_podman_user
    env:
      - name: ANSIBLE_REMOTE_USER
    ini:
      - section: defaults
        key: remote_user
    cli:
      - name: user
    keyword:
      - name: remote_user
  podman_executable:
    description: Name or path of the client.
    type: string
    default: podman
    vars:
      - name: ansible_podman_executable
    env:
      - name: ANSIBLE_PODMAN_EXECUTABLE
    ini:
      - section: podman_connection
        key: executable
      - section: defaults
        key: podman_executable
  podman_extra_args:
    description: Arguments of the client before C(exec), quoted as for a shell. Other users of this
      machine can read them.
    type: string
    default: ''
    vars:
      - name: ansible_podman_extra_args
    env:
      - name: ANSIBLE_PODMAN_EXTRA_ARGS
    ini:
      - section: podman_connection
        key: extra_cli_args
      - section: defaults
        key: podman_extra_args
  extra_env_vars:
    description: Environment variables for every command. Keys and values must be strings.
    type: dict
    default: {}
    vars:
      - name: ansible_podman_extra_env
  working_directory:
    description: Directory in the container in which commands start.
    type: string
    vars:
      - name: ansible_podman_working_dir
      - name: ansible_podman_working_directory
    env:
      - name: ANSIBLE_PODMAN_WORKING_DIR
    ini:
      - section: podman_connection
        key: working_dir
  privilege_escalation_method:
    description: How to run every command as root where C(become) is not used. V(auto) and V(none)
      leave that to C(become), which can do more.
    type: string
    default: auto
    choices: [auto, sudo, su, none]
    vars:
      - name: ansible_podman_privilege_escalation
  mount_detection:
    description: Not used. Files are always copied by commands in the container, which sees its own
      mounts, links and users.
    type: boolean
    default: true
    vars:
      - name: ansible_podman_mount_detection
    env:
      - name: ANSIBLE_PODMAN_MOUNT_DETECTION
  ignore_mount_errors:
    description: Not used, as O(mount_detection).
    type: boolean
    default: true
    vars:
      - name: ansible_podman_ignore_mount_errors
  container_timeout:
    description: Seconds to wait for a command to start and for a become prompt to appear. V(0)
      means the default. A command may take as long as it needs, or as long as C(timeout) of its
      task says.
    type: integer
    default: 10
    vars:
      - name: ansible_timeout
      - name: ansible_podman_timeout
    env:
      - name: ANSIBLE_TIMEOUT
      - name: ANSIBLE_PODMAN_TIMEOUT
    ini:
      - section: defaults
        key: timeout
      - section: podman_connection
        key: timeout
      - section: defaults
        key: podman_timeout
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
# inventory.ini. With linked short names (gangway link) it is ansible_connection=podman.
#
#   [web]
#   web1
#   web2 ansible_host=pod-web-2 ansible_user=www-data
#
#   [web:vars]
#   ansible_connection=gangway.exec.podman

- name: Configure running containers
  hosts: web
  tasks:
    - name: Install a configuration file
      ansible.builtin.copy:
        src: app.conf
        dest: /etc/app.conf
        mode: "0644"

- name: Start a container and use it in the same play
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Start it
      ansible.builtin.command: podman run --detach --init --name scratch python:3 sleep infinity

    - name: Add it to the inventory
      ansible.builtin.add_host:
        name: scratch
        ansible_connection: gangway.exec.podman
        ansible_podman_extra_env:
          LANG: C.UTF-8

    - name: Use it
      ansible.builtin.command: python3 --version
      delegate_to: scratch
"""

import shlex
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
    """A container of Podman."""

    # Not the full name: ansible.posix.synchronize looks for this word, then for the options
    # podman_executable and podman_extra_args.
    transport = "podman"
    collection_version = "0.1.0"

    # As containers.podman.podman names them, where 0 is no timeout.
    env_name = "extra_env_vars"
    working_dir_name = "working_directory"
    timeout_of_zero = 10

    def engine_arguments(self) -> dict[str, object]:
        """Return the arguments of _core.podman beyond the shared."""
        return {
            "container": self.bytes_option("remote_addr"),
            "user": self.bytes_option("remote_user"),
        }

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        """Run a command line, as root where privilege_escalation_method says so."""
        method = self.get_option("privilege_escalation_method")
        if sudoable and method == "sudo":
            cmd = f"sudo -n /bin/sh -c {shlex.quote(cmd)}"
        elif sudoable and method == "su":
            cmd = f"su -c {shlex.quote(cmd)}"
        return super().exec_command(cmd, in_data, sudoable)
