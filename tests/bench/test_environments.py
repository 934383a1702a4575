"""bench/environments.py: what cannot be installed is named."""

from __future__ import annotations

from pathlib import Path

import pytest

import environments


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache directory, used instead of the user's."""
    monkeypatch.setenv("GANGWAY_CACHE", str(tmp_path))
    return tmp_path / "bench"


def test_a_requirement_that_is_not_there_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the environment is not taken for a complete one afterwards."""
    monkeypatch.setitem(environments.ENVIRONMENTS, "broken", ["./there-is-no-such-thing"])
    for _ in range(2):
        with pytest.raises(environments.CannotInstall, match="broken cannot be installed: ERROR"):
            environments.prepare("broken")


def test_another_version_is_another_environment(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(environments.ENVIRONMENTS, "some", ["package==1"])
    one = environments.directory("some")
    assert one.parent == cache
    assert environments.directory("some") == one
    monkeypatch.setitem(environments.ENVIRONMENTS, "some", ["package==2"])
    assert environments.directory("some") != one


def test_without_a_wheel_the_remedy_is_named() -> None:
    with pytest.raises(environments.CannotInstall, match="run `make wheel`"):
        environments.install_wheel(None)
