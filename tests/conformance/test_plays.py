"""Whole plays through ansible-core: what a connection must be, and how bad input ends in a play."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import beds, inventory, processes
from support.ansible import Ansible, Result
from support.pods import pod
from support.targets import Target

PLAYS = Path(__file__).parent / "plays"
# In each container with another content.
SAME = f"/tmp/gangway-same-{os.getpid()}"
ENDS = re.compile(r"^fatal: \[(.+)\]: (UNREACHABLE|FAILED)! => (\{.*\})$", re.MULTILINE)


def play(ansible: Ansible, target: Target, name: str, hosts: Path, **variables: object) -> Result:
    """Run a playbook of this directory; `variables` are for all hosts."""
    more = ("--extra-vars", json.dumps(variables)) if variables else ()
    return ansible.playbook(PLAYS / f"{name}.yml", "-i", hosts, *more, env=target.env)


@pytest.fixture(scope="module")
def second(target: Target) -> Iterator[str]:
    """Return one more container, beside `target`."""
    with target.container(f"gangway-second-{os.getpid()}") as name:
        yield name


@pytest.mark.without_agents
def test_failures(target: Target, ansible: Ansible, tmp_path: Path) -> None:
    """A path that failed is UNREACHABLE, a step that failed is FAILED; one sentence says why."""
    prefix = f"ansible_{target.engine}"
    with ExitStack() as stack:
        mute = stack.enter_context(target.container(f"gangway-mute-{os.getpid()}", "noshell"))
        broken = {
            "missing": (target.variables("no-such"), "UNREACHABLE", "does not exist"),
            "client": (
                target.variables("target") | {f"{prefix}_executable": "/no/such"},
                "UNREACHABLE",
                'the executable "/no/such" was not found',
            ),
            "noshell": (target.variables(mute), "FAILED", 'has no usable shell "/bin/sh"'),
            "quote": (
                target.variables("target") | {f"{prefix}_extra_args": "--flag 'open"},
                "FAILED",
                f"{target.engine}_extra_args cannot be used: it has an unclosed quote",
            ),
        }
        if target.engine == "kubectl":
            still = "done"
        else:
            name = f"gangway-still-{os.getpid()}"
            still = stack.enter_context(target.container(name, "busybox", "stopped"))
            nobody = target.variables("target") | {"ansible_user": "no-such"}
            broken["user"] = (nobody, "UNREACHABLE", 'the user "no-such" cannot be used')
        broken["still"] = (target.variables(still), "UNREACHABLE", "not running")
        bare = target.variables("busybox") | {"ansible_python_interpreter": "auto_silent"}
        hosts = {host: variables for host, (variables, _, _) in broken.items()}
        file = inventory.write(tmp_path / "hosts.json", broken=hosts, bare={"busybox": bare})
        result = play(ansible, target, "failures", file)
    output = result.stdout + result.stderr
    assert "Traceback" not in output
    assert result.recap["busybox"]["failed"] == 0, str(result)
    ends = {host: (how, json.loads(text)) for host, how, text in ENDS.findall(result.stdout)}
    for host, (variables, how, why) in broken.items():
        assert result.recap[host] | {"skipped": 0} == {
            **dict.fromkeys(("ok", "changed", "skipped", "rescued", "ignored"), 0),
            "unreachable": int(how == "UNREACHABLE"),
            "failed": int(how == "FAILED"),
        }, str(result)
        assert ends[host][0] == how
        sentence = ends[host][1]["msg"].removeprefix("Task failed: ")
        noun = "pod" if target.engine == "kubectl" else f"{target.engine} container"
        container = f'{noun} "{variables["ansible_host"]}"'
        assert sentence.startswith(container) and sentence.count(container) == 1, str(result)
        assert why in sentence, str(result)
        assert sentence.isprintable() and output.count(sentence) <= 1, str(result)


def counted(target: Target, directory: Path, name: str) -> dict[str, Any]:
    """Return variables that lead to `target` through a client that counts its execs in a file."""
    client = {
        "kubectl": target.env.get("GANGWAY_KUBECTL"),
        "podman": target.env.get("GANGWAY_PODMAN"),
    }.get(target.engine, target.engine)
    count, program = directory / f"{name}.count", directory / f"{name} client"
    program.write_text(
        '#!/bin/sh\nfor word in "$@"; do if [ "$word" = exec ]; then\n'
        f'printf x >>"{count}"; break; fi; done\nexec {client} "$@"\n'
    )
    program.chmod(0o755)
    return {"count": count, f"ansible_{target.engine}_executable": program}


def test_standard(target: Target, ansible: Ansible, tmp_path: Path) -> None:
    """What ansible-core's own suite expects of a connection, with and without pipelining."""
    lines = ["[ways]"]
    # In an ini file `false` is a string.
    for host, more in (("default", {}), ("plain", {"ansible_pipelining": "false"})):
        one_exec = str(target.path == "agent" or not more)
        variables = counted(target, tmp_path, host) | {"one_exec": one_exec} | more
        words = " ".join(f"{key}='{value}'" for key, value in variables.items())
        lines.append(f"{host} {words}")
    common = inventory.PYTHON | target.variables("target")
    lines += ["[ways:vars]", *(f"{key}={value}" for key, value in common.items())]
    (tmp_path / "hosts.ini").write_text("\n".join(lines) + "\n")
    place = f"/tmp/gangway-standard-{os.getpid()}"
    inventory_file, out = tmp_path / "hosts.ini", str(tmp_path / "out")
    result = play(ansible, target, "standard", inventory_file, out=out, place=place)
    assert result.rc == 0, str(result)
    assert set(result.recap) == {"default", "plain"}
    assert "WARNING" not in result.stdout + result.stderr, str(result)

    words = ("ways", "-i", tmp_path / "hosts.ini", "-m", "set_fact", "-a", "testing=value", "-v")
    fact = ansible.run("ansible", *words, env=target.env)
    assert fact.rc == 0 and fact.stdout.count('"testing": "value"') == 2, str(fact)
    assert "ansible_host" not in fact.stdout + fact.stderr, str(fact)


