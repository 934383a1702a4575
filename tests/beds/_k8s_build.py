"""kube-apiserver, kubelet and kubectl, built from the Go module proxy and kept in the cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import _bed

SOURCE = Path(__file__).resolve().parent / "kubernetes.d"
PROGRAMS = ("kube-apiserver", "kubelet", "kubectl")
SECONDS = 45 * 60  # about 5 minutes on two cores with empty Go caches


def programs() -> Path:
    """Return the directory with the programs; builds them when the cache does not hold them.

    The key is the Kubernetes release and what go.mod and go.sum say.
    """
    key = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        key.update((SOURCE / name).read_bytes())
    target = _bed.cache_dir(f"kubernetes-{version()}-{key.hexdigest()[:12]}")
    with _bed.locked(target / ".lock"):
        if not all(os.access(target / name, os.X_OK) for name in PROGRAMS):
            _build(target)
    return target


def version() -> str:
    """Return the Kubernetes release that go.mod requires, such as `v1.34.4`."""
    found = re.search(r"\bk8s\.io/kubernetes (v\d+\.\d+\.\d+)\b", (SOURCE / "go.mod").read_text())
    if not found:
        raise _bed.BedError(f"{SOURCE / 'go.mod'} does not require k8s.io/kubernetes")
    return found.group(1)


def _build(target: Path) -> None:
    go = shutil.which("go")
    if not go:
        raise _bed.BedError(
            "the Kubernetes bed builds its API server and kubelet with Go, and `go` is not on "
            "PATH; install Go 1.24 or later (https://go.dev/dl)"
        )
    print(f"building Kubernetes {version()} with Go; the first time takes minutes", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=target) as directory:
        built = Path(directory)
        _go_build(go, built)
        for name in PROGRAMS:
            (built / name).replace(target / name)


def _go_build(go: str, output: Path) -> None:
    major, minor, _ = version().lstrip("v").split(".")
    # kubectl cannot parse a server's version that was not set by the linker.
    stamps = {"gitVersion": version(), "gitMajor": major, "gitMinor": minor}
    linked = [f"-X k8s.io/component-base/version.{name}={text}" for name, text in stamps.items()]
    # GOFLAGS, a go.work further up and another toolchain must not decide what is built; an empty
    # GOFLAGS would let a value stored by `go env -w` through.
    env = {**os.environ, "GOFLAGS": "-mod=readonly", "GOWORK": "off", "GOTOOLCHAIN": "local"}
    argv = [go, "build", "-p", "2", "-buildvcs=false", "-o", f"{output}/"]
    argv += ["-ldflags", " ".join(["-s", "-w", *linked]), "tool"]
    try:
        done = subprocess.run(
            argv,
            cwd=SOURCE,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise _bed.BedError(f"building Kubernetes did not end within {SECONDS} s") from None
    if done.returncode != 0:
        said = "\n".join(done.stdout.strip().splitlines()[-10:])
        raise _bed.BedError(f"building Kubernetes with {go} failed:\n{said}")
