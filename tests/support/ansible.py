"""Run Ansible's programs as a user would, and read their recap."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible.release import __version__

from support import beds

IS_NEWEST = __version__.startswith("2.21")  # on older ones less is run
COUNTS = re.compile(r"^(\S+)\s+: (ok=\d+ .*)$", re.MULTILINE)


@dataclass(frozen=True)
class Result:
    """How one program ended. It prints as its whole output, for the messages of failed tests."""

    argv: list[str]
    rc: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"$ {' '.join(self.argv)}\n{self.stdout}\n{self.stderr}\n(status {self.rc})"

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        """The counts of PLAY RECAP by host: {"web": {"ok": 3, "changed": 0, ...}}."""
        return {
            host: {key: int(count) for key, count in (pair.split("=") for pair in pairs.split())}
            for host, pairs in COUNTS.findall(self.stdout)
        }


class Ansible:
    """The Ansible of one virtual environment: the one that runs pytest, unless told otherwise.

    `home` is its HOME, so that neither ~/.ansible nor ~/.docker of the developer takes part.
    """

    def __init__(self, home: Path, bin_dir: Path = Path(sys.executable).parent) -> None:
        self.home = home
        self.bin_dir = bin_dir
        # "2.21": tests may ask for it.
        first = self.run("ansible", "--version").stdout.splitlines()[0]
        self.core = ".".join(re.findall(r"\d+", first)[:2])

    def run(
        self,
        program: str,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        seconds: float = 300,
    ) -> Result:
        """Run a program of the environment; `env` is what a bed returned, or variables to add."""
        full = beds.environment(dict(env or {}))
        full["PATH"] = f"{self.bin_dir}{os.pathsep}{full['PATH']}"
        full |= {"HOME": str(self.home), "LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1"}
        argv = [str(self.bin_dir / program), *map(str, arguments)]
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
            cwd=cwd or self.home,
            env=full,
        )
        try:
            stdout, stderr = process.communicate(timeout=seconds)
        except BaseException as reason:
            process.terminate()  # not kill: Ansible has to end its workers
            try:
                stdout, stderr = process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                stdout, stderr = process.communicate(timeout=30)
            if isinstance(reason, subprocess.TimeoutExpired):
                ended = Result(argv, process.returncode, stdout, stderr)
                pytest.fail(f"not done after {seconds} s:\n{ended}", pytrace=False)
            raise
        return Result(argv, process.returncode, stdout, stderr)

    def playbook(
        self, playbook: Path, *arguments: str | Path, env: Mapping[str, str] | None = None
    ) -> Result:
        """Run `ansible-playbook ARGUMENTS PLAYBOOK`."""
        return self.run("ansible-playbook", *arguments, playbook, env=env)

    def adhoc(
        self,
        host: str,
        connection: str,
        module: str,
        arguments: str = "",
        *options: str | Path,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run one module on one host through `connection`, with no inventory and no settings."""
        module_arguments = ["-a", arguments] if arguments else []
        words = [host, "-i", f"{host},", "-c", connection, "-m", module, *module_arguments]
        return self.run("ansible", *words, *options, env=env)
