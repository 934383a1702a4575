"""End what the Kubernetes bed runs and remove what it left, whether it ended well or was killed.

The kubelet and containerd do not take their containers with them, and a pid file may be missing, so
programs are found by their name and an argument below the bed's directory (its configuration, its
socket), what runs in containers by its cgroup.
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
PROGRAMS = (*_k8s_components.NAMES, "containerd-shim-runc-v2", "runc", "ctr")


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
    end_processes(state)
    remove_cgroups(state)
    remove_outside_files(state)
    restore_sysctls(state)
    _bed.remove_tree(state)


def end_processes(state: Path) -> None:
    """Kill daemons, shims and containers until none is left; one may be about to start another.

    Nothing needs a chance to save its data: it is all thrown away.
    """

    def ended() -> bool:
        thaw(state)
        pids = [*_bed.processes_of(state, PROGRAMS), *container_processes(state)]
        _bed.end_processes(pids, 0)
        return not pids

    _bed.wait_until(ended, "the bed's processes ended", 60)


def cgroups(state: Path) -> list[Path]:
    """Return the cgroups of the bed's containers, in every hierarchy, the innermost first.

    containerd names them `/k8s.io/ID`; other users of containerd on this machine do too, so the
    ids that it noted below `state` decide.
    """
    ids = {path.name for path in (*state.glob("run/*/k8s.io/*"), *state.glob("runc/k8s.io/*"))}
    top = Path("/sys/fs/cgroup")
    found = []
    for hierarchy in (top, *top.iterdir()):  # version 2 alone, then version 1's
        for name in ids:
            walk = os.walk(hierarchy / "k8s.io" / name, topdown=False)
            found += [Path(path) for path, _, _ in walk]
    return found


def container_processes(state: Path) -> list[int]:
    """Return the pids of all processes in the bed's containers."""
    found: set[int] = set()
    for group in cgroups(state):
        with contextlib.suppress(OSError):  # it went away
            found.update(map(int, (group / "cgroup.procs").read_text().split()))
    return sorted(found)


def thaw(state: Path) -> None:
    """Let paused containers run: a frozen process does not even die of KILL."""
    for group in cgroups(state):
        for file, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            with contextlib.suppress(OSError):
                if (group / file).exists():
                    (group / file).write_text(value)


def remove_cgroups(state: Path) -> None:
    """Remove the cgroups of the bed's containers."""

    def removed() -> bool:
        for group in cgroups(state):
            with contextlib.suppress(OSError):  # the kernel still counts a dead process
                group.rmdir()
        return not cgroups(state)

    parents = {group.parent for group in cgroups(state) if group.parent.name == "k8s.io"}
    _bed.wait_until(removed, "the bed's cgroups are empty", 20)
    for parent in parents:
        with contextlib.suppress(OSError):  # other containers are in it
            parent.rmdir()


def remove_outside_files(state: Path) -> None:
    """Remove the shims' and the kubelet's socket and the links to logs, whose place is fixed."""
    for file in state.glob("run/io.containerd.runtime.v2.task/k8s.io/*/address"):
        address = file.read_text().strip()
        if address.startswith("unix:///run/containerd/s/"):
            Path(address[len("unix://") :]).unlink(missing_ok=True)
    logs = Path("/var/log/containers")
    if logs.is_dir():
        for link in logs.iterdir():
            if link.is_symlink() and os.readlink(link).startswith(f"{state}/"):
                link.unlink()
    if not _k8s_components.kubelet_answers():
        _k8s_components.KUBELET_SOCKET.unlink(missing_ok=True)
        for directory in list(_k8s_components.KUBELET_SOCKET.parents)[:2]:
            with contextlib.suppress(OSError):  # somebody else's files are in it
                directory.rmdir()
