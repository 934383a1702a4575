"""exec_command: what is run, as whom, and how its end is told from the engine's."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from peers.conftest import NAME, Verdict
from peers.side_by_side import Pair, SideBySide


def raw(script: str, **keywords: Any) -> dict[str, Any]:
    """Return the task that runs a shell script, whatever is quoted in it."""
    return {"ansible.builtin.raw": "{{ script }}", "vars": {"script": script}, **keywords}


def test_d06_a_tasks_timeout_does_not_end_it(
    peers: SideBySide, docker: Pair, verdict: Verdict
) -> None:
    """The task may take 2 seconds and would take 12."""
    run = peers.play([docker], docker.hosts(), {"sleep": raw("sleep 12", timeout=2)})
    theirs, ours = (run["sleep", plugin] for plugin in docker.plugins)
    assert theirs.ended == ours.ended == "failed", run.printed
    assert "timed out" in theirs.said.lower() and "timed out" in ours.said.lower(), run.printed
    assert theirs.seconds > 12
    assert ours.seconds < 10
    verdict("docker", f"{theirs.seconds:.1f} s", f"{ours.seconds:.1f} s")


def test_d08_a_container_that_is_not_there_is_a_failed_command(
    peers: SideBySide, docker: Pair, kubectl: Pair, verdict: Verdict
) -> None:
    """Missing, stopped and paused containers, by raw and by a module, pipelined and not."""
    hosts: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        for state in ("stopped", "paused"):
            name = f"{NAME}-{state}"
            stack.enter_context(docker.target.container(name, image="busybox", state=state))
        for pair, names in (
            (docker, [f"{NAME}-missing", f"{NAME}-stopped", f"{NAME}-paused"]),
            (kubectl, [f"{NAME}-missing", kubectl.target.env["GANGWAY_KUBE_DONE"]]),
        ):
            for plugin in pair.plugins:
                for name in names:
                    hosts[f"{plugin} {name}".replace(" ", "/")] = pair.host(plugin, ansible_host=name)
        plain = {"ansible_pipelining": False}
        tasks = {
            "raw": raw("true"),
            "module": {"ansible.builtin.ping": {}},
            "plain": {"ansible.builtin.ping": {}, "vars": plain},
        }
        run = peers.play([docker, kubectl], hosts, tasks)
    for (task, host), outcome in run.items():
        print(task, host, outcome.ended, outcome.said[:200])
