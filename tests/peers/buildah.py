"""Buildah, which only peers know, as a target."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import beds
from support.skip import cannot_run
from support.targets import Target

INSTALL_SECONDS = 600


class Buildah(Target):
    """Buildah's working containers, in the storage of the podman bed."""

    engine, bed = "buildah", "podman"

    def __init__(self, env: dict[str, str]) -> None:
        storage = Path(env["GANGWAY_PODMAN"]).parent.parent / "storage.conf"
        super().__init__(env | {"CONTAINERS_STORAGE_CONF": str(storage)})

    @staticmethod
    def install() -> None:
        """Install it where it is missing, as the beds do with what they need."""
        argv = [sys.executable, "-c", "import _bed; _bed.require({'buildah': 'buildah'})"]
        done = subprocess.run(
            argv, cwd=beds.BEDS, capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
        if done.returncode != 0:
            cannot_run(f"buildah cannot be installed: {done.stderr.strip().splitlines()[-1]}")

    def command(self, container: str, *argv: str, stdin: bool = False) -> list[str]:
        """Return a `buildah run` command line."""
        return ["buildah", "run", container, "--", *argv]

    def variables(self, container: str) -> dict[str, Any]:
        """Return the inventory variables of a container."""
        return {"ansible_host": container}

    @contextmanager
    def container(self, name: str, image: str = "base", state: str = "running") -> Iterator[str]:
        """Make a working container for as long as the block runs."""
        self._buildah("from", "--name", name, self.env["GANGWAY_PODMAN_IMAGE"])
        try:
            yield name
        finally:
            self._buildah("rm", name)

    def _buildah(self, *arguments: str) -> None:
        env = beds.environment(self.env)
        done = subprocess.run(
            ["buildah", *arguments], capture_output=True, text=True, timeout=60, env=env
        )
        assert done.returncode == 0, (arguments, done)
