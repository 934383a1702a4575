"""Two containers made alike: all plays go through both, by the plain path and by another way."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from modules import compare
from modules.compare import Difference
from support import beds, inventory
from support.ansible import Ansible, Result
from support.targets import Target

HERE = Path(__file__).parent
HOSTS = ("one", "other")
KEYWORDS = {
    *("name", "vars", "environment", "check_mode", "diff", "soak", "loop", "register", "timeout"),
    *("async", "poll", "become", "become_user", "become_method", "no_log", "module_defaults"),
}
MOUNTED = "--exclude=etc/hosts --exclude=etc/hostname --exclude=etc/resolv.conf"
SERVER = "http://127.0.0.1:8099"
PLAIN = {"ansible_gangway_agent": False}
# Why a call may leave the agents in any play.
EXPECTED = (
    r"^(put|fetch)_file: direct: .*(1 MiB|files of up to \d+ bytes)"
    # After a task that changed users, groups or the interpreter's packages.
    r"|has changed: a new interpreter is needed$"
)
AGENT = {"ansible_gangway_agent": True}
# A command line that runs a module's file, and is not async_wrapper's, which can end in the same.
OF_A_FILE = re.compile(
    r"(?!.*async_wrapper).*/python[\d.]* /[^'\" ]*/AnsiballZ_\w+\.py['\"]*( && sleep 0['\"]*)?$"
)


@dataclass
class Side:
    """What one host did in one task: how it ended (each item of a loop), and its calls."""

    ended: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)


class Run:
    """What a play did: by the names of task and host."""

    def __init__(self, printed: Result, recorded: Path) -> None:
        self.printed = printed
        self.sides: dict[str, dict[str, Side]] = defaultdict(lambda: defaultdict(Side))
        for text in recorded.read_text().splitlines() if recorded.exists() else ():
            line = json.loads(text)
            side = self.sides[line["task"]][line["host"]]
            if "call" in line:
                side.calls.append(line)
            else:
                side.ended.append((line["ended"], line["result"]))

    def result(self, task: str, host: str = "other") -> dict[str, Any]:
        """Return the only result of a task."""
        ended = self.sides[task][host].ended
        assert len(ended) == 1, (task, host, ended, str(self.printed))
        return ended[0][1]

    def strays(self, host: str = "other") -> dict[str, list[str]]:
        """Return the calls of a host that went another way than its agents, as reason: tasks.

        A module goes to a warm interpreter, all else to an agent.
        """
        found: dict[str, list[str]] = defaultdict(list)
        for task, sides in self.sides.items():
            for call in sides[host].calls:
                if "raised" in call:  # interrupted, or the container cannot be reached
                    continue
                if not call["path"].startswith("interpreter " if is_module(call) else "agent "):
                    reason = re.sub(r"^agent \d+ \(.*?\); ", "", call["path"])
                    found[f"{call['call']}: {reason}"].append(task)
        return dict(found)

    def differences(self, tasks: Mapping[str, str]) -> Iterator[Difference]:
        """Yield each difference between the hosts; `tasks` are the modules by name."""
        for task, module in tasks.items():
            one, other = (self.sides[task][host] for host in HOSTS)
            if not one.ended or not other.ended:
                yield Difference(f"{task}: no result", len(one.ended), len(other.ended))
            both = [[list(ended) for ended in side.ended] for side in (one, other)]
            for index, (left, right) in enumerate(zip(*both, strict=False)):
                where = f"{task}: result {index or ''}"
                if left[0] != right[0]:
                    yield Difference(where, left, right)
                yield from compare.differences(module, left[1], right[1], where=where)
            if len(both[0]) != len(both[1]):
                yield Difference(f"{task}: results", len(both[0]), len(both[1]))
            for found in compare.calls(module, one.calls, other.calls):
                yield Difference(f"{task}: {found.where}", found.one, found.other)


@dataclass
class Twins:
    """Two containers made alike, `one` on the plain path, and `other` as its variables say."""

    target: Target
    ansible: Ansible
    containers: Mapping[str, str]
    directory: Path
    variables: Mapping[str, Mapping[str, Any]]
    since: float
    plays: int = 0

    def play(
        self,
        tasks: Sequence[Mapping[str, Any]],
        *arguments: str,
        env: Mapping[str, str] | None = None,
        keywords: Mapping[str, Any] | None = None,
        beside: Mapping[str, str] | None = None,
        **variables: Any,
    ) -> Run:
        """Run tasks on both; what fails or cannot be reached ends nothing.

        `keywords` are the play's, `beside` are files in the directory of the playbook.
        """
        self.plays += 1
        directory = self.directory / str(self.plays)
        directory.mkdir()
        for name, content in (beside or {}).items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(content)
        hosts = {
            name: self.target.variables(container)
            | {"fetched": f"{self.directory}/fetched/{name}"}
            | self.variables[name]
            | variables
            for name, container in self.containers.items()
        }
        play = {
            "hosts": "all",
            "gather_facts": False,
            "ignore_errors": True,
            "ignore_unreachable": True,
            "strategy": "free",
            **(keywords or {}),
            "tasks": tasks,
        }
        book = directory / "play.json"
        book.write_text(json.dumps([play]))
        full = self.target.env | {
            "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback"),
            "ANSIBLE_STDOUT_CALLBACK": "recorder",
            "ANSIBLE_LIBRARY": str(HERE / "library"),
            "RECORDED": str(directory / "recorded"),
        }
        hosts_file = inventory.write(directory / "hosts.json", all=hosts)
        printed = self.ansible.run(
            "ansible-playbook",
            *("--inventory", hosts_file, "--forks", "2"),
            *arguments,
            book,
            env=full | dict(env or {}),
            seconds=1800,
        )
        (directory / "printed").write_text(str(printed))
        return Run(printed, directory / "recorded")

    def same(
        self,
        tasks: Sequence[Mapping[str, Any]],
        *arguments: str,
        strays: str = EXPECTED,
        **more: Any,
    ) -> Run:
        """Run tasks on both and fail the test where anything is different.

        It also fails where the agents were not used, but for reasons that match `strays`.
        """
        run = self.play(tasks, *arguments, **more)
        named = {task["name"]: module_of(task) for task in tasks if "meta" not in task}
        found = [*run.differences(named), *self.file_differences()]
        (self.directory / str(self.plays) / "differences").write_text("\n".join(map(str, found)))
        fail_for(found)
        if self.variables["other"] == AGENT:
            astray = {k: v for k, v in run.strays().items() if not re.search(strays, k)}
            assert not astray, f"not through the agents: {json.dumps(astray, indent=1)}"
            sides = [sides["other"] for sides in run.sides.values()]
            modules = [call["path"] for side in sides for call in side.calls if is_module(call)]
            warm = [path for path in modules if path.startswith("interpreter ")]
            assert 3 * len(warm) >= len(modules), "most modules left their warm interpreter"
        return run

    def processes(self, host: str) -> list[str]:
        """Return the command lines of a container's processes, sorted; zombies have none."""
        script = "cd /proc; for n in [0-9]*; do tr '\\0' ' ' 2>/dev/null <$n/cmdline && echo; done"
        lines = self.target.run(self.containers[host], script).decode().splitlines()
        ours = "cd /proc;"  # the shell that looks is among them
        return sorted(line for line in lines if line and ours not in line and line[:3] != "tr ")

    def file_differences(self) -> list[Difference]:
        """Return the differences of the file systems, and of what was fetched from them."""
        here = [fetched(self.directory / "fetched" / name) for name in HOSTS]
        there = [self.tree(self.containers[name]) for name in HOSTS]
        return [*compare.trees(*here), *compare.trees(*there)]

    def tree(self, container: str) -> dict[str, Any]:
        """Return the whole file system of a container: see tree.py."""
        script = (HERE / "tree.py").read_bytes()
        command = f"cd /; exec python3 -I - {self.since}"
        entries: dict[str, Any] = json.loads(self.target.run(container, command, script))
        return entries


