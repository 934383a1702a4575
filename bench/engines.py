"""The engines of the test beds, each with a container of the benchmark's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import accounting
from accounting import Target

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from support import beds  # noqa: E402 (that is where the beds' client is)

CONTAINER = "gangway-bench"
PYTHON = "/usr/bin/python3"  # the containers'; on every contender, so that nobody looks for one


class CannotStart(Exception):
    """An engine or a container of it is not there; the text is one sentence."""


class Engine:
    """A started bed. `daemons` serve it and stay; `helpers` are started by it for one exec."""

    bed = ""
    program = ""
    daemons: tuple[str, ...] = ()
    helpers: tuple[str, ...] = ()
    # Whether an exec's processes are descendants of who asked for it.
    execs_are_children = False
    create: tuple[str, ...] = ("run", "NAME")
    delete: tuple[str, ...] = ("rm", "NAME")

    def __init__(self) -> None:
        """Start the bed, at once if it runs already, and make the benchmark's container."""
        self.was_running = beds.is_started(self.bed)
        try:
            self.bed_env = beds.start(self.bed)
        except beds.BedError as error:
            if not self.was_running:
                with suppress(beds.BedError):  # the first failure is the one to tell
                    beds.stop(self.bed)
            said = str(error).strip().splitlines()[-1]
            raise CannotStart(f"the {self.bed} bed did not start: {said}") from None
        self.env = beds.environment(self.bed_env)
        self.made: list[str] = []

    def close(self) -> None:
        """Remove the containers; stop the bed unless it ran before."""
        try:
            for name in list(self.made):
                self.remove(name)
        finally:
            if not self.was_running:
                beds.stop(self.bed)

    def make(self, name: str = CONTAINER) -> None:
        """Make a new container with Python, or make it anew."""
        self.call(self.delete, name)
        self.made.append(name)
        self.call(self.create, name)

    def remove(self, name: str) -> None:
        """Remove a container."""
        self.call(self.delete, name)
        if name in self.made:
            self.made.remove(name)

    def call(self, verb: tuple[str, ...], name: str) -> None:
        """Run one of the bed's commands on a container."""
        try:
            beds.call(self.bed, *[name if word == "NAME" else word for word in verb])
        except beds.BedError as error:
            raise CannotStart(f"{self.bed}: {error}") from None

    def exec(self, name: str, *argv: str, stdin: bool = False) -> list[str]:
        """Return the engine's own command line for an exec."""
        return [self.program, "exec", *(["-i"] if stdin else []), name, *argv]

    def run(self, script: str, name: str = CONTAINER) -> str:
        """Run a shell script in a container, untimed; return its stdout."""
        argv = self.exec(name, "/bin/sh", "-c", script)
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=self.env,
                timeout=60,
            )
        except subprocess.TimeoutExpired:
            raise CannotStart(
                f"{self.bed}: `{script}` did not end within 60 s in the container {name}"
            ) from None
        if done.returncode != 0:
            said = done.stderr.strip() or f"exit status {done.returncode}"
            raise CannotStart(f"{self.bed}: `{script}` failed in the container {name}: {said}")
        return done.stdout

    def variables(self, name: str) -> dict[str, str]:
        """Return inventory variables that every plugin for this engine understands."""
        return {"ansible_host": name, "ansible_python_interpreter": PYTHON}

    def target(self, name: str = CONTAINER) -> Target:
        """Return a container as the kernel sees it."""
        return accounting.find_target(self.run("readlink /proc/self/ns/pid", name).strip())

    def daemon_pids(self) -> list[int]:
        """Return the processes that serve this bed now."""
        root = Path(os.environ.get("GANGWAY_BEDS") or "/var/tmp/gangway-beds").resolve()
        return accounting.daemons_of(root / self.bed, self.daemons)


class Runc(Engine):
    """runc: no daemon, and an exec is a child of the runc that was asked for it."""

    bed = program = "runc"
    execs_are_children = True
    create, delete = ("create", "NAME"), ("delete", "NAME")

    def exec(self, name: str, *argv: str, stdin: bool = False) -> list[str]:
        """Return a `runc exec` command line; it always has the caller's stdin."""
        return ["runc", "--root", self.bed_env["GANGWAY_RUNC_ROOT"], "exec", name, *argv]

    def variables(self, name: str) -> dict[str, str]:
        """Add where the bed's containers are."""
        return super().variables(name) | {"ansible_runc_root": self.bed_env["GANGWAY_RUNC_ROOT"]}

    def make_many(self, names: list[str]) -> None:
        """Make several containers at a tenth of the cost of one call of the bed for each."""
        bed = load_bed(self.bed)
        helpers = sys.modules["_bed"]
        for name in names:
            self.made.append(name)
            try:
                with helpers.locked(helpers.state_root() / f"{self.bed}.lock"):
                    bed.create(name, "base")
            except helpers.BedError as error:
                raise CannotStart(f"runc: {error}") from None

    def remove_many(self, names: list[str]) -> None:
        """Remove several containers."""
        bed = load_bed(self.bed)
        for name in names:
            bed.delete(name)
            self.made.remove(name)


class Docker(Engine):
    """Docker with its containerd and shims."""

    bed = program = "docker"
    daemons = ("dockerd", "containerd", "containerd-shim-runc-v2", "containerd-shim")


class Podman(Engine):
    """Podman: a monitor for each exec, which no daemon waits for."""

    bed = "podman"
    helpers = ("conmon", "runc", "runc:[0:PARENT]", "runc:[1:CHILD]", "runc:[2:INIT]")

    def __init__(self) -> None:
        super().__init__()
        self.program = self.bed_env["GANGWAY_PODMAN"]
        self.env["PATH"] = f"{Path(self.program).parent}{os.pathsep}{self.env['PATH']}"


class Kubernetes(Engine):
    """A pod, through the API server and the kubelet."""

    bed = "kubernetes"
    daemons = ("kube-apiserver", "kubelet", "etcd", *Docker.daemons)
    create, delete = ("pod", "NAME"), ("delete", "NAME")

    def __init__(self) -> None:
        super().__init__()
        self.program = self.bed_env["GANGWAY_KUBECTL"]

    def daemon_pids(self) -> list[int]:
        """Return the processes that serve the cluster: its client lies beside their files."""
        return accounting.daemons_of(Path(self.program).parent, self.daemons)

    def exec(self, name: str, *argv: str, stdin: bool = False) -> list[str]:
        """Return a `kubectl exec` command line."""
        return [self.program, "exec", *(["-i"] if stdin else []), name, "--", *argv]


ENGINES: dict[str, Callable[[], Engine]] = {
    "runc": Runc,
    "docker": Docker,
    "podman": Podman,
    "kubernetes": Kubernetes,
}


def load_bed(name: str) -> ModuleType:
    """Import a bed's script, which has no extension."""
    directory = ROOT / "tests/beds"
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    module_name = f"bed_{name}"
    if module_name not in sys.modules:
        loader = SourceFileLoader(module_name, str(directory / name))
        module = module_from_spec(spec_from_loader(module_name, loader))
        sys.modules[module_name] = module
        loader.exec_module(module)
    return sys.modules[module_name]
