"""Containers of the engines that share Docker's command line: `run`, `rm` and four states."""

from __future__ import annotations

import argparse
import subprocess
from typing import Protocol

import _bed
import _images

STATES = ["running", "created", "stopped", "paused"]
# The network is the machine's: no bridge and no packet filter is touched. sudo in the container
# wants its host name known.
OPTIONS = ["--network=host", "--hostname=gangway", "--add-host=gangway:127.0.0.1"]


class Engine(Protocol):
    """Run the engine's command line with these arguments; raise BedError on failure if `check`."""

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Return the finished process."""


def states(engine: Engine) -> dict[str, str]:
    """Return created, running, paused, exited or gone for each container, by name."""
    names = engine("ps", "--all", "--format={{.Names}}").stdout.split()
    if not names:
        return {}
    # `ps` has states too, but each engine has its own words for them.
    show = "--format={{.Name}} {{.State.Status}} {{.State.Pid}}"
    found = {}
    for line in engine("container", "inspect", show, *names).stdout.splitlines():
        name, state, pid = line.lstrip("/").split(" ")
        # Podman has no daemon: it believes in a container whose monitor was killed with it.
        gone = state == "running" and not _bed.start_time(int(pid))
        found[name] = "gone" if gone else state
    return found


def load(engine: Engine, *names: str) -> None:
    """Load the images that the engine does not have in their present version."""
    for name in names:
        known = engine("image", "inspect", "--format={{.Id}}", _images.tag(name), check=False)
        if known.stdout.strip().removeprefix("sha256:") != _images.image_id(name):
            engine("load", "--input", str(_images.archive(name)))


def run(engine: Engine, name: str, image: str, wanted: str = "running", *extra: str) -> None:
    """Make the container `name` anew from `image` and bring it to the state `wanted`."""
    remove(engine, name)
    command = ["create"] if wanted == "created" else ["run", "--detach"]
    engine(*command, "--name", name, *OPTIONS, *extra, _images.tag(image))
    if wanted == "stopped":
        engine("kill", name)
        _bed.wait_until(
            lambda: states(engine).get(name) == "exited", f"the container {name} stops", 20
        )
    elif wanted == "paused":
        engine("pause", name)


def remove(engine: Engine, *names: str) -> None:
    """Remove containers in whatever state they are; it is fine if there are none."""
    known = states(engine)
    for name in names:
        if known.get(name) == "paused":
            engine("unpause", name)
        if known.get(name) in ("running", "paused"):
            engine("kill", name, check=False)  # podman's `rm --force` first waits 10 s for TERM
        if name in known:
            # Podman fails, once, on a container whose monitor was killed.
            again = known[name] == "gone"
            engine("rm", "--force", "--volumes", name, check=not again)
            if again and name in states(engine):
                engine("rm", "--force", "--volumes", name)


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], engine: Engine, images: list[str]
) -> None:
    """Add `run` and `rm`, for tests that need one more container."""
    command = commands.add_parser("run", help="make one more container; options after --")
    command.add_argument("name", type=_bed.container_name)
    command.add_argument("--image", choices=images, default="base")
    command.add_argument("--state", choices=STATES, default="running")
    command.set_defaults(run=lambda a: run(engine, a.name, a.image, a.state, *a.extra))
    command = commands.add_parser("rm", help="end and remove a container")
    command.add_argument("name", type=_bed.container_name)
    command.set_defaults(run=lambda a: remove(engine, a.name))