def is_module(call: Mapping[str, Any]) -> bool:
    """Tell whether a call runs a module: by its text, or by the name of its file."""
    if call["call"] != "exec_command":
        return False
    return bool(call.get("stdin") or OF_A_FILE.match(call["arguments"][0]))


def fail_for(found: Sequence[Difference]) -> None:
    """Fail with the list of differences, if there are any."""
    if found:
        rest = f"\n(and {len(found) - 40} more)" if len(found) > 40 else ""
        lines = "\n".join(str(difference) for difference in found[:40])
        raise AssertionError(f"{len(found)} differences\n{lines}{rest}")


def fetched(directory: Path) -> dict[str, Any]:
    """Return the files below a directory here with their content."""
    found = {}
    for path in directory.rglob("*"):
        first, *rest = path.relative_to(directory).parts
        if path.is_file():
            # `fetch` puts the host's name in front.
            name = "/".join(rest if first in HOSTS else (first, *rest))
            found[name] = [path.read_bytes().hex()]
    return found


def module_of(task: Mapping[str, Any]) -> str:
    """Return the module of a task, without ansible.builtin."""
    (module,) = (key for key in task if key not in KEYWORDS and not key.startswith("ignore_"))
    return str(module).removeprefix("ansible.builtin.")


def cases(name: str) -> list[dict[str, Any]]:
    """Return the tasks of a file in cases/, each with a name."""
    tasks: list[dict[str, Any]] = yaml.safe_load((HERE / "cases" / f"{name}.yml").read_text())
    counts: dict[str, int] = defaultdict(int)
    named = []
    for task in tasks:
        module = module_of(task)
        counts[module] += 1
        named.append({"name": f"{module} {counts[module]}", **task})
    return named


