"""The engines as tests see them: sessions on their containers, and the engine's own CLI."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import ansible_gangway
from ansible_gangway import _core
from support import beds

# The ways to a container that the conformance suite takes: one exec of the engine per call, or an
# agent in the container that one exec keeps there.
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


# Seconds that an agent stays after the last play that used it.
PERSIST = 10.0


def agents() -> _core.Agents:
    """Return how sessions of this process get agents."""
    return _core.Agents(
        python=os.fsencode(sys.executable),
        package=os.fsencode(Path(ansible_gangway.__file__).resolve().parent.parent),
        persist=PERSIST,
        play=os.getpid(),
    )


class Watched:
    """A session each of whose calls must have gone through an agent; else the test fails.

    Large files must have a stream of their own; where no Python is, none must have been found.
    """

    def __init__(self, session: _core.Session, has_python: bool) -> None:
        self.session = session
        # The shell of a container without Python may be one that lies (test_hostile.py).
        no_python = ("direct: no Python", "direct: Python could not start")
        self.agent: tuple[str, ...] = ("agent ",) if has_python else no_python

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def exec_command(self, *arguments: Any) -> Any:
        """Make the call, and look at the path it took."""
        result = self.session.exec_command(*arguments)
        path = self.session.path()
        assert path.startswith((*self.agent, "interpreter ")), path
        return result

    def put_file(self, source: bytes, destination: bytes) -> str | None:
        """Make the call, and look at the path it took."""
        size = os.stat(source).st_size if os.path.exists(source) else 0
        note = self.session.put_file(source, destination)
        self._look(size)
        return note

    def fetch_file(self, source: bytes, destination: bytes) -> str | None:
        """Make the call, and look at the path it took."""
        note = self.session.fetch_file(source, destination)
        self._look(os.stat(destination).st_size)
        return note

    def _look(self, size: int) -> None:
        path = self.session.path()
        assert path.startswith("direct: " if size > 1 << 20 else self.agent), path


class Target:
    """The containers of one engine's bed: `target` (Debian), `busybox` and `noshell`."""

    # The name of the connection plugin, and of _core's function.
    engine = ""
    bed = ""

    def __init__(self, env: dict[str, str], path: str = "direct") -> None:
        self.env = env
        self.path = path
        # Of containers that are not made of `base`.
        self.images = {"busybox": "busybox", "noshell": "noshell"}

    @property
    def recipe(self) -> list[Any]:
        """Return the arguments of `target_of`, for a process of its own: JSON can carry them."""
        return [self.engine, self.env, self.path]

    def session(self, container: str = "target", /, **options: Any) -> _core.Session:
        """Open a session on a container of the bed; `options` are _core's."""
        if self.path == "direct":
            return self._open(container, **options)
        session = self._open(container, **{"agents": agents(), **options})
        has_python = self.images.get(container, "base") == "base"
        has_python &= b"PATH" not in options.get("env", {})
        return cast(_core.Session, Watched(session, has_python))

    def _open(self, container: str, /, **options: Any) -> _core.Session:
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
        agent = "true" if self.path == "agent" else "false"
        return self._variables(container) | {
            "ansible_gangway_agent": agent,
            "ansible_gangway_persist": PERSIST,
        }

    def _variables(self, container: str) -> dict[str, Any]:
        raise NotImplementedError

    def run(self, container: str, script: str, stdin: bytes | None = None) -> bytes:
        """Run a shell script through the engine's own CLI, the other witness; return stdout.

        kubectl loses the end of a stream now and then, and exits 0: the last byte shows whether.
        """
        marked = """/bin/sh -c "$1"; r=$?; printf '\\036'; exit $r"""
        words = ("/bin/sh", "-c", marked, "sh", script)
        argv = self.command(container, *words, stdin=stdin is not None)
        done = subprocess.run(
            argv,
            input=b"" if stdin is None else stdin,
            capture_output=True,
            timeout=60,
            env=beds.environment(self.env),
        )
        assert done.returncode == 0, (argv, done)
        assert done.stdout.endswith(b"\x1e"), f"the witness's own output was cut: {argv}"
        return done.stdout[:-1]

    def sum(self, container: str, path: str) -> tuple[int, str]:
        """Return the length and the SHA-256 of a file, both computed in the container."""
        size, digest, _ = self.run(container, f"wc -c <{path}; sha256sum <{path}").split()
        return int(size), digest.decode()

    @contextmanager
    def container(self, name: str, image: str = "base", state: str = "running") -> Iterator[str]:
        """Make one more container for as long as the block runs."""
        verb, remove, flag = self._verbs
        arguments = [name, flag, image] + ([] if state == "running" else ["--state", state])
        beds.call(self.bed, remove, name)
        beds.call(self.bed, verb, *arguments)
        self.images[name] = image
        try:
            yield name
        finally:
            beds.call(self.bed, remove, name)

    _verbs = ("run", "rm", "--image")


