"""An ssh server on a port of 127.0.0.1, with keys of its own; it leaves ~/.ssh alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import _bed

SERVER_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/user_key.pub
AuthenticationMethods publickey
PermitRootLogin prohibit-password
# The keys may lie below a directory that is writable by all, with the sticky bit set.
StrictModes no
PidFile none
# Without PAM, sshd refuses an account whose password is locked, as root's often is.
UsePAM {pam}
SetEnv {environment}
"""
CLIENT_CONFIG = """\
Host 127.0.0.1
    Port {port}
    User root
    IdentityFile {directory}/user_key
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {directory}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
"""
# Docker's client calls `ssh` from PATH and takes no option for another configuration.
WRAPPER = """\
#!/bin/sh
exec {ssh} -F '{directory}/config' "$@"
"""


def daemon(directory: Path) -> _bed.Daemon:
    """Return the server that keeps everything in `directory`."""
    return _bed.Daemon("sshd", directory)


def start(directory: Path, environment: Mapping[str, str]) -> int:
    """Start the server and return its port; `environment` is set for every login.

    For clients there are `config` (for ssh -F) and `bin/ssh`, which uses it.
    """
    _bed.require({"sshd": "openssh-server", "ssh": "openssh-client"})
    _bed.remove_tree(directory)
    directory.mkdir(mode=0o700)
    for key in ("host_key", "user_key"):
        _bed.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", directory / key])
    port = _bed.free_port()
    locked = "root:!" in Path("/etc/shadow").read_text()
    values = {"directory": directory, "port": port, "pam": "yes" if locked else "no"}
    variables = " ".join(f'"{name}={value}"' for name, value in environment.items())
    config = directory / "sshd_config"
    config.write_text(SERVER_CONFIG.format(environment=variables, **values))
    (directory / "config").write_text(CLIENT_CONFIG.format(**values))
    host_key = (directory / "host_key.pub").read_text()
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    wrapper = directory / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(WRAPPER.format(ssh=shutil.which("ssh"), directory=directory))
    wrapper.chmod(0o755)

    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's fixed place, gone after a reboot
    server = daemon(directory)
    server.start([str(shutil.which("sshd")), "-D", "-e", "-f", config])
    login = [wrapper, "127.0.0.1", "true"]
    _bed.wait_until(
        lambda: _bed.run(login, check=False).returncode == 0, "ssh lets us in", 20, server
    )
    return port


def stop(directory: Path) -> None:
    """Stop the server, its open sessions, and one whose pid file got lost."""
    servers = {daemon(directory).pid(), *_bed.processes_of(directory, ["sshd"])} - {None}
    sessions = [child for server in servers if server for child in _bed.children(server)]
    _bed.end_processes([*(pid for pid in servers if pid), *sessions])
    daemon(directory).stop()