NAMES = ["汉语 x;touch INJECTED", '$(touch INJECTED)`touch INJECTED`\nit\'s "2"', "-rf"]


def test_files(target: Target, ansible: Ansible, second: str, tmp_path: Path) -> None:
    """Names are names, and only the local files that a task names are touched."""
    mine, out = tmp_path / "mine", tmp_path / "out"
    mine.mkdir()
    out.mkdir()
    (out / "passwd").write_text("precious")
    (out / Path(SAME).name).write_text("precious")
    (mine / "large").write_bytes(os.urandom(3 << 20))
    for name in NAMES:
        (mine / name).write_text(f"in {name}")
    same = {"one": os.urandom(300_000), "two": os.urandom(300_000)}
    for container, content in (("target", same["one"]), (second, same["two"])):
        target.run(container, f"cat >{SAME}", content)
    hosts = {"one": target.variables("target"), "two": target.variables(second)}
    theirs = f"/tmp/gangway-plays-{os.getpid()}"
    try:
        result = play(
            ansible,
            target,
            "files",
            inventory.write(tmp_path / "hosts.json", all=hosts),
            names=NAMES,
            mine=str(mine),
            out=str(out),
            theirs=theirs,
            same=SAME,
        )
    finally:
        target.run("target", f"rm -rf {theirs} {SAME}")
    assert result.rc == 0, str(result)
    assert "Traceback" not in result.stdout + result.stderr
    expected = {name: f"in {name}".encode() for name in NAMES}
    expected |= {f"{host}-{n}": content for host, content in same.items() for n in (1, 2)}
    expected |= {"other": target.run("target", "cat /etc/passwd")}
    expected |= dict.fromkeys(("passwd", Path(SAME).name), b"precious")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == expected
    assert sorted(file.name for file in mine.iterdir()) == sorted([*NAMES, "large"])
    assert target.run(second, "ls -A /dev/shm; rm /dev/shm/*") == b"filler\n"
    everywhere = target.run("target", "ls / /root /tmp; cat /proc/1/cwd/INJECTED || true")
    assert b"INJECTED" not in everywhere


