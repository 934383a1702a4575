"""Ansible inside containers that run no sshd: what stands behind the collection `gangway.exec`.

The plugins import `ansible_gangway.connection`; `ansible_gangway._core` is the native module and
`ansible_gangway.cli` the command `gangway`. Importing this package imports none of them.
"""

# The native module, pyproject.toml and the collection's galaxy.yml have the same.
__version__ = "0.1.0"