@contextmanager
def twins(
    target: Target,
    ansible: Ansible,
    directory: Path,
    name: str,
    rootfs: str,
    other: Mapping[str, Any],
) -> Iterator[Twins]:
    """Make two containers from one root file system, with the same files and a server in each."""
    with ExitStack() as stack:
        containers = {host: f"{name}-{host}" for host in HOSTS}
        for container in containers.values():
            if target.engine == "runc":
                beds.call("runc", "create", container, "--rootfs", rootfs, "--alone")
                stack.callback(beds.call, "runc", "delete", container)
            else:
                stack.enter_context(target.container(container, rootfs))
        first, second = containers.values()
        target.run(first, "sh -s", (HERE / "prepare.sh").read_bytes())
        made = target.run(first, "tar -C / -cf - etc srv")
        # In both, so that the same files are new. Docker mounts some of its own.
        extract = f"tar -C / -xpf - {MOUNTED if target.engine == 'docker' else ''}"
        for container in (first, second):
            target.run(container, f"rm -rf /srv /var/lib/apt/lists/*; {extract}", made)
        for container in containers.values() if target.engine == "runc" else ():
            script = (HERE / "serve.py").read_bytes()
            target.run(container, "cat >/srv/serve.py", script)
            start = "setsid python3 /srv/serve.py >/dev/null 2>&1 </dev/null &"
            wait = "until test -S /run/serve.sock; do sleep 0.1; done"
            target.run(container, f"{start} {wait}")
        made_twins = Twins(
            target,
            ansible,
            containers,
            directory,
            {"one": PLAIN, "other": dict(other)},
            since=time.time(),  # all that is there came to both from one archive
        )
        yield made_twins


def write_files(directory: Path, key: bytes) -> dict[str, Any]:
    """Make the files here that cases copy; return the variables that cases name."""
    files = directory / "files"
    shutil.copytree(HERE / "files", files)
    (files / "binary").write_bytes(bytes(range(256)) * 3)
    (files / "large").write_bytes(hashlib.sha256(b"seed").digest() * (3 << 15))
    (files / "key.asc").write_bytes(key)
    with tarfile.open(files / "ours.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("ours/file")
        member.size, member.mode = 3, 0o640
        archive.addfile(member, io.BytesIO(b"abc"))
    return {
        "files": str(files),
        "work": "/srv/work",
        "start": "/srv/start",
        "server": SERVER,
        "large": hashlib.sha1((files / "large").read_bytes()).hexdigest(),
        "from_files": "--no-index --find-links /srv/start/archives --break-system-packages",
    }
