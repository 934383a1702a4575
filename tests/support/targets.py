"""The engines as tests see them: sessions on their containers, and the engine's own CLI."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ansible_gangway
from ansible_gangway import _core
from support import beds

# The ways to a container that the conformance suite takes: one exec of the engine per call, or an
# agent that is kept in the container.
PATHS = ("direct", "agent")

# What a session is opened with where a test says nothing else.
SHARED: dict[str, Any] = {
    "extra_args": b"",
    "env": {},
    "working_dir": None,
    "timeout": 30.0,
    "shell": b"/bin/sh",
}
RUNC: dict[str, Any] = {"executable": b"runc", "root": None, "user": None}
DOCKER: dict[str, Any] = {"executable": b"docker", "user": None, "privileged": False}
PODMAN: dict[str, Any] = {"user": None}
KUBECTL: dict[str, Any] = dict.fromkeys(
    (
        "container",
        "namespace",
        "kubeconfig",
        "kubeconfig_content",
        "context",
        "server",
        "username",
        "password",
        "token",
        "client_cert",
        "client_key",
        "ca_cert",
        "validate_certs",
    )
) | {"local_env": {}}


def agents() -> _core.Agents:
    """Return how sessions of this process get agents, as the plugins tell it."""
    return _core.Agents(
        python=os.fsencode(sys.executable),
        package=os.fsencode(Path(ansible_gangway.__file__).resolve().parent.parent),
        persist=10.0,
        play=os.getpid(),
    )


class Target:
    """The containers of one engine's bed: `target` (Debian), `busybox` and `noshell`."""

    # The name of the connection plugin, and of _core's function.
    engine = ""
    bed = ""

    def __init__(self, env: dict[str, str], path: str = "direct") -> None:
        self.env = env
        self.path = path

    @property
    def shared(self) -> dict[str, Any]:
        """Return the arguments of a session that say nothing of its engine."""
        return SHARED | ({"agents": agents()} if self.path == "agent" else {})

    @property
    def way(self) -> dict[str, Any]:
        """Return the inventory variables that choose the path."""
        return {"ansible_gangway_agent": self.path == "agent", "ansible_gangway_persist": 10}

    @property
    def recipe(self) -> list[Any]:
        """Return the arguments of `target_of`, for a process of its own: JSON can carry them."""
        return [self.engine, self.env, self.path]

    def session(self, container: str = "target", /, **options: Any) -> _core.Session:
        """Open a session on a container of the bed; `options` are _core's."""
        raise NotImplementedError

    def command(self, container: str, *argv: str, stdin: bool = False) -> list[str]:
        """Return the engine's own command line for an exec, without gangway."""
        raise NotImplementedError

    def cli(self, *argv: str) -> None:
        """Run the engine's own CLI, such as `docker pause NAME`, in its global form."""
        command = [*self.client, *argv]
        done = subprocess.run(
            command, capture_output=True, timeout=60, env=beds.environment(self.env)
        )
        assert done.returncode == 0, (command, done)

    @property
    def client(self) -> list[str]:
        """The engine's client with what leads it to the bed."""
        raise NotImplementedError

    def variables(self, container: str) -> dict[str, Any]:
        """Return the inventory variables that lead Ansible to a container of the bed."""
        raise NotImplementedError

    def run(self, container: str, script: str, stdin: bytes | None = None) -> bytes:
        """Run a shell script through the engine's own CLI, the other witness; return stdout."""
        argv = self.command(container, "/bin/sh", "-c", script, stdin=stdin is not None)
        done = subprocess.run(
            argv,
            input=b"" if stdin is None else stdin,
            capture_output=True,
            timeout=60,
            env=beds.environment(self.env),
        )
        assert done.returncode == 0, (argv, done)
        return done.stdout

    @contextmanager
    def container(self, name: str, image: str = "base", state: str = "running") -> Iterator[str]:
        """Make one more container for as long as the block runs."""
        verb, remove, flag = self._verbs
        arguments = [name, flag, image] + ([] if state == "running" else ["--state", state])
        beds.call(self.bed, remove, name)
        beds.call(self.bed, verb, *arguments)
        try:
            yield name
        finally:
            beds.call(self.bed, remove, name)

    _verbs = ("run", "rm", "--image")


