"""End what the Kubernetes bed runs and remove what it left, whether it ended well or was killed.

The kubelet and containerd do not take their containers with them, so the containers' processes are
found by the cgroup they are in and the shims by the socket they were given.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import _bed
import _k8s_components

# The kubelet sets these for the whole machine when it starts (its container manager's
# setupKernelTunables); the bed puts them back.
SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
HELPERS = ("containerd-shim-runc-v2", "runc", "ctr")


def save_sysctls(state: Path) -> None:
    """Note the values that `restore_sysctls` writes back."""
    (state / "sysctls").mkdir()
    for name in SYSCTLS:
        value = (Path("/proc/sys") / name).read_text()
        (state / "sysctls" / name.replace("/", ".")).write_text(value)


def restore_sysctls(state: Path) -> None:
    """Write the noted values back where the kubelet changed them."""
    for name in SYSCTLS:
        note, setting = state / "sysctls" / name.replace("/", "."), Path("/proc/sys") / name
        if note.exists() and note.read_text() and setting.read_text() != note.read_text():
            setting.write_text(note.read_text())


def clear(state: Path) -> None:
    """End every process of the bed and remove `state` with all that belongs to it elsewhere."""
    for name in ("kubelet", "containerd", "kube-apiserver", "etcd"):
        _k8s_components.daemon(state, name).stop()
    end_containers(state)
    remove_cgroups()
    remove_links_to(state)
    restore_sysctls(state)
    _bed.remove_tree(state)


def end_containers(state: Path) -> None:
    """Kill shims and containers until none is left; a shim may be about to start another."""

    def ended() -> bool:
        thaw()
        pids = [*_bed.processes_of(state, HELPERS), *cgroup_processes()]
        _bed.end_processes(pids, 0)
        return not pids

    _bed.wait_until(ended, "the containers of the bed ended", 60)


def cgroups() -> list[Path]:
    """Return the bed's cgroups in every hierarchy (version 1, 2 or both), the innermost first."""
    found = []
    for top in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
        root = top / _k8s_components.CGROUP
        if root.is_dir():
            found += [Path(path) for path, _, _ in os.walk(root, topdown=False)]
    return found


def cgroup_processes() -> list[int]:
    """Return the pids of all processes in the bed's cgroups."""
    found = set()
    for group in cgroups():
        with contextlib.suppress(OSError):  # it went away
            found.update(map(int, (group / "cgroup.procs").read_text().split()))
    return sorted(found)


def thaw() -> None:
    """Let paused containers run: a frozen process does not even die of KILL."""
    for group in cgroups():
        for file, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            if (group / file).exists():
                with contextlib.suppress(OSError):
                    (group / file).write_text(value)


def remove_cgroups() -> None:
    """Remove the bed's cgroups, once empty."""

    def removed() -> bool:
        for group in cgroups():
            with contextlib.suppress(OSError):  # the kernel still counts a dead process
                group.rmdir()
        return not cgroups()

    _bed.wait_until(removed, "the cgroups of the bed are empty", 20)


def remove_links_to(state: Path) -> None:
    """Remove the shims' sockets and the kubelet's links to logs: their place cannot be chosen."""
    for file in state.glob("run/io.containerd.runtime.v2.task/*/*/address"):
        address = file.read_text().strip()
        if address.startswith("unix:///run/containerd/s/"):
            Path(address[len("unix://") :]).unlink(missing_ok=True)
    logs = Path("/var/log/containers")
    if logs.is_dir():
        for link in logs.iterdir():
            if link.is_symlink() and os.readlink(link).startswith(f"{state}/"):
                link.unlink()
