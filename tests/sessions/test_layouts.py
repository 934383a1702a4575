"""Agents in containers that are laid out as other distributions' are, and plays in a pipeline."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sessions.conftest import agents
from support import beds, inventory
from support.ansible import Ansible
from support.targets import Target

PING = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.raw: id -u
    - ansible.builtin.ping:
    - ansible.builtin.copy: {content: text, dest: /tmp/gangway-layout, mode: "0600"}
    - ansible.builtin.command: cat /tmp/gangway-layout
      become: true
      register: said
    - ansible.builtin.assert: {that: said.stdout == "text"}
"""


def red_hat(target: Target, name: str) -> dict[str, Any]:
    """Leave Python where the system's own is in RHEL 8, and on no PATH."""
    python = "/usr/libexec/platform-python"
    move = f"mkdir -p /usr/libexec; cp -L /usr/bin/python3 {python}; rm /usr/bin/python*"
    target.run(name, move)
    return {"ansible_python_interpreter": python}


def alpine(target: Target, name: str) -> dict[str, Any]:
    """Have busybox for the shell and for every tool that it has, as Alpine does."""
    busybox = target.run("busybox", "cat /bin/busybox")
    target.run(name, "cat >/bin/busybox; chmod 755 /bin/busybox", busybox)
    kept = "busybox|sudo|su|login|passwd"
    link = "/bin/busybox ln -sf /bin/busybox"
    target.run(
        name,
        f"/bin/busybox --list | /bin/busybox grep -vxE '{kept}' | while read -r a; do"
        f" {link} /usr/bin/$a; test ! -e /usr/sbin/$a || {link} /usr/sbin/$a; done",
    )
    assert b"BusyBox" in target.run(name, "/bin/sh --help 2>&1; cat --help 2>&1; true")
    return {}


@pytest.mark.in_turn
@pytest.mark.parametrize("layout", [red_hat, alpine])
def test_a_layout(target: Target, ansible: Ansible, tmp_path: Path, layout: Any) -> None:
    """All of a play goes through agents there."""
    with target.container(f"gangway-layout-{os.getpid()}") as name:
        variables = target.variables(name) | layout(target, name)
        session = target.session(name)
        assert session.exec_command(b"cat; exit 7", b"in") == (7, b"in", b"")
        (tmp_path / "file").write_bytes(os.urandom(3 << 20))
        session.put_file(bytes(tmp_path / "file"), b"/tmp/large")
        session.fetch_file(b"/tmp/large", bytes(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
        hosts = inventory.write(tmp_path / "hosts.json", all={"box": variables})
        (play := tmp_path / "play.yml").write_text(PING)
        result = ansible.playbook(play, "-i", hosts, "-vvv", env=target.env)
        assert result.rc == 0, result
        assert "VIA interpreter " in result.stdout and "VIA direct" not in result.stdout, result
        assert "no warm interpreter" not in result.stdout, result


def test_a_pipeline_ends_with_the_play(target: Target, ansible: Ansible, tmp_path: Path) -> None:
    """What stays behind holds none of its descriptors: `tee` sees the end."""
    variables = target.variables("target") | {"ansible_gangway_persist": 600}
    hosts = inventory.write(tmp_path / "hosts.json", all={"box": variables})
    (play := tmp_path / "play.yml").write_text(PING.replace("/tmp/gangway-layout", "/tmp/of-tee"))
    program = ansible.bin_dir / "ansible-playbook"
    command = f"{program} -i {hosts} {play} 2>&1 | tee {tmp_path}/said; exit ${{PIPESTATUS[0]}}"
    held, holds = os.pipe()
    pipeline = subprocess.Popen(
        ["bash", "-c", command],
        env=beds.environment(target.env) | {"HOME": str(ansible.home), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        pass_fds=[holds],
    )
    os.close(holds)
    said = pipeline.communicate(timeout=120)[0]
    assert pipeline.returncode == 0, said
    assert os.read(held, 1) == b""
    os.close(held)
    assert agents()