class Runc(Target):
    """runc, below the bed's own root."""

    engine = bed = "runc"
    _verbs = ("create", "delete", "--rootfs")

    def _open(self, container: str, /, **options: Any) -> _core.Session:
        root = {"root": os.fsencode(self.env["GANGWAY_RUNC_ROOT"])}
        return _core.runc(container=container.encode(), **{**SHARED, **RUNC, **root, **options})

    def command(self, container: str, *argv: str, stdin: bool = False) -> list[str]:
        """Return a `runc exec` command line."""
        return [*self.client, "exec", container, *argv]

    @property
    def client(self) -> list[str]:
        """Runc below the bed's root."""
        return ["runc", "--root", self.env["GANGWAY_RUNC_ROOT"]]

    def _variables(self, container: str) -> dict[str, Any]:
        return {
            "ansible_connection": "gangway.exec.runc",
            "ansible_host": container,
            "ansible_runc_root": self.env["GANGWAY_RUNC_ROOT"],
        }


class Docker(Target):
    """Docker, through the bed's socket."""

    engine = bed = "docker"

    def __init__(self, env: dict[str, str], path: str = "direct") -> None:
        super().__init__(env, path)
        self._host = f"-H {env['DOCKER_HOST']}".encode()

    def _open(self, container: str, /, **options: Any) -> _core.Session:
        here = {"extra_args": self._host}
        return _core.docker(container=container.encode(), **{**SHARED, **DOCKER, **here, **options})

    def command(self, container: str, *argv: str, stdin: bool = False) -> list[str]:
        """Return a `docker exec` command line."""
        attach = ["-i"] if stdin else []
        return [*self.client, "exec", *attach, container, *argv]

    @property
    def client(self) -> list[str]:
        """Docker's client at the bed's daemon."""
        return ["docker", "-H", self.env["DOCKER_HOST"]]

    def _variables(self, container: str) -> dict[str, Any]:
        return {"ansible_connection": "gangway.exec.docker", "ansible_host": container}


class Podman(Target):
    """Podman, through the bed's wrapper, which leads it to a storage of the bed's own."""

    engine = bed = "podman"

    def _open(self, container: str, /, **options: Any) -> _core.Session:
        here = {"executable": os.fsencode(self.env["GANGWAY_PODMAN"])}
        return _core.podman(container=container.encode(), **{**SHARED, **PODMAN, **here, **options})

    def command(self, container: str, *argv: str, stdin: bool = False) -> list[str]:
        """Return a `podman exec` command line."""
        attach = ["--interactive", "--detach-keys="] if stdin else []
        return [*self.client, "exec", *attach, container, *argv]

    @property
    def client(self) -> list[str]:
        """Podman at the bed's storage."""
        return [self.env["GANGWAY_PODMAN"]]

    def _variables(self, container: str) -> dict[str, Any]:
        return {
            "ansible_connection": "gangway.exec.podman",
            "ansible_host": container,
            "ansible_podman_executable": self.env["GANGWAY_PODMAN"],
        }


class Kubectl(Target):
    """Pods of the bed's cluster, as its administrator."""

    engine, bed = "kubectl", "kubernetes"
    _verbs = ("pod", "delete", "--image")

    def _open(self, container: str, /, **options: Any) -> _core.Session:
        here = {
            "executable": os.fsencode(self.env["GANGWAY_KUBECTL"]),
            "kubeconfig": os.fsencode(self.env["KUBECONFIG"]),
        }
        return _core.kubectl(pod=container.encode(), **{**SHARED, **KUBECTL, **here, **options})

    def command(self, container: str, *argv: str, stdin: bool = False) -> list[str]:
        """Return a `kubectl exec` command line."""
        attach = ["-i"] if stdin else []
        return [*self.client, "exec", *attach, container, "--", *argv]

    @property
    def client(self) -> list[str]:
        """The bed's kubectl as the bed's administrator."""
        return [self.env["GANGWAY_KUBECTL"], "--kubeconfig", self.env["KUBECONFIG"]]

    def _variables(self, container: str) -> dict[str, Any]:
        return {"ansible_connection": "gangway.exec.kubectl", "ansible_host": container}


ENGINES: dict[str, type[Target]] = {
    "runc": Runc,
    "docker": Docker,
    "podman": Podman,
    "kubectl": Kubectl,
}


def target_of(engine: str, env: dict[str, str], path: str) -> Target:
    """Return the target that has this `recipe`."""
    return ENGINES[engine](env, path)
