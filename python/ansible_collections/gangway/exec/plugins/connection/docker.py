# Copyright (c) 2026 The gangway authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# ruff: noqa: D100, E402 (ansible-doc reads the first two literals; they are the docstring)
from __future__ import annotations

DOCUMENTATION = r"""
name: docker
short_description: Run tasks in Docker containers
version_added: "0.1.0"
author:
  - The gangway authors (!UNKNOWN)
description:
  - Runs commands in, and copies files to and from, a running container with C(docker exec).
  - Takes the options of P(community.docker.docker#connection) under the same names.
requirements:
  - ansible-gangway (Python package)
  - docker (client)
notes:
  - The client finds its daemon as ever, by E(DOCKER_HOST), E(DOCKER_CONTEXT), E(DOCKER_CONFIG),
    E(DOCKER_TLS_VERIFY) and E(DOCKER_CERT_PATH).
seealso:
  - plugin: community.docker.docker
    plugin_type: connection
extends_documentation_fragment: gangway.exec.agent
options:
  remote_addr:
    description: Name or ID of the container.
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_host
      - name: ansible_docker_host
  remote_user:
    description: User in the container. Default is the container's own.
    vars:
      - name: ansible_user
      - name: ansible_docker_user
    env:
      - name: ANSIBLE_REMOTE_USER
    ini:
      - section: defaults
        key: remote_user
    cli:
      - name: user
    keyword:
      - name: remote_user
  docker_executable:
    description: Name or path of the client.
    default: docker
    vars:
      - name: ansible_docker_executable
    env:
      - name: ANSIBLE_DOCKER_EXECUTABLE
    ini:
      - section: docker_connection
        key: executable
  docker_extra_args:
    description: Arguments of the client before C(exec), quoted as for a shell. Other users of this
      machine can read them.
    default: ''
    vars:
      - name: ansible_docker_extra_args
    ini:
      - section: docker_connection
        key: extra_cli_args
  extra_env:
    description: Environment variables for every command. Keys and values must be strings.
    type: dict
    vars:
      - name: ansible_docker_extra_env
  working_dir:
    description: Directory in the container in which commands start.
    type: string
    vars:
      - name: ansible_docker_working_dir
    env:
      - name: ANSIBLE_DOCKER_WORKING_DIR
    ini:
      - section: docker_connection
        key: working_dir
  privileged:
    description: Run commands with extended privileges. They may break out of the container.
    type: boolean
    default: false
    vars:
      - name: ansible_docker_privileged
    env:
      - name: ANSIBLE_DOCKER_PRIVILEGED
    ini:
      - section: docker_connection
        key: privileged
  container_timeout:
    description: Seconds to wait for a command to start and for a become prompt to appear, at least
      1.
    type: integer
    default: 10
    vars:
      - name: ansible_timeout
      - name: ansible_docker_timeout
    env:
      - name: ANSIBLE_TIMEOUT
      - name: ANSIBLE_DOCKER_TIMEOUT
    ini:
      - section: defaults
        key: timeout
      - section: docker_connection
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
# inventory.ini. With linked short names (gangway link) it is ansible_connection=docker.
#
#   [web]
#   web1
#   web2 ansible_host=compose-web-1 ansible_docker_user=www-data
#
#   [web:vars]
#   ansible_connection=gangway.exec.docker

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
      ansible.builtin.command: docker run --detach --init --name scratch python:3 sleep infinity

    - name: Add it to the inventory
      ansible.builtin.add_host:
        name: scratch
        ansible_connection: gangway.exec.docker
        ansible_docker_extra_env:
          LANG: C.UTF-8

    - name: Use it
      ansible.builtin.command: python3 --version
      delegate_to: scratch
"""

import shutil
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
    """A container of a Docker daemon."""

    # Not the full name: ansible.posix.synchronize looks for this word, then for docker_cmd.
    transport = "docker"
    collection_version = "0.1.0"

    @property
    def docker_cmd(self) -> str:
        """Path of the client."""
        executable = self.text_option("docker_executable")
        return shutil.which(executable) or executable

    def engine_arguments(self) -> dict[str, object]:
        """Return the arguments of _core.docker beyond the shared."""
        return {
            "container": self.bytes_option("remote_addr"),
            "user": self.bytes_option("remote_user"),
            "privileged": self.get_option("privileged"),
        }
