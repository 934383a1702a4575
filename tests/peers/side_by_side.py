"""One container, two plugins: a play goes through the peer's and through ours, as two hosts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import inventory
from support.ansible import Ansible, Result
from support.targets import Target

# What all containers of a run are called, most of them without more.
NAME = f"gangway-peers-{os.getpid()}"
Verdict = Callable[[str, str, str], None]
CALLBACKS = Path(__file__).parent / "callback"
CALLS = Path(__file__).parent / "calls.py"


def raw(script: str, **keywords: Any) -> dict[str, Any]:
    """Return the task that runs a shell script, whatever is quoted in it."""
    return {"ansible.builtin.raw": "{{ script }}", "vars": {"script": script}, **keywords}


@dataclass(frozen=True)
class Pair:
    """A container, and the full names of the plugins that lead to it; they name the hosts, too."""

    target: Target
    container: str
    peer: str

    @property
    def ours(self) -> str:
        """The full name of our plugin for the engine."""
        return f"gangway.exec.{self.target.engine}"

    @property
    def plugins(self) -> tuple[str, str]:
        """Both."""
        return self.peer, self.ours

    def host(self, plugin: str, **variables: Any) -> dict[str, Any]:
        """Return the variables of a host that uses `plugin`, with more of them or others.

        Modules are pipelined, which is our default and saves time with the peers.
        """
        usual = self.target.variables(self.container) | {"ansible_pipelining": True}
        return usual | {"ansible_connection": plugin} | variables

    def sh(self, script: str, stdin: str | None = None) -> str:
        """Run a shell script in the container by the engine's own CLI; return its stdout."""
        data = None if stdin is None else stdin.encode()
        return self.target.run(self.container, script, data).decode()

    def hosts(self, **variables: Any) -> dict[str, dict[str, Any]]:
        """Return two hosts that differ in nothing but their plugin."""
        return {plugin: self.host(plugin, **variables) for plugin in self.plugins}


def both(*pairs: Pair, **variables: Any) -> dict[str, dict[str, Any]]:
    """Return the hosts of several pairs, all with the same variables."""
    return {name: host for pair in pairs for name, host in pair.hosts(**variables).items()}


@dataclass(frozen=True)
class Outcome:
    """How one task ended on one host: ok, failed or unreachable, with Ansible's result."""

    ended: str
    seconds: float
    result: dict[str, Any]

    @property
    def rc(self) -> int | None:
        """The exit status, if there is one."""
        return self.result.get("rc")

    @property
    def stdout(self) -> str:
        """The command's stdout."""
        return str(self.result.get("stdout", ""))

    @property
    def said(self) -> str:
        """Everything that tells a user what went wrong."""
        keys = ("msg", "stderr", "module_stderr", "stdout", "module_stdout")
        return "\n".join(str(self.result[key]) for key in keys if self.result.get(key))


class Run(dict[tuple[str, str], Outcome]):
    """What a play did: outcomes by the names of task and host, and all that Ansible printed."""

    def __init__(self, printed: Result, outcomes: Path) -> None:
        super().__init__()
        self.printed = printed
        for line in outcomes.read_text().splitlines() if outcomes.exists() else []:
            row = json.loads(line)
            self[row["task"], row["host"]] = Outcome(row["ended"], row["seconds"], row["result"])

    def __missing__(self, key: tuple[str, str]) -> Outcome:
        raise AssertionError(f"{key} did not run: {self.printed}")


class SideBySide:
    """Runs plays with the Ansible of the peers, and the gangway under test beside them."""

    def __init__(self, ansible: Ansible, pythonpath: Path, directory: Path) -> None:
        self.ansible = ansible
        self.env = {"PYTHONPATH": str(pythonpath)}
        self.directory = directory
        self._plays = 0

    def play(
        self,
        pairs: Iterable[Pair],
        hosts: Mapping[str, Mapping[str, Any]],
        tasks: Mapping[str, Mapping[str, Any]],
        *arguments: str,
        env: Mapping[str, str] | None = None,
    ) -> Run:
        """Run named tasks on all hosts at once; what fails or cannot be reached ends nothing."""
        self._plays += 1
        directory = self.directory / str(self._plays)
        directory.mkdir()
        book = directory / "play.json"
        named = [{"name": name, **task} for name, task in tasks.items()]
        keep_on = {"ignore_errors": True, "ignore_unreachable": True}
        book.write_text(
            json.dumps([{"hosts": "all", "gather_facts": False, **keep_on, "tasks": named}])
        )
        listed = inventory.write(directory / "hosts.json", all=hosts)
        full = self.env | {
            "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACKS),
            "OUTCOMES": str(directory / "outcomes"),
            # A host does not wait for another one's task: some take long on one side only.
            "ANSIBLE_STRATEGY": "free",
        }
        for pair in pairs:
            full |= pair.target.env
        words = ("--inventory", str(listed), "--forks", str(len(hosts)), *arguments)
        printed = self.ansible.playbook(book, *words, env=full | dict(env or {}))
        return Run(printed, directory / "outcomes")

    def connection_test(self, pair: Pair, directory: Path) -> dict[str, Result]:
        """Run ansible-core's own test of connection plugins through each plugin."""
        core = self.ansible.bin_dir.parent / "core/test/integration/targets/connection"
        listed = inventory.write(directory / "hosts.json", all=pair.hosts())
        env = self.env | pair.target.env

        def run(plugin: str) -> Result:
            settings = {
                "target_hosts": plugin,
                "action_prefix": "",
                "local_tmp": f"{directory}/{plugin}",
                "remote_tmp": f"/tmp/remote-{plugin}",
            }
            words = ("--inventory", listed, "--extra-vars", json.dumps(settings))
            return self.ansible.playbook(core / "test_connection.yml", *words, env=env)

        with ThreadPoolExecutor() as pool:
            return dict(zip(pair.plugins, pool.map(run, pair.plugins), strict=True))

    def call(self, pair: Pair, plugin: str, *calls: tuple[str, ...], **variables: Any) -> list[str]:
        """Call a plugin's methods without a play; return what each raised, '' for nothing."""
        request = {"plugin": plugin, "variables": pair.host(plugin, **variables), "calls": calls}
        env = self.env | pair.target.env
        done = self.ansible.run("python", CALLS, json.dumps(request), env=env)
        assert done.rc == 0, str(done)
        return [raised or "" for raised in json.loads(done.stdout)]
