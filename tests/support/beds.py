"""Start the test beds in tests/beds and read what they say of themselves."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

BEDS = Path(__file__).parent.parent / "beds"
NAMES = ("runc", "docker", "podman", "kubernetes")
# The first start of all builds Kubernetes, which takes minutes; nothing takes this long.
START_SECONDS = 1800
STOP_SECONDS = 300


class BedError(Exception):
    """The bed did not do it; the text is its own sentence."""


def call(name: str, verb: str, *arguments: str, seconds: float = 120) -> str:
    """Run `tests/beds/NAME VERB ARGUMENTS` and return its stdout."""
    try:
        done = subprocess.run(
            [BEDS / name, verb, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise BedError(f"tests/beds/{name} {verb} did not end within {seconds} s") from None
    if done.returncode != 0:
        raise BedError(done.stderr.strip() or f"tests/beds/{name} {verb} failed and said nothing")
    return done.stdout


def is_started(name: str) -> bool:
    """Tell whether the bed runs already."""
    try:
        call(name, "env")
    except BedError:
        return False
    return True


def start(name: str) -> dict[str, str]:
    """Start the bed, at once if it runs already, and return what its `env` prints."""
    call(name, "start", seconds=START_SECONDS)
    lines = call(name, "env").splitlines()
    return dict(word.split("=", 1) for line in lines for word in shlex.split(line))


def stop(name: str) -> None:
    """Stop the bed and all that is in it."""
    call(name, "stop", seconds=STOP_SECONDS)


def environment(env: dict[str, str]) -> dict[str, str]:
    """Return this process's environment with the bed's, and the bed's kubectl as `kubectl`.

    What would lead a CLI elsewhere (a daemon, a cluster, options of Ansible) is left out of it.
    """
    elsewhere = ("ANSIBLE_", "DOCKER_", "CONTAINER_", "K8S_AUTH_", "KUBECONFIG")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(elsewhere)} | env
    if kubectl := env.get("GANGWAY_KUBECTL"):
        kept["PATH"] = f"{Path(kubectl).parent}{os.pathsep}{kept['PATH']}"
    return kept
