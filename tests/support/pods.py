"""Pods with a security context or mounts of their own, which the bed's `pod` does not make."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import beds
from support.targets import Target


@contextmanager
def pod(
    target: Target,
    name: str,
    security: Mapping[str, Any],
    mounts: Mapping[str, Path] | None = None,
) -> Iterator[str]:
    """Run a pod like the bed's `target` for as long as the block runs.

    `security` is its container's securityContext; `mounts` are files of this machine by their
    paths in the container.
    """
    like = json.loads(kubectl(target, "get", "pod", "target", "--output=json"))["spec"]
    keys = ("nodeName", "hostNetwork", "automountServiceAccountToken", "enableServiceLinks")
    files = list((mounts or {}).items())
    container = {
        "name": "main",
        "image": like["containers"][0]["image"],
        "imagePullPolicy": "Never",
        "securityContext": dict(security),
        "volumeMounts": [
            {"name": f"file-{index}", "mountPath": path} for index, (path, _) in enumerate(files)
        ],
    }
    spec = {key: like[key] for key in keys} | {
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
        "volumes": [
            {"name": f"file-{index}", "hostPath": {"path": str(path), "type": "File"}}
            for index, (_, path) in enumerate(files)
        ],
    }
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    beds.call(target.bed, "delete", name)
    try:
        kubectl(target, "create", "--filename=-", stdin=json.dumps(manifest))
        kubectl(target, "wait", "--for=condition=Ready", "--timeout=60s", f"pod/{name}")
        yield name
    finally:
        beds.call(target.bed, "delete", name)


def kubectl(target: Target, *arguments: str, stdin: str = "") -> str:
    """Run the bed's kubectl as its administrator and return its stdout."""
    argv = [target.env["GANGWAY_KUBECTL"], "--kubeconfig", target.env["KUBECONFIG"], *arguments]
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, (argv, done)
    return done.stdout
