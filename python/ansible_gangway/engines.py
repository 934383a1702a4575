"""What `gangway doctor` asks each engine, through the client that the plugins would use.

Of the plugins' settings it knows those that come from the environment; an inventory has its own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from typing import Any

from ansible_gangway.probe import Finding, run, without_secrets

# The variables of kubectl's options that may stand on a command line, which others can read.
KUBECTL_FLAGS = {
    "K8S_AUTH_KUBECONFIG": "--kubeconfig",
    "K8S_AUTH_CONTEXT": "--context",
    "K8S_AUTH_NAMESPACE": "--namespace",
    "K8S_AUTH_HOST": "--server",
    "K8S_AUTH_SERVER": "--server",
    "K8S_AUTH_CERT_FILE": "--client-certificate",
    "K8S_AUTH_KEY_FILE": "--client-key",
    "K8S_AUTH_SSL_CA_CERT": "--certificate-authority",
}
KUBECTL_SECRETS = ("K8S_AUTH_TOKEN", "K8S_AUTH_API_KEY", "K8S_AUTH_PASSWORD")


def runc() -> Finding:
    """Whether runc is there, and the containers in its directory."""
    client = _client("runc")
    if isinstance(client, Finding):
        return client
    version = run([client, "--version"])
    if not version.ok:
        return Finding("runc", "problem", f"{client}: {version.reason}")
    number = version.stdout.partition("\n")[0].removeprefix("runc version ")
    text = f"{number or 'of unknown version'} ({client})"
    root = os.environ.get("ANSIBLE_RUNC_ROOT") or _runc_default_root()
    text += f", root {root}"
    if not os.path.isdir(root):
        return Finding("runc", "ok", f"{text}: no containers yet")
    listing = run([client, "--root", root, "list", "--format", "json"])
    if not listing.ok:
        return Finding(
            "runc",
            "problem",
            f"{text}: {listing.reason}",
            "Run Ansible as the user who started the containers, for most root, or name the "
            "directory of their state with ansible_runc_root.",
        )
    return Finding("runc", "ok", f"{text}: {_containers(listing.stdout, 'status')}")


def docker() -> Finding:
    """Whether the Docker client is there, and reaches its daemon."""
    client = _client("docker")
    if isinstance(client, Finding):
        return client
    answer = run([client, "version", "--format", "{{json .}}"])
    versions = _json(answer.stdout)
    text = f"{_version(versions, 'Client')} ({client})"
    context = run(
        [client, "context", "inspect", "--format", "{{.Name}} at {{.Endpoints.docker.Host}}"]
    )
    if context.ok:
        text += f", context {without_secrets(context.stdout.strip())}"
    if os.environ.get("DOCKER_HOST"):
        text += f", DOCKER_HOST {without_secrets(os.environ['DOCKER_HOST'])}"
    if answer.ok:
        return Finding("docker", "ok", f"{text}: daemon {_version(versions, 'Server')}")
    return Finding(
        "docker",
        "problem",
        f"{text}: {answer.reason}",
        "Start the daemon, or say where it is with DOCKER_HOST or DOCKER_CONTEXT; its socket must "
        "be open to the user who runs Ansible.",
    )


def podman() -> Finding:
    """Whether Podman is there, and the containers that this user has."""
    client = _client("podman")
    if isinstance(client, Finding):
        return client
    version = run([client, "version", "--format", "{{json .}}"])
    text = f"{_version(_json(version.stdout), 'Client')} ({client})"
    for name in ("CONTAINER_HOST", "CONTAINER_CONNECTION"):
        if os.environ.get(name):
            text += f", {name} {without_secrets(os.environ[name])}"
    listing = run([client, "ps", "--all", "--format", "json"])
    if not listing.ok:
        return Finding(
            "podman",
            "problem",
            f"{text}: {listing.reason}",
            "Run Ansible as the user who started the containers; a service elsewhere has to run "
            "where CONTAINER_HOST or CONTAINER_CONNECTION says.",
        )
    return Finding("podman", "ok", f"{text}: {_containers(listing.stdout, 'State')}")


def kubectl() -> Finding:
    """Whether kubectl is there, reaches the API server, and may enter pods."""
    client = _client("kubectl")
    if isinstance(client, Finding):
        return client
    version = run([client, "version", "--client", "--output", "json"])
    text = f"{_version(_json(version.stdout), 'clientVersion', 'gitVersion')} ({client})"
    flags = [f"{KUBECTL_FLAGS[n]}={v}" for n, v in os.environ.items() if n in KUBECTL_FLAGS and v]
    context = run([client, *flags, "config", "current-context"])
    if context.ok:
        text += f", context {os.environ.get('K8S_AUTH_CONTEXT') or context.stdout.strip()}"
    for name in KUBECTL_SECRETS:
        if os.environ.get(name):
            text += f", asked without {name}"
    server = run([client, *flags, "version", "--output", "json"])
    if not server.ok:
        return Finding(
            "kubectl",
            "problem",
            f"{text}: {server.reason}",
            "Check the context and the server in the kubeconfig (KUBECONFIG, or "
            "ansible_kubectl_kubeconfig and ansible_kubectl_context).",
        )
    text += f": server {_version(_json(server.stdout), 'serverVersion', 'gitVersion')}"
    allowed = run([client, *flags, "auth", "can-i", "create", "pods/exec"])
    answer = allowed.stdout.strip() or allowed.reason
    if answer == "yes":
        return Finding("kubectl", "ok", f"{text}, may create pods/exec")
    return Finding(
        "kubectl",
        "problem",
        f"{text}, may not create pods/exec in this namespace ({answer})",
        "Have a role with the verb create on pods/exec bound to this user, or choose another "
        "namespace.",
    )


def _client(engine: str) -> str | Finding:
    """Return the path of an engine's client, or the finding that there is none."""
    variable = f"ANSIBLE_{engine.upper()}_EXECUTABLE"
    name = os.path.expanduser(os.environ.get(variable) or engine)
    path = shutil.which(name)
    if path:
        return path
    return Finding(
        engine,
        "absent",
        f"no {name} in PATH" if os.sep not in name else f"no program {name}",
        f"If you have {engine} containers, install {engine} or name its path with "
        f"ansible_{engine}_executable.",
    )


def _runc_default_root() -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return f"{runtime}/runc" if runtime and os.geteuid() != 0 else "/run/runc"


def _containers(listing: str, key: str) -> str:
    """Count the containers of a listing in JSON by their state."""
    states = Counter(str(container.get(key)) for container in _json(listing) or [])
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return counts or "no containers"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _version(versions: Any, part: str, key: str = "Version") -> str:
    try:
        return str(versions[part][key])
    except (KeyError, TypeError):
        # Not all clients print all parts: without a daemon there is no server.
        return "of unknown version"


PROBES = {"runc": runc, "docker": docker, "podman": podman, "kubectl": kubectl}
