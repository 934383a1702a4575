"""Milliseconds of modules: `python tests/warm/measure.py PYTHON...`, plain beside warm.

The texts are those of the ansible-core that is installed beside the Python that runs this.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.captured import capture
from support.modules import OUTSIDE, Modules, plainly

TASKS = {
    "ping": {"ping": {}},
    "command": {"command": "/bin/true"},
    "stat": {"stat": {"path": "/etc/passwd"}},
    "file": {"file": {"path": "/tmp", "state": "directory"}},
    "setup": {"setup": {"gather_subset": "min"}},
}


def milliseconds(function: Callable[[], object], times: int, pause: float) -> str:
    """Return median, p95 and p99 of calls."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        function()
        taken.append((time.perf_counter() - begun) * 1e3)
        time.sleep(pause)
    taken.sort()
    return " ".join(f"{taken[int(times * share)]:8.1f}" for share in (0.5, 0.95, 0.99))


def main() -> None:
    """Print a table for each Python."""
    with tempfile.TemporaryDirectory() as directory:
        texts = capture(Path(directory) / "play", list(TASKS.values()))
    for python in sys.argv[1:]:
        print(f"{python}\n{'':8}   plain: median, p95, p99      warm: median, p95, p99")
        with Modules([python], env=OUTSIDE) as warm:
            for name, text in zip(TASKS, texts, strict=True):
                plain = milliseconds(lambda p=python, t=text: plainly(p, t, env=OUTSIDE), 10, 0)
                for _ in range(3):
                    warm.module(text)
                    time.sleep(1)
                rounds = milliseconds(lambda t=text: warm.module(t), 100, 0.03)
                print(f"{name:8} {plain}    {rounds}", flush=True)


if __name__ == "__main__":
    main()
