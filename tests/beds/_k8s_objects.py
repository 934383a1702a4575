"""What lives in the Kubernetes bed, as dictionaries for `kubectl apply`: namespaces, roles, pods.

There is no scheduler, no controller manager and no pod network: every pod names its node and uses
the host's network, and the pod of the Deployment is made by hand with the labels it selects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import _images

Object = dict[str, Any]

NODE = "node1"
# What pods can be made of; each runs until it is killed.
IMAGES = ("base", "busybox", "noshell")


def pod(
    name: str,
    images: Mapping[str, str],
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    command: list[str] | None = None,
) -> Object:
    """Return a pod; `images` maps its containers' names to their images.

    With `command` it runs that once, without it what the images say, forever.
    """
    containers: list[Object] = [
        {"name": key, "image": _images.tag(image), "imagePullPolicy": "Never"}
        for key, image in images.items()
    ]
    for container in containers if command else []:
        container["command"] = command
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {"pod": name}},
        "spec": {
            "nodeName": NODE,
            "hostNetwork": True,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "restartPolicy": "Never" if command else "Always",
            "containers": containers,
        },
    }


def pods() -> list[Object]:
    """Return the pods that the bed always has."""
    return [
        pod("target", {"main": "base"}),
        pod("pair", {"one": "base", "two": "base"}),
        pod("busybox", {"main": "busybox"}),
        pod("noshell", {"main": "noshell"}),
        pod("web-1", {"main": "base"}, labels={"app": "web"}),
        pod("target", {"main": "base"}, namespace="other"),
        pod("done", {"main": "busybox"}, command=["true"]),
    ]


def everything() -> list[Object]:
    """Return all objects in an order in which they can be created."""
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}},
        *_role("exec", ["create", "get"], ["exec", "token"]),
        *_role("create-only", ["create"], ["create-only"]),
        _deployment("web", "base"),
        *pods(),
    ]


def full_name(pod: Object) -> str:
    """Return `NAMESPACE/NAME`."""
    return "{namespace}/{name}".format(**pod["metadata"])


def is_up(pod: Object) -> bool:
    """Tell from a pod's status whether it is ready, or has done what it was for."""
    status = pod.get("status", {})
    ready = {"type": "Ready", "status": "True"}.items()
    return status.get("phase") == "Succeeded" or any(
        ready <= condition.items() for condition in status.get("conditions", [])
    )


def trouble(pod: Object) -> str:
    """Return what keeps a pod from being up, as far as its status says."""
    status = pod.get("status", {})
    reasons = [status.get("phase", "no status")]
    for container in status.get("containerStatuses", []):
        for found in container.get("state", {}).values():
            reasons += [found[key] for key in ("reason", "message") if key in found]
    return ", ".join(reasons)


def _deployment(name: str, image: str) -> Object:
    """Return a Deployment; no controller acts upon it, its pod is `web-1`."""
    template = pod(name, {"main": image})
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": template["spec"]},
        },
    }


def _role(name: str, exec_verbs: list[str], users: list[str]) -> list[Object]:
    """Let `users` look at pods and use `exec_verbs` on pods/exec in the namespace default.

    A WebSocket exec asks for `get` (1.35 and later for `create` too), the older SPDY one for
    `create`: with `create` alone kubectl has to fall back.
    """
    api_group = "rbac.authorization.k8s.io"
    metadata = {"name": name, "namespace": "default"}
    return [
        {
            "apiVersion": f"{api_group}/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": [
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
                {"apiGroups": [""], "resources": ["pods/exec"], "verbs": exec_verbs},
            ],
        },
        {
            "apiVersion": f"{api_group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": api_group, "kind": "Role", "name": name},
            "subjects": [{"apiGroup": api_group, "kind": "User", "name": user} for user in users],
        },
    ]
