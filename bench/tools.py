"""How a contender is told to do a piece of work: its command line, environment and files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import environments
from contenders import Contender
from engines import CONTAINER, PYTHON, ROOT, CannotStart, Engine
from works import DIRECTORY, HERE, Work

# Of the caller's environment. A PYTHONDONTWRITEBYTECODE, say, would double Ansible's start.
KEPT = ("PATH", "LANG", "TERM", "TMPDIR", "USER", "LOGNAME")


@dataclass(frozen=True)
class Job:
    """A command to time, in an empty directory. Its programs lie below `programs`."""

    argv: list[str]
    env: dict[str, str]
    cwd: Path
    programs: Path

    @property
    def figures(self) -> Path:
        """Return the file in which the callback plugin writes."""
        return self.cwd / "figures.json"


@dataclass(frozen=True)
class Place:
    """Where files are written: `base` for all runs, `facts` is the oracle's answer to setup.

    `runtime` holds a broker's socket, whose path may not be long; nobody else's broker is there.
    """

    base: Path
    facts: Path
    runtime: Path

    def directory(self, contender: Contender, work: str) -> Path:
        """Return an empty directory for a run, the one before it is gone."""
        path = self.base / f"{work}-{contender.name}".replace(" ", "-").replace("@", "")
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path


def environment(
    contender: Contender, engine: Engine | None, cwd: Path, place: Place
) -> dict[str, str]:
    """Return the environment of a run: nothing of the user's own settings takes part."""
    env = {key: os.environ[key] for key in KEPT if key in os.environ}
    if engine:
        env |= engine.bed_env | {"PATH": engine.env["PATH"]}
    bin_directory = environments.python(contender.environment).parent
    env["PATH"] = f"{bin_directory}{os.pathsep}{env['PATH']}"
    env |= {
        "HOME": str(cwd),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_HOME": str(cwd / ".ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "plugins/callback"),
        "ANSIBLE_CALLBACKS_ENABLED": "bench_tasks",
        "BENCH_TASKS": str(cwd / "figures.json"),
        "BENCH_FACTS": str(place.facts),
        "XDG_RUNTIME_DIR": str(place.runtime),
    }
    if contender.connection == "oracle":
        env["ANSIBLE_CONNECTION_PLUGINS"] = str(HERE / "plugins/connection")
    if contender.linked:
        collection = environments.site_packages(contender.environment) / "ansible_collections"
        plugins = collection / "gangway/exec/plugins/connection"
        env["ANSIBLE_CONNECTION_PLUGINS"] = str(plugins)
    if contender.environment == "mitogen":
        package = environments.site_packages("mitogen") / "ansible_mitogen"
        env["ANSIBLE_STRATEGY_PLUGINS"] = str(package / "plugins/strategy")
    return env | contender.settings


def variables(contender: Contender, engine: Engine | None, container: str) -> dict[str, Any]:
    """Return the inventory variables of a host."""
    base = engine.variables(container) if engine else {"ansible_python_interpreter": PYTHON}
    return base | {"ansible_connection": contender.connection}


