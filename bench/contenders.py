"""Who takes part: one line each. A new way into a container, or a new peer, is one line more here.

`pace` says how many tasks a run of it has (works.py): fast ones get 100, slow ones fewer, because
a round is to take minutes, and fewer rounds. `plain` is for peers as they are by default, without
pipelining.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace

# What is installed, exactly. Everyone has the same ansible-core. The collections are taken out of
# the package `ansible`: with all hundred of them Ansible's start would take twice as long.
if sys.version_info >= (3, 12):
    ANSIBLE_CORE, ANSIBLE = "ansible-core==2.21.5", "ansible==14.5.0"
else:
    ANSIBLE_CORE, ANSIBLE = "ansible-core==2.19.14", "ansible==12.3.0"

GANGWAY = "gangway"  # ansible-core and the wheel that `make wheel` built
PLAIN = "ansible-core"  # and nothing else
ENVIRONMENTS = {
    PLAIN: [ANSIBLE_CORE],
    GANGWAY: [ANSIBLE_CORE],
    "collections": [ANSIBLE_CORE, "requests==2.34.2"],  # docker_api needs requests
    "mitogen": [ANSIBLE_CORE, "mitogen==0.3.54"],
    "pyinfra": ["pyinfra==3.10.0"],
    "plots": ["matplotlib==3.11.2" if sys.version_info >= (3, 11) else "matplotlib==3.10.9"],
}
COLLECTIONS = [
    *("community.docker", "kubernetes.core", "containers.podman"),
    "community.library_inventory_filtering_v1",  # community.docker needs it
]


@dataclass(frozen=True)
class Contender:
    """One way to get work done in a container.

    `engine` is a test bed, or '' for what needs none. `tool` is what runs: ansible, pyinfra, or
    cli for the engine's own program. `stream` names the program that carries the exec stream,
    where there is one, and `plugin` a file that the wheel may lack.
    """

    name: str
    engine: str
    environment: str = GANGWAY
    tool: str = "ansible"
    pace: str = "pipelined"
    connection: str = ""
    plugin: str = ""
    stream: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    leave_out: frozenset[str] = frozenset()
    # Whether a broker keeps agents for it, which outlive a run.
    keeps: bool = False
    # Whether it goes by a short name, linked: Ansible loads it once, and not in each worker.
    linked: bool = False

    @property
    def ours(self) -> bool:
        """Tell whether this is gangway."""
        return self.name.startswith("gangway")

    @property
    def direct(self) -> bool:
        """Tell whether this is gangway without an agent."""
        return self.ours and not self.keeps


# Rows that take minutes, for those that the other rows show as well.
LONG = frozenset({"role", "site"})


def ours(engine: str, connection: str, stream: str) -> list[Contender]:
    """Return gangway's plugin for an engine: as it is, without an agent, and by its full name."""
    agent = Contender(
        name=f"gangway {connection}",
        engine=engine,
        pace="fast",
        connection=connection,
        plugin=f"{connection}.py",
        stream=stream,
        keeps=True,
        linked=True,
    )
    direct = replace(
        agent,
        name=f"gangway {connection} direct",
        pace="pipelined",
        settings={"ANSIBLE_GANGWAY_AGENT": "false"},
        leave_out=LONG
        | {"template", "stat", "facts", "again", "transfer", "scale", "workers", "kept"},
        keeps=False,
    )
    full_name = replace(
        agent,
        name=f"gangway {connection} full name",
        connection=f"gangway.exec.{connection}",
        leave_out=LONG | {"template", "stat", "facts", "again", "transfer", "scale", "kept"},
        linked=False,
    )
    return [agent, direct, full_name] if connection == "docker" else [agent, direct]


def stock(
    engine: str, connection: str, stream: str, leave_out: frozenset[str] = frozenset()
) -> list[Contender]:
    """Return a collection's plugin twice: by default, and with pipelining switched on."""
    default = Contender(
        name=connection,
        engine=engine,
        environment="collections",
        pace="plain",
        connection=connection,
        stream=stream,
        leave_out=LONG | {"template", "stat", "cold", "again"},
    )
    pipelined = replace(
        default,
        name=f"{connection} pipelined",
        pace="pipelined",
        settings={"ANSIBLE_PIPELINING": "1"},
        leave_out=leave_out,
    )
    return [default, pipelined]


def dd(engine: str, stream: str) -> Contender:
    """Return `dd` through the engine's own exec: what a transfer is compared with."""
    return Contender(name=f"dd through {stream} exec", engine=engine, tool="cli", stream=stream)


CONTENDERS = [
    *ours("runc", "runc", "runc"),
    *ours("docker", "docker", "docker"),
    *ours("kubernetes", "kubectl", "kubectl"),
    *ours("podman", "podman", "podman"),
    *stock("docker", "community.docker.docker", "docker"),
    *stock("docker", "community.docker.docker_api", "", leave_out=LONG),
    *stock("kubernetes", "kubernetes.core.kubectl", "kubectl"),
    *stock("podman", "containers.podman.podman", "podman", leave_out=LONG),
    Contender(
        name="mitogen docker",
        engine="docker",
        environment="mitogen",
        pace="fast",
        # The short name: Mitogen replaces no plugin that is named in full.
        connection="docker",
        stream="docker",
        settings={"ANSIBLE_STRATEGY": "mitogen_linear"},
    ),
    Contender(
        name="local pipelined",
        engine="",
        environment=PLAIN,
        connection="ansible.builtin.local",
        settings={"ANSIBLE_PIPELINING": "1"},
        # They would change this machine, measure its disk, or tell nothing new.
        leave_out=frozenset({"role", "site", "cold", "transfer", "scale"}),
    ),
    Contender(
        name="oracle",
        engine="",
        environment=PLAIN,
        pace="fast",
        connection="oracle",
        leave_out=frozenset({"site", "cold", "transfer"}),
    ),
    Contender(
        name="pyinfra @docker",
        engine="docker",
        environment="pyinfra",
        tool="pyinfra",
        stream="docker",
        leave_out=frozenset(
            {"ping", "template", "stat", "loop", "facts", "cold", "adhoc", "again", "role", "site"}
        ),
    ),
    dd("runc", "runc"),
    dd("docker", "docker"),
    dd("kubernetes", "kubectl"),
    dd("podman", "podman"),
]


def chosen(names: list[str]) -> list[Contender]:
    """Return the contenders that are called so, or whose name contains it; all without `names`."""
    if not names:
        return CONTENDERS
    exact = {c.name for c in CONTENDERS}.intersection(names)
    parts = [name for name in names if name not in exact]
    found = [c for c in CONTENDERS if c.name in exact or any(part in c.name for part in parts)]
    if not found:
        known = ", ".join(c.name for c in CONTENDERS)
        raise SystemExit(f"bench: no contender is called {' or '.join(names)}; there are {known}")
    return found
