# Copyright (c) 2026 The gangway authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# ruff: noqa: D100, E402 (ansible-doc reads the first two literals; they are the docstring)
from __future__ import annotations

DOCUMENTATION = r"""
name: kubectl
short_description: Run tasks in Kubernetes pods
version_added: "0.1.0"
author:
  - The gangway authors (!UNKNOWN)
description:
  - Runs commands in, and copies files to and from, a container of a running pod with C(kubectl
    exec).
  - Takes the options of P(kubernetes.core.kubectl#connection) under the same names.
requirements:
  - ansible-gangway (Python package)
  - kubectl
notes:
  - Needs the right to C(create) C(pods/exec) and to C(get) C(pods) in the namespace.
  - C(kubectl exec) cannot change the user, so C(ansible_user) and C(remote_user) are not used. Use
    C(become).
seealso:
  - plugin: kubernetes.core.kubectl
    plugin_type: connection
extends_documentation_fragment: gangway.exec.agent
options:
  remote_addr:
    description: The pod, where O(kubectl_pod) does not name it.
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_host
  remote_user:
    description: Always empty, whatever is set elsewhere.
  kubectl_pod:
    description: The pod, or C(deploy/NAME), C(svc/NAME) and the like for the oldest of its ready
      pods. An agent stays with its pod while that runs; after a rollout, C(reset_connection) of
      M(ansible.builtin.meta) has another one found. Default is the address of the host.
    default: ''
    vars:
      - name: ansible_kubectl_pod
    env:
      - name: K8S_AUTH_POD
  kubectl_container:
    description: Container of the pod. Default is the pod's default container.
    default: ''
    vars:
      - name: ansible_kubectl_container
    env:
      - name: K8S_AUTH_CONTAINER
  kubectl_namespace:
    description: Namespace of the pod.
    default: ''
    vars:
      - name: ansible_kubectl_namespace
    env:
      - name: K8S_AUTH_NAMESPACE
  kubectl_extra_args:
    description: Arguments of the client before C(exec), quoted as for a shell. Other users of this
      machine can read them.
    default: ''
    vars:
      - name: ansible_kubectl_extra_args
    env:
      - name: K8S_AUTH_EXTRA_ARGS
  kubectl_local_env_vars:
    description: Environment variables for the client on this machine. Keys and values must be
      strings.
    default: {}
    type: dict
    vars:
      - name: ansible_kubectl_local_env_vars
  kubectl_kubeconfig:
    description: Path of a configuration file, or its content as a dictionary, which is never
      written to disk.
    default: ''
    vars:
      - name: ansible_kubectl_kubeconfig
      - name: ansible_kubectl_config
    env:
      - name: K8S_AUTH_KUBECONFIG
  kubectl_context:
    description: Context of the configuration file.
    default: ''
    vars:
      - name: ansible_kubectl_context
    env:
      - name: K8S_AUTH_CONTEXT
  kubectl_host:
    description: URL of the API server.
    default: ''
    vars:
      - name: ansible_kubectl_host
      - name: ansible_kubectl_server
    env:
      - name: K8S_AUTH_HOST
      - name: K8S_AUTH_SERVER
  kubectl_username:
    description: User name for the API server.
    default: ''
    vars:
      - name: ansible_kubectl_username
      - name: ansible_kubectl_user
    env:
      - name: K8S_AUTH_USERNAME
  kubectl_password:
    description: Password for the API server. It is not put on a command line.
    default: ''
    vars:
      - name: ansible_kubectl_password
    env:
      - name: K8S_AUTH_PASSWORD
  kubectl_token:
    description: Bearer token for the API server. It is not put on a command line.
    vars:
      - name: ansible_kubectl_token
      - name: ansible_kubectl_api_key
    env:
      - name: K8S_AUTH_TOKEN
      - name: K8S_AUTH_API_KEY
  client_cert:
    description: Path of a client certificate.
    default: ''
    aliases: [kubectl_cert_file]
    vars:
      - name: ansible_kubectl_cert_file
      - name: ansible_kubectl_client_cert
    env:
      - name: K8S_AUTH_CERT_FILE
  client_key:
    description: Path of the key of O(client_cert).
    default: ''
    aliases: [kubectl_key_file]
    vars:
      - name: ansible_kubectl_key_file
      - name: ansible_kubectl_client_key
    env:
      - name: K8S_AUTH_KEY_FILE
  ca_cert:
    description: Path of the certificate authority of the API server.
    default: ''
    aliases: [kubectl_ssl_ca_cert]
    vars:
      - name: ansible_kubectl_ssl_ca_cert
      - name: ansible_kubectl_ca_cert
    env:
      - name: K8S_AUTH_SSL_CA_CERT
  validate_certs:
    description: Whether to verify the certificate of the API server. Default is what the
      configuration file says.
    default: ''
    aliases: [kubectl_verify_ssl]
    vars:
      - name: ansible_kubectl_verify_ssl
      - name: ansible_kubectl_validate_certs
    env:
      - name: K8S_AUTH_VERIFY_SSL
  kubectl_executable:
    description: Name or path of the client.
    default: kubectl
    vars:
      - name: ansible_kubectl_executable
    env:
      - name: ANSIBLE_KUBECTL_EXECUTABLE
    ini:
      - section: kubectl_connection
        key: executable
  extra_env:
    description: Environment variables for every command. Keys and values must be strings.
    type: dict
    vars:
      - name: ansible_kubectl_extra_env
  working_dir:
    description: Directory in the container in which commands start.
    type: string
    vars:
      - name: ansible_kubectl_working_dir
    env:
      - name: ANSIBLE_KUBECTL_WORKING_DIR
    ini:
      - section: kubectl_connection
        key: working_dir
  container_timeout:
    description: Seconds to wait for a command to start and for a become prompt to appear, at least
      1.
    type: integer
    default: 30
    vars:
      - name: ansible_timeout
      - name: ansible_kubectl_timeout
    env:
      - name: ANSIBLE_TIMEOUT
      - name: ANSIBLE_KUBECTL_TIMEOUT
    ini:
      - section: defaults
        key: timeout
      - section: kubectl_connection
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
# inventory.ini. With linked short names (gangway link) it is ansible_connection=kubectl.
#
#   [shop]
#   shop-0
#   worker ansible_kubectl_pod=deploy/worker ansible_kubectl_container=main
#
#   [shop:vars]
#   ansible_connection=gangway.exec.kubectl
#   ansible_kubectl_namespace=shop
#   ansible_kubectl_context=production

- name: Look into running pods
  hosts: shop
  gather_facts: false
  tasks:
    - name: Read a file that no image need have Python for
      ansible.builtin.raw: cat /etc/os-release
      changed_when: false

- name: Use a pod that is found by its label
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Find it
      ansible.builtin.command: kubectl --namespace shop get pods --selector app=shop --output name
      register: pods
      changed_when: false

    - name: Add it to the inventory
      ansible.builtin.add_host:
        name: "{{ pods.stdout_lines[0] | basename }}"
        groups: found
        ansible_connection: gangway.exec.kubectl
        ansible_kubectl_namespace: shop

- name: Configure it
  hosts: found
  tasks:
    - name: Write a file
      ansible.builtin.copy:
        content: "ready"
        dest: /tmp/state
        mode: "0644"
"""

