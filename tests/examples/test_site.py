"""examples/site.yml: one playbook, three engines, the same recap; a second run changes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import beds
from support.ansible import Ansible, Result

Env = dict[str, str]

ENGINES = ["runc", "docker", "kubernetes"]
CONTAINERS = ["gangway-web", "gangway-db", "gangway-worker"]
# What a user reads at the end, without the engine's name: {container: (ok, changed)}.
FIRST_RUN = {"web": (25, 15), "db": (6, 3), "worker": (4, 2)}
SECOND_RUN = {name: (ok, 0) for name, (ok, _) in FIRST_RUN.items()}


def runc(env: Env, directory: Path) -> Env:
    """Return what the bed's runc needs of inventory and containers/runc."""
    return {
        "ANSIBLE_RUNC_ROOT": env["GANGWAY_RUNC_ROOT"],
        "ROOTFS": env["GANGWAY_RUNC_BASE"],
        "BUNDLES": str(directory / "bundles"),
    }


def docker(env: Env, directory: Path) -> Env:
    """Return what containers/docker needs where there is no registry."""
    return {"IMAGE": env["GANGWAY_DOCKER_IMAGE"], "DOCKER_RUN_ARGS": "--network=host"}


def kubernetes(env: Env, directory: Path) -> Env:
    """Return what containers/kubernetes needs where there is neither a scheduler nor a registry."""
    kubectl = [env["GANGWAY_KUBECTL"], "--kubeconfig", env["KUBECONFIG"]]
    get = [*kubectl, "get", "pod", env["GANGWAY_KUBE_POD"], "--output=json"]
    pod = json.loads(subprocess.check_output(get, timeout=60))["spec"]
    keys = ["nodeName", "hostNetwork", "automountServiceAccountToken", "enableServiceLinks"]
    spec = {key: pod[key] for key in keys}
    return {
        "IMAGE": pod["containers"][0]["image"],
        "POD_OVERRIDES": json.dumps({"spec": spec}),
    }


SETTINGS: dict[str, Callable[[Env, Path], Env]] = {
    "runc": runc,
    "docker": docker,
    "kubernetes": kubernetes,
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Return the name of an engine's group in the inventory."""
    return str(request.param)


@pytest.fixture
def env(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Env:
    """Return the environment in which the engine's containers are started and entered."""
    bed: Env = request.getfixturevalue(f"bed_{engine}")
    return bed | SETTINGS[engine](bed, tmp_path)


@pytest.fixture
def examples(
    engine: str, env: Env, ansible: Ansible, repository: Path, tmp_path: Path
) -> Iterator[Path]:
    """Return a linked copy of examples/ whose containers do not run, and end them afterwards."""
    copy = tmp_path / "examples"
    leave_out = shutil.ignore_patterns("out", "connection_plugins")
    shutil.copytree(repository / "examples", copy, ignore=leave_out)
    link = ansible.run("gangway", "link", "--playbook-dir", copy)
    assert link.rc == 0, link

    def stop_containers() -> None:
        for name in CONTAINERS:
            stop = [copy / "containers" / engine, "stop", name]
            subprocess.run(stop, env=beds.environment(env), check=True, timeout=60)

    stop_containers()
    yield copy
    stop_containers()


def counts(result: Result, engine: str) -> dict[str, tuple[int, int]]:
    """Return {container: (ok, changed)}; a host that failed or skipped anything is an error."""
    recap = result.recap
    for host, row in recap.items():
        others = {key: count for key, count in row.items() if key not in ("ok", "changed")}
        assert not any(others.values()), f"{host}: {result}"
    return {
        host.removeprefix(f"{engine}-"): (row["ok"], row["changed"]) for host, row in recap.items()
    }


@pytest.mark.in_turn
@pytest.mark.timeout(600)
def test_site_gives_the_same_recap_on_every_engine(
    engine: str, env: Env, ansible: Ansible, examples: Path
) -> None:
    """Both runs of the unchanged playbook count what they count on the other engines."""
    arguments = ("--inventory", examples / "inventory.yml", "--limit", engine)

    first = ansible.playbook(examples / "site.yml", *arguments, env=env)
    assert first.rc == 0, first
    assert counts(first, engine) == FIRST_RUN, first
    assert "WARNING" not in first.stderr, first

    second = ansible.playbook(examples / "site.yml", *arguments, env=env)
    assert second.rc == 0, second
    assert counts(second, engine) == SECOND_RUN, second


def test_inventory_uses_short_names(ansible: Ansible, repository: Path) -> None:
    """The groups of the example say runc, docker and kubectl, as a user of other plugins would."""
    listed = ansible.run("ansible-inventory", "-i", repository / "examples/inventory.yml", "--list")
    hosts = json.loads(listed.stdout)["_meta"]["hostvars"]
    assert {host: row["ansible_connection"] for host, row in hosts.items()} == {
        f"{engine}-{name}": {"kubernetes": "kubectl"}.get(engine, engine)
        for engine in ENGINES
        for name in ("web", "db")
    }