class Runc(Target):
    """runc, below the bed's own root."""

    engine = bed = "runc"
    _verbs = ("create", "delete", "--rootfs")

    def session(self, container: str = "target", /, **options: Any) -> _core.Session:
        """Open a session on a container of the bed."""
        root = {"root": os.fsencode(self.env["GANGWAY_RUNC_ROOT"])}
        return _core.runc(
            container=container.encode(), **{**self.shared, **RUNC, **root, **options}
        )

    def command(self, container: str, *argv: str, stdin: bool = False) -> list[str]:
        """Return a `runc exec` command line."""
        return [*self.client, "exec", container, *argv]

    @property
    def client(self) -> list[str]:
        """Runc below the bed's root."""
        return ["runc", "--root", self.env["GANGWAY_RUNC_ROOT"]]

    def variables(self, container: str) -> dict[str, Any]:
        """Return the inventory variables of a container."""
        return {
            "ansible_connection": "gangway.exec.runc",
            "ansible_host": container,
            "ansible_runc_root": self.env["GANGWAY_RUNC_ROOT"],
            **self.way,
        }


class Docker(Target):
    """Docker, through the bed's socket."""

    engine = bed = "docker"

    def __init__(self, env: dict[str, str], path: str = "direct") -> None:
        super().__init__(env, path)
        self._host = f"-H {env['DOCKER_HOST']}".encode()

    def session(self, container: str = "target", /, **options: Any) -> _core.Session:
        """Open a session on a container of the bed."""
        here = {"extra_args": self._host}
        return _core.docker(
            container=container.encode(), **{**self.shared, **DOCKER, **here, **options}
        )

    def command(self, container: str, *argv: str, stdin: bool = False) -> list[str]:
        """Return a `docker exec` command line."""
        attach = ["-i"] if stdin else []
        return [*self.client, "exec", *attach, container, *argv]

    @property
    def client(self) -> list[str]:
        """Docker's client at the bed's daemon."""
        return ["docker", "-H", self.env["DOCKER_HOST"]]

    def variables(self, container: str) -> dict[str, Any]:
        """Return the inventory variables of a container."""
        connection = {"ansible_connection": "gangway.exec.docker", "ansible_host": container}
        return connection | self.way


class Podman(Target):
    """Podman, through the bed's wrapper, which leads it to a storage of the bed's own."""

    engine = bed = "podman"

    def session(self, container: str = "target", **options: Any) -> _core.Session:
        """Open a session on a container of the bed."""
        here = {"executable": os.fsencode(self.env["GANGWAY_PODMAN"])}
        return _core.podman(
            container=container.encode(), **{**self.shared, **PODMAN, **here, **options}
        )

    def command(self, container: str, *argv: str, stdin: bool = False) -> list[str]:
        """Return a `podman exec` command line."""
        attach = ["--interactive", "--detach-keys="] if stdin else []
        return [*self.client, "exec", *attach, container, *argv]

    @property
    def client(self) -> list[str]:
        """Podman at the bed's storage."""
        return [self.env["GANGWAY_PODMAN"]]

    def variables(self, container: str) -> dict[str, Any]:
        """Return the inventory variables of a container."""
        return {
            "ansible_connection": "gangway.exec.podman",
            "ansible_host": container,
            "ansible_podman_executable": self.env["GANGWAY_PODMAN"],
            **self.way,
        }


class Kubectl(Target):
    """Pods of the bed's cluster, as its administrator."""

    engine, bed = "kubectl", "kubernetes"
    _verbs = ("pod", "delete", "--image")

    def session(self, container: str = "target", /, **options: Any) -> _core.Session:
        """Open a session on a pod of the bed."""
        here = {
            "executable": os.fsencode(self.env["GANGWAY_KUBECTL"]),
            "kubeconfig": os.fsencode(self.env["KUBECONFIG"]),
        }
        return _core.kubectl(
            pod=container.encode(), **{**self.shared, **KUBECTL, **here, **options}
        )

    def command(self, container: str, *argv: str, stdin: bool = False) -> list[str]:
        """Return a `kubectl exec` command line."""
        attach = ["-i"] if stdin else []
        return [*self.client, "exec", *attach, container, "--", *argv]

    @property
    def client(self) -> list[str]:
        """The bed's kubectl as the bed's administrator."""
        return [self.env["GANGWAY_KUBECTL"], "--kubeconfig", self.env["KUBECONFIG"]]

    def variables(self, container: str) -> dict[str, Any]:
        """Return the inventory variables of a pod."""
        connection = {"ansible_connection": "gangway.exec.kubectl", "ansible_host": container}
        return connection | self.way


ENGINES: dict[str, type[Target]] = {
    "runc": Runc,
    "docker": Docker,
    "podman": Podman,
    "kubectl": Kubectl,
}


def target_of(engine: str, env: dict[str, str], path: str) -> Target:
    """Return the target that has this `recipe`."""
    return ENGINES[engine](env, path)
