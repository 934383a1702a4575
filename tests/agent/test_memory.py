"""What an agent takes for the memory that its container can spare."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.frames import PACKAGE

MIB = 1 << 20
V1 = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat")
V2 = ("memory.max", "memory.current", "memory.stat")
UNLIMITED_V1 = 9223372036854771712


def spare(python: str, top: Path, groups: str, files: dict[str, str | int]) -> int | None:
    """Return what the agent's own function finds in a tree of cgroup files."""
    for name, content in files.items():
        path = top / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    (top / "groups").write_text(groups)
    program = (PACKAGE / "agent.py").read_text()
    program += f"\nprint(spare_memory({str(top / 'cgroup')!r}, {str(top / 'groups')!r}))"
    done = subprocess.run([python, "-"], input=program.encode(), stdout=subprocess.PIPE, check=True)
    found = done.stdout.decode().strip()
    return None if found == "None" else int(found)


def files(names: tuple[str, ...], place: str, limit: str | int, usage: int) -> dict[str, str | int]:
    """Return the files of one cgroup, 30 MiB of whose memory is a cache of files."""
    total = "total_" if names is V1 else ""
    statistics = f"cache 1\n{total}inactive_file {10 * MIB}\n{total}active_file {20 * MIB}"
    paths = [str(Path(name).parent / place / Path(name).name) for name in names]
    return dict(zip(paths, (limit, usage, statistics), strict=True))


@pytest.mark.parametrize(
    ("groups", "names"),
    [("0::/\n", V2), ("5:cpu:/x\n4:memory:/host/path/of/it\n1:name=systemd:/\n0::/x\n", V1)],
    ids=["v2", "v1"],
)
def test_a_limit_at_the_top(
    python: str, tmp_path: Path, groups: str, names: tuple[str, ...]
) -> None:
    found = spare(python, tmp_path, groups, files(names, "", 100 * MIB, 90 * MIB))
    assert found == 40 * MIB


@pytest.mark.parametrize(("names", "group"), [(V2, "0::/a/b"), (V1, "9:hugetlb,memory:/a/b")])
def test_the_tightest_of_all_levels_counts(
    newest: str, tmp_path: Path, names: tuple[str, ...], group: str
) -> None:
    none = UNLIMITED_V1 if names is V1 else "max"
    tree = {
        **files(names, "", none, 1000 * MIB),
        **files(names, "a", 200 * MIB, 190 * MIB),
        **files(names, "a/b", 300 * MIB, 180 * MIB),
    }
    assert spare(newest, tmp_path, group, tree) == 40 * MIB


@pytest.mark.parametrize(("names", "group"), [(V2, "0::/"), (V1, "9:memory:/")])
def test_without_a_limit_nothing_is_known(
    newest: str, tmp_path: Path, names: tuple[str, ...], group: str
) -> None:
    none = UNLIMITED_V1 if names is V1 else "max"
    assert spare(newest, tmp_path, group, files(names, "", none, 100)) is None
    assert spare(newest, tmp_path, group, {}) is None
    assert spare(newest, tmp_path, "", {}) is None
    assert spare(newest, tmp_path, "nonsense\n", {}) is None
