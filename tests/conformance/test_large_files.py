"""Files of any size arrive whole, and no process of Ansible's holds them in memory."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support import beds
from support.targets import Target

MIB = 1 << 20
# More would be felt where many tasks run at once.
MOST_MEMORY = 64 * MIB

# One process for the transfers alone: memory that an earlier test freed would hide what they take.
WORKER = """
import json, resource, sys
from support.targets import target_of

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

recipe, local, remote, back = json.load(sys.stdin)
session = target_of(*recipe).session()
session.exec_command(b"true")
start = peak()
notes = [session.put_file(local.encode(), remote.encode())]
notes += [session.fetch_file(remote.encode(), back.encode())]
print(json.dumps({"memory": peak() - start, "notes": notes}))
"""


Write = Callable[[Path, int], None]


def write_random(path: Path, size: int) -> None:
    """Write random bytes."""
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))


def write_sparse(path: Path, size: int) -> None:
    """Write random bytes here and there, at the very end too, and holes between them."""
    places = [random.randrange(size - MIB) for _ in range(64)]
    with path.open("wb") as file:
        for place in [*places, size - 1000]:
            file.seek(place)
            file.write(os.urandom(1000))
    assert path.stat().st_size == size


@pytest.mark.on_every_engine
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("write", "size"),
    [(write_random, 64 * MIB), (write_sparse, 1024 * MIB)],
    ids=["64 MiB", "1 GiB"],
)
def test_large_files(target: Target, tmp_path: Path, write: Write, size: int) -> None:
    """Put and fetched back, by the word of a tool that gangway does not use."""
    local, back = tmp_path / "local", tmp_path / "back"
    remote = f"/tmp/gangway-large-{os.getpid()}"
    write(local, size)
    try:
        done = subprocess.run(
            [sys.executable, "-c", WORKER],
            input=json.dumps([target.recipe, str(local), remote, str(back)]),
            env=beds.environment({"PYTHONPATH": str(Path(__file__).parent.parent)}),
            capture_output=True,
            text=True,
            timeout=800,
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["notes"] == [None, None]
        assert said["memory"] < MOST_MEMORY
        sums = subprocess.check_output(["b2sum", local, back], text=True, timeout=300).split()
        there = target.run("target", f"b2sum {remote}").decode().split()
        assert sums[0] == sums[2] == there[0]
    finally:
        target.run("target", f"rm -f {remote}")
        local.unlink()
        back.unlink(missing_ok=True)
