"""Fixtures for every test: the beds by name, Ansible, and what to do where one cannot run."""

from __future__ import annotations

import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_gangway import _core
from support import beds
from support.ansible import Ansible
from support.interpreters import is_sampled
from support.sample import in_turn
from support.skip import cannot_run

KEEP_BEDS = os.environ.get("GANGWAY_KEEP_BEDS") == "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --soak and --sample."""
    parser.addoption("--soak", action="store_true", help="also run the tests that take very long")
    parser.addoption(
        "--sample",
        choices=["pairwise", "sparse"],
        help="take a part of the conformance suite (its conftest.py) and of the Pythons for agents "
        "(support/interpreters.py); sparse: also of the tests marked in_turn (support/sample.py)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers, and heed signals that a background job starts with ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for line in (
        "plays: runs Ansible, so every ansible-core repeats it (set by the fixture `ansible`)",
        "soak: takes very long, runs only with --soak (`make soak`)",
        "in_turn: takes long; of its variants --sample=sparse takes one, each ansible-core another",
    ):
        config.addinivalue_line("markers", line)


@pytest.hookimpl(tryfirst=True)  # before -m looks at the markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what runs Ansible, and leave out what is for `make soak`."""
    for item in items:
        if "ansible" in getattr(item, "fixturenames", ()):
            item.add_marker("plays")
    left_out: set[pytest.Item] = set()
    if not config.getoption("--soak"):
        left_out |= {item for item in items if item.get_closest_marker("soak")}
    if config.getoption("--sample"):
        left_out |= {item for item in items if not is_sampled(item)}
    if config.getoption("--sample") == "sparse":
        left = [item for item in items if item not in left_out]
        marked = [item for item in left if item.get_closest_marker("in_turn")]
        left_out |= set(marked) - set(in_turn(marked))
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end what did not run, once per reason."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports)
    if reasons:
        terminalreporter.section("not run")
    for reason, count in reasons.items():
        terminalreporter.line(f"{count} {'test' if count == 1 else 'tests'}: {reason}")


@pytest.fixture(scope="session", autouse=True)
def brokers() -> Iterator[None]:
    """Keep the brokers of this run, and their logs, apart from the developer's; end them after."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="gangway-") as directory:  # a socket's path is short
        os.environ |= {"XDG_RUNTIME_DIR": directory, "XDG_STATE_HOME": f"{directory}/state"}
        try:
            yield
        finally:
            _core.broker_stop()
            os.environ.clear()
            os.environ.update(before)


def bed(name: str, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Start the bed `name` once per session; stop it at the end if it was not running before.

    GANGWAY_KEEP_BEDS=1 leaves it to run, for the next session.
    """
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    running = beds.is_started(name)
    if not running and terminal:
        terminal.write(f"[starting {name}] ")
    try:
        env = beds.start(name)
    except beds.BedError as error:
        beds.stop(name)
        cannot_run(f"{name}: {error}")
    try:
        yield env
    finally:
        if not running and not KEEP_BEDS:
            beds.stop(name)


@pytest.fixture(scope="session")
def bed_runc(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Return what the runc bed's `env` prints."""
    yield from bed("runc", request)


@pytest.fixture(scope="session")
def bed_docker(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Return what the docker bed's `env` prints."""
    yield from bed("docker", request)


@pytest.fixture(scope="session")
def bed_podman(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Return what the podman bed's `env` prints."""
    yield from bed("podman", request)


@pytest.fixture(scope="session")
def bed_kubernetes(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Return what the kubernetes bed's `env` prints."""
    yield from bed("kubernetes", request)


@pytest.fixture(scope="session")
def ansible(tmp_path_factory: pytest.TempPathFactory) -> Ansible:
    """Return the Ansible beside this Python, with a HOME of its own."""
    return Ansible(home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the top of the checkout."""
    return Path(__file__).parent.parent
