"""Ten thousand modules, and what they leave in the interpreter that forks for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.captured import capture
from support.modules import OUTSIDE, Modules

pytestmark = [pytest.mark.plays, pytest.mark.soak, pytest.mark.timeout(1800)]

COUNT = 10_000


def test_modules_do_not_make_the_template_grow(
    newest: str, tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    (text,) = capture(tmp_path / "play", [{"ping": {"data": "number 0."}}])
    assert text.count(b"number 0.") == 1
    with Modules([newest], env=OUTSIDE) as warm:
        process = Path(f"/proc/{warm.process.pid}")

        def look() -> dict[str, int]:
            """Return KiB of memory, its share of it, and what else may grow, when it rests."""
            time.sleep(1)
            lines = process.joinpath("smaps_rollup").read_text().splitlines()[1:]
            lines += process.joinpath("status").read_text().splitlines()
            values = dict(line.split(":", 1) for line in lines)
            found = {name: int(values[name].split()[0]) for name in ("Rss", "Pss", "Threads")}
            found["descriptors"] = len(list(process.joinpath("fd").iterdir()))
            found["children"] = len(
                process.joinpath("task", process.name, "children").read_text().split()
            )
            return found

        for number in range(COUNT):
            if number == COUNT // 10:
                before = look()
            # Each is another text, as those of a play are.
            word = b"number %d." % number
            result = warm.module(text.replace(b"number 0.", word))
            assert result.exit == {"rc": 0} and word in result.stdout
        after = look()
    record_testsuite_property("template_memory_kib", [before, after])
    print(f"template: {before} after {COUNT // 10} modules, {after} after {COUNT}")
    for name in ("Rss", "Pss"):
        assert after.pop(name) < 1.1 * before.pop(name), (before, after)
    assert after == before and after["Threads"] == 1 and after["children"] <= 1