def play(
    contender: Contender,
    engine: Engine | None,
    place: Place,
    name: str,
    tasks: list[dict[str, Any]],
    *,
    run: str = "run",
    containers: list[str] | None = None,
    forks: int = 5,
    settings: dict[str, str] | None = None,
) -> Job:
    """Return a run of ansible-playbook with these tasks, on one or several containers."""
    cwd = place.directory(contender, name)
    containers = containers or [CONTAINER]
    hosts = {host: variables(contender, engine, host) for host in containers}
    (cwd / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    plays = [{"hosts": "all", "gather_facts": False, "vars": {"run": run}, "tasks": tasks}]
    (cwd / "play.json").write_text(json.dumps(plays))
    argv = ["ansible-playbook", "-i", "inventory.json", "--forks", str(forks), "play.json"]
    env = environment(contender, engine, cwd, place) | (settings or {})
    return Job(argv, env, cwd, environments.directory(contender.environment))


def adhoc(
    contender: Contender, engine: Engine | None, place: Place, name: str, container: str
) -> Job:
    """Return `ansible -m ping`."""
    job = play(contender, engine, place, name, [], containers=[container])
    argv = ["ansible", "all", "-i", "inventory.json", "-m", "ansible.builtin.ping"]
    return replace(job, argv=argv)


def pyinfra(
    contender: Contender, engine: Engine, place: Place, work: str, count: int, run: str
) -> Job:
    """Return the same as pyinfra operations."""
    cwd = place.directory(contender, work)
    lines = ["from io import StringIO", "from pyinfra.operations import files, server"]
    if work == "raw":
        lines += [f'server.shell(name="command {i}", commands=["true"])' for i in range(count)]
    elif work == "copy":
        lines += [
            f'files.put(src=StringIO("{run} {i}\\n"), dest="{DIRECTORY}/{run}-{i}")'
            for i in range(count)
        ]
    elif work != "empty":
        raise ValueError(f"pyinfra has no {work}")
    (cwd / "deploy.py").write_text("\n".join(lines) + "\n")
    argv = ["pyinfra", "-y", f"@docker/{CONTAINER}", "deploy.py"]
    env = environment(contender, engine, cwd, place)
    return Job(argv, env, cwd, environments.directory(contender.environment))


SITE = ("gangway-web", "gangway-db", "gangway-worker")


def site(contender: Contender, engine: Engine, place: Place, name: str) -> Job:
    """Return examples/site.yml, in a copy of its own, with the contender's plugin."""
    cwd = place.directory(contender, name)
    leave_out = shutil.ignore_patterns("out", "connection_plugins")
    shutil.copytree(ROOT / "examples", cwd / "examples", ignore=leave_out)
    # Addresses are plain words: Mitogen takes them unexpanded.
    hosts = {
        role: {
            f"{engine.bed}-{role}": variables(contender, engine, f"gangway-{role}")
            | {"container": f"gangway-{role}", "engine": engine.bed}
        }
        for role in ("web", "db", "worker")
    }
    # The worker's variables are known from the start; it is in no group until the play adds it.
    inventory: dict[str, Any] = {role: {"hosts": hosts[role]} for role in ("web", "db")}
    inventory |= {"worker": {}, "later": {"hosts": hosts["worker"]}}
    inventory |= {bed: {} for bed in ("runc", "docker", "kubernetes")}
    inventory[engine.bed] = {"hosts": {f"{engine.bed}-web": {}, f"{engine.bed}-db": {}}}
    (cwd / "inventory.json").write_text(json.dumps(inventory))
    argv = ["ansible-playbook", "-i", "inventory.json", "examples/site.yml"]
    env = environment(contender, engine, cwd, place) | site_settings(engine, cwd)
    return Job(argv, env, cwd, environments.directory(contender.environment))


def site_settings(engine: Engine, cwd: Path) -> dict[str, str]:
    """Return what examples/containers/ENGINE needs on a machine without a registry."""
    if engine.bed == "runc":
        bed = engine.bed_env
        return {
            "ANSIBLE_RUNC_ROOT": bed["GANGWAY_RUNC_ROOT"],
            "ROOTFS": bed["GANGWAY_RUNC_BASE"],
            "BUNDLES": str(cwd / "bundles"),
        }
    if engine.bed == "docker":
        image = engine.bed_env["GANGWAY_DOCKER_IMAGE"]
        return {"IMAGE": image, "DOCKER_RUN_ARGS": "--network=host"}
    get = [engine.program, "get", "pod", engine.bed_env["GANGWAY_KUBE_POD"], "--output=json"]
    pod = json.loads(subprocess.check_output(get, env=engine.env, timeout=60))["spec"]
    keys = ["nodeName", "hostNetwork", "automountServiceAccountToken", "enableServiceLinks"]
    spec = {"spec": {key: pod[key] for key in keys}}
    return {"IMAGE": pod["containers"][0]["image"], "POD_OVERRIDES": json.dumps(spec)}


def stop_site(engine: Engine, job: Job) -> None:
    """End the example's containers; none is fine too."""
    for name in SITE:
        stop = [str(job.cwd / "examples/containers" / engine.bed), "stop", name]
        done = subprocess.run(
            stop, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=job.env, timeout=60
        )
        if done.returncode != 0:
            raise CannotStart(f"{engine.bed}: the container {name} does not stop: {done.stderr}")


def job(
    contender: Contender,
    engine: Engine | None,
    place: Place,
    work: Work,
    count: int,
    run: str,
    container: str,
) -> Job:
    """Return the job for a row of the table: `count` units, called `run` in their files."""
    if contender.tool == "pyinfra":
        assert engine
        return pyinfra(contender, engine, place, work.name, count, run)
    if work.how == "adhoc":
        return adhoc(contender, engine, place, work.name, container)
    if work.how == "site":
        assert engine
        return site(contender, engine, place, work.name)
    tasks = work.tasks(count, run)
    return play(contender, engine, place, work.name, tasks, run=run, containers=[container])
