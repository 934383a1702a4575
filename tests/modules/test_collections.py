"""Modules of collections that most people have, from the `ansible` package for the newest core."""

from __future__ import annotations

from typing import Any

import pytest

from modules.test_ways import named
from modules.twins import Twins
from peers import installed

GENERAL, POSIX, KUBERNETES = "community.general", "ansible.posix", "kubernetes.core"
DOCKER, CRYPTO, MYSQL = "community.docker", "community.crypto", "community.mysql"
INI = {"path": "/srv/work/ini", "section": "one", "option": "key"}
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl a"
TASKS: list[dict[str, Any]] = [
    {f"{GENERAL}.ini_file": {**INI, "value": "1", "mode": "0640"}},
    {f"{GENERAL}.ini_file": {**INI, "value": "2", "backup": True}, "diff": True},
    {f"{GENERAL}.ini_file": {**INI, "state": "absent"}, "check_mode": True, "diff": True},
    {f"{GENERAL}.ini_file": {"path": "/no/such/ini", "option": "a", "value": "b"}},
    {f"{GENERAL}.archive": {"path": "/srv/start/parts", "dest": "/srv/work/made.tar"}},
    {f"{GENERAL}.xml": {"path": "/srv/work/ini", "xpath": "/a"}},
    {f"{GENERAL}.git_config": {"name": "user.name", "value": "A", "scope": "global"}},
    {f"{GENERAL}.cronvar": {"name": "PATH", "value": "/bin", "user": "root"}},
    {f"{GENERAL}.sudoers": {"name": "app", "user": "app", "commands": "/bin/true"}},
    {f"{GENERAL}.ssh_config": {"host": "example.org", "hostname": "127.0.0.1", "user": "app"}},
    {f"{GENERAL}.filesize": {"path": "/srv/work/sized", "size": "3k", "blocksize": "1k"}},
    {f"{GENERAL}.pamd": {"name": "sudo", "type": "session", "control": "x", "module_path": "y"}},
    {f"{GENERAL}.alternatives": {"name": "editor", "path": "/bin/true", "link": "/usr/bin/editor"}},
    {f"{GENERAL}.capabilities": {"path": "/bin/true", "capability": "cap_chown+ep"}},
    {f"{GENERAL}.make": {"chdir": "/srv/start"}},
    {f"{GENERAL}.npm": {"name": "x"}},
    {f"{GENERAL}.python_requirements_info": {"dependencies": ["pip>1", "nothing"]}},
    {f"{GENERAL}.read_csv": {"path": "/etc/passwd", "delimiter": ":", "fieldnames": "a,b,c"}},
    {
        f"{POSIX}.acl": {
            "path": "/srv/work/ini",
            "entity": "app",
            "etype": "user",
            "permissions": "r",
        }
    },
    {f"{POSIX}.authorized_key": {"user": "app", "key": SSH_KEY}},
    {f"{POSIX}.authorized_key": {"user": "app", "key": "nonsense"}},
    {
        f"{POSIX}.sysctl": {
            "name": "a.b",
            "value": "1",
            "reload": False,
            "sysctl_file": "/srv/sysctl",
        }
    },
    {f"{POSIX}.mount": {"path": "/mnt/x", "src": "/x", "fstype": "ext4", "state": "present"}},
    {f"{POSIX}.mount": {"path": "/mnt/x", "state": "remounted"}},
    # Without what they need in the container: they say so, through module_utils of their own.
    {f"{KUBERNETES}.k8s_info": {"kind": "Pod", "namespace": "default"}},
    {f"{KUBERNETES}.k8s": {"state": "absent", "kind": "Pod", "name": "a", "namespace": "b"}},
    {f"{KUBERNETES}.k8s_exec": {"pod": "a", "namespace": "b", "command": "true"}},
    {f"{KUBERNETES}.helm_info": {"name": "a", "namespace": "b"}},
    {f"{KUBERNETES}.k8s_scale": {"kind": "Pod"}},
    {f"{DOCKER}.docker_container_info": {"name": "a"}},
    {f"{DOCKER}.docker_image_info": {"docker_host": "unix:///no/such"}},
    {f"{DOCKER}.docker_compose_v2": {"project_src": "/no/such"}},
    {f"{DOCKER}.current_container_facts": {}},
    {f"{CRYPTO}.openssl_privatekey": {"path": "/srv/work/key.pem", "size": 2048}},
    {f"{CRYPTO}.x509_certificate_info": {"path": "/no/such"}},
    {f"{MYSQL}.mysql_info": {"login_unix_socket": "/no/such"}},
    {"ping": {}},
    {"process_state": {}},
]


@pytest.mark.timeout(900)
def test_collections(pair: Twins, names: dict[str, Any], repository: Any) -> None:
    (site,) = installed.environment(repository).glob("lib/python3*/site-packages")
    run = pair.same(
        named("collections", *TASKS), env={"ANSIBLE_COLLECTIONS_PATH": str(site)}, **names
    )
    assert run.result("collections 0")["changed"]