def test_tasks(target: Target, ansible: Ansible, second: str, tmp_path: Path) -> None:
    """timeout, async, environment and delegate_to do what they say."""
    nap = f"sleep 900.{os.getpid()}"
    for container, word in (("target", b"one"), (second, b"two")):
        target.run(container, f"cat >{SAME}", word)
    hosts = {"one": target.variables("target"), "two": target.variables(second)}
    file = inventory.write(tmp_path / "hosts.json", all=hosts)
    result = play(ansible, target, "tasks", file, nap=nap, same=SAME)
    assert result.rc == 0, str(result)
    processes.wait_until_gone(target, "target", nap)
    # It would be seen.
    target.run("target", f"{nap} >/dev/null 2>&1 &")
    pids = processes.running(target, "target", nap)
    target.run("target", f"kill {' '.join(pids)}; rm {SAME}")
    assert len(pids) == 1


def test_between_two_tasks(target: Target, ansible: Ansible, tmp_path: Path) -> None:
    """A container made anew passes silently; one that is paused or gone is UNREACHABLE, and why."""
    verb, remove, flag = target._verbs
    with target.container(f"gangway-between-{os.getpid()}") as name:
        # Ansible's own HOME is another one, where the bed would look for its cache.
        bed = ["env", f"HOME={os.environ['HOME']}", str(beds.BEDS / target.bed)]
        pause = [] if target.engine == "kubectl" else [*target.client, "pause", name]
        again = [[*bed, remove, name], [*bed, verb, name, flag, "base"]]
        commands = {
            "again": list(map(shlex.join, again)),
            "pause": shlex.join(pause),
            "remove": shlex.join(again[0]),
        }
        here = target.variables(name)
        plain = here | {"ansible_pipelining": False}
        groups = {"pipelined": {"one": here}, "plain": {"two": plain}}
        file = inventory.write(tmp_path / "hosts.json", **groups)
        result = play(ansible, target, "between", file, **commands)
    assert result.rc == 0, str(result)
    assert "Traceback" not in result.stdout + result.stderr, str(result)


def test_a_read_only_root(target: Target, ansible: Ansible, tmp_path: Path) -> None:
    """A container with no place for temporary files: the failure names what to set."""
    with read_only(target) as name:
        bare = target.variables(name)
        remedied = bare | {"ansible_remote_tmp": "/dev/shm/ansible"}
        hosts = {"bare": {"host": bare}, "remedied": {"other": remedied}}
        file = inventory.write(tmp_path / "hosts.json", **hosts)
        by_agent = target.path == "agent"
        result = play(ansible, target, "read_only", file, by_agent=by_agent)
    assert result.rc == 0, str(result)
    if by_agent:
        return
    warning = "has no writable temporary directory: set ansible_remote_tmp, and TMPDIR in the task"
    assert warning in " ".join((result.stdout + result.stderr).split()), str(result)


@contextmanager
def read_only(target: Target) -> Iterator[str]:
    """Make a container whose root is read-only, and which has a writable /dev/shm."""
    name = f"gangway-read-only-{os.getpid()}"
    if target.engine == "kubectl":
        with pod(target, name, {"readOnlyRootFilesystem": True}):
            yield name
        return
    make, remove, options = {
        "runc": ("create", "delete", ["--readonly"]),
        "docker": ("run", "rm", ["--", "--read-only"]),
        "podman": ("run", "rm", ["--", "--read-only", "--read-only-tmpfs=false"]),
    }[target.engine]
    beds.call(target.bed, make, name, *options)
    try:
        yield name
    finally:
        beds.call(target.bed, remove, name)
