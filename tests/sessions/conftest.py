"""Sessions whose calls go through agents, with a broker of the test's own.

On runc all of it runs; on Docker a sample takes half, by the names of tests and their parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from ansible_gangway import _core
from support.sample import number, word
from support.targets import ENGINES, Target


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not in the sample."""
    if not config.getoption("--sample"):
        return
    left_out = set()
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if item.path.parent == Path(__file__).parent and params.get("target") == "docker":
            rest = sorted(word(value) for name, value in params.items() if name != "target")
            if number(item.nodeid.split("[")[0], *rest) % 2:
                left_out.add(item)
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", params=["runc", "docker"])
def target(request: pytest.FixtureRequest) -> Target:
    """Return the containers of one engine, to be entered through agents."""
    engine = ENGINES[request.param]
    return engine(request.getfixturevalue(f"bed_{engine.bed}"), "agent")


@pytest.fixture(autouse=True)
def own_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the test a control directory; the broker in it ends with the test."""
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield
    _core.broker_stop()


def agents() -> list[dict[str, Any]]:
    """Return what the broker keeps."""
    return [agent for text in _core.broker_status() for agent in json.loads(text)["agents"]]


def on_either_path(target: Target, container: str) -> _core.Session:
    """Open a session that may take the direct path."""
    return cast(_core.Session, cast(Any, target.session(container)).session)
