"""Every case here runs on every engine and every path: it takes the fixture `target`.

What a run really had of that matrix is printed at its end. `--sample=pairwise` leaves runc as it
is, and of the others takes each case by one path, in turn; of a case with several arguments Podman
and kubectl take one each. So tests, engines and paths meet each other in pairs. `--sample=sparse`
takes each case once, and each ansible-core on another engine or by another path.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.release import __version__

from ansible_gangway import _core
from support import entrances as entering
from support.sample import TURN, number, word
from support.targets import ENGINES, PATHS, Target


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    for line in (
        "without_agents: no container of these plays can run an agent",
        "on_every_engine: a sample, too, has each of its cases on each engine",
    ):
        config.addinivalue_line("markers", line)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note each case's place in the matrix, and leave out what is not in the sample."""
    matrix = {}
    engines: dict[int, set[str]] = defaultdict(set)
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if {"target", "by_path"} <= set(params):
            engine, path = params["target"], params["by_path"]
            item.user_properties.append(("matrix", (engine, path)))
            rest = sorted(word(v) for k, v in params.items() if k not in ("target", "by_path"))
            case = number(item.location[0], item.location[2].split("[")[0], *rest)
            matrix[item] = case, engine, path
            if rest and not item.get_closest_marker("on_every_engine"):
                engines[case].add(engine)
    sample = config.getoption("--sample")
    left_out = [
        item
        for item, (case, engine, path) in matrix.items()
        if not sampled(sample, case, engine, path, {"podman", "kubectl"} <= engines[case])
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def sampled(sample: str | None, case: int, engine: str, path: str, shared: bool) -> bool:
    """Tell whether a case, known by a number, is in the sample."""
    at, by = sorted(ENGINES).index(engine), PATHS.index(path)
    if sample == "sparse":
        return (case + TURN + at * len(PATHS) + by) % (len(ENGINES) * len(PATHS)) == 0
    if sample is None or engine == "runc":
        return True
    if shared and engine in ("podman", "kubectl") and (case // 2 % 2 == 0) != (engine == "podman"):
        return False
    return (case + at + by) % len(PATHS) == 0


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many cases each engine and path had, and the time they took."""
    counts: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            place = dict(report.user_properties).get("matrix")
            if place:
                counts[place][outcome] += report.when == "call" or outcome != "passed"
                counts[place]["seconds"] += report.duration
    if counts:
        terminalreporter.section(f"conformance, ansible-core {__version__}")
    for (engine, path), found in sorted(counts.items()):
        words = [f"{int(n)} {what}" for what, n in found.items() if what != "seconds" and n]
        seconds = f"{found['seconds']:.0f} s"
        terminalreporter.line(f"{engine:8} {path:7} {', '.join(words)} in {seconds}")


@pytest.fixture(scope="session", params=PATHS)
def by_path(request: pytest.FixtureRequest) -> str:
    """Return a way to the containers."""
    return str(request.param)


@pytest.fixture(scope="session", params=sorted(ENGINES))
def target(request: pytest.FixtureRequest, by_path: str) -> Target:
    """Return the containers of one engine, to be entered by one path."""
    engine = ENGINES[request.param]
    return engine(request.getfixturevalue(f"bed_{engine.bed}"), by_path)


@pytest.fixture(autouse=True)
def through_agents(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail plays of the path "agent" of which no agent has served anything.

    Sessions of tests themselves look after each call.
    """
    params = getattr(getattr(request.node, "callspec", None), "params", {})
    is_here = params.get("by_path") == "agent" and "ansible" in request.fixturenames
    before = served()
    yield
    if is_here and not request.node.get_closest_marker("without_agents"):
        assert served() != before, before


def served() -> tuple[int, int]:
    """Return how many agents this run's brokers opened, and what those that are left served."""
    log = Path(os.environ["XDG_STATE_HOME"]) / "gangway/broker.log"
    opened = log.read_text().count(" opened for ") if log.exists() else 0
    brokers = map(json.loads, _core.broker_status())
    agents = [agent for broker in brokers for agent in broker.get("agents", [])]
    return opened, sum(agent["requests"] for agent in agents)


@pytest.fixture(scope="module")
def entrances(
    target: Target, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[entering.Entrances]:
    """Return a container that asks for passwords, to be entered as `root` and as `app`."""
    with entering.entrances(target, tmp_path_factory.mktemp("etc")) as made:
        yield made