import json
import sys

from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import BOOLEANS_FALSE, BOOLEANS_TRUE
from ansible.utils.display import Display

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


display = Display()


class Connection(ContainerConnection):
    """A container of a Kubernetes pod."""

    transport = "kubectl"
    collection_version = "0.1.0"

    def set_options(self, *args: object, **kwargs: object) -> None:
        """Take options, but no user: core would look for the home directory of one it cannot be."""
        super().set_options(*args, **kwargs)
        # Declared without a source, but Ansible fills an option named like a task's keyword.
        self._options["remote_user"] = None

    def container_name(self) -> str:
        """Name the pod."""
        return self.text_option("kubectl_pod") or self.text_option("remote_addr")

    def target(self) -> str:
        """Name the pod as messages do."""
        return f'pod "{self.container_name()}"'

    def log_established(self) -> None:
        """Say in addition when a user is given in vain."""
        super().log_established()
        if self._play_context.remote_user:
            display.v(
                f"kubectl exec cannot change the user: {self._play_context.remote_user!r} is not "
                "used",
                host=self.container_name(),
            )

    def engine_arguments(self) -> dict[str, object]:
        """Return the arguments of _core.kubectl beyond the shared."""
        config = self.get_option("kubectl_kubeconfig")
        inline = isinstance(config, dict)
        content = json.dumps(config, default=str).encode() if inline and config else None
        return {
            "pod": self.bytes_option("kubectl_pod") or self.bytes_option("remote_addr"),
            "container": self.bytes_option("kubectl_container"),
            "namespace": self.bytes_option("kubectl_namespace"),
            "kubeconfig": None if inline else self.path_option("kubectl_kubeconfig"),
            "kubeconfig_content": content,
            "context": self.bytes_option("kubectl_context"),
            "server": self.bytes_option("kubectl_host"),
            "username": self.bytes_option("kubectl_username"),
            "password": self.bytes_option("kubectl_password"),
            "token": self.bytes_option("kubectl_token"),
            "client_cert": self.path_option("client_cert"),
            "client_key": self.path_option("client_key"),
            "ca_cert": self.path_option("ca_cert"),
            "validate_certs": self._validate_certs(),
            "local_env": self.env_option("kubectl_local_env_vars"),
        }

    def _validate_certs(self) -> bool | None:
        value = self.text_option("validate_certs").strip().lower()
        if not value:
            return None
        if value not in BOOLEANS_TRUE | BOOLEANS_FALSE:
            # Not to be guessed: false would be the unsafe answer.
            raise AnsibleError(
                f"{self.target()}: validate_certs is {value!r}: it must be true or false"
            )
        return value in BOOLEANS_TRUE
