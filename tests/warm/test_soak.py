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

        def look() -> tuple[int, int]:
            """Return KiB of resident memory and how many descriptors are open, when it rests."""
            time.sleep(1)
            status = process.joinpath("status").read_text()
            (rss,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
            return int(rss.split()[1]), len(list(process.joinpath("fd").iterdir()))

        for number in range(COUNT):
            if number == COUNT // 10:
                before = look()
            # Each is another text, as those of a play are.
            word = b"number %d." % number
            result = warm.module(text.replace(b"number 0.", word))
            assert result.exit == {"rc": 0} and word in result.stdout
        after = look()
    record_testsuite_property("template_rss_kib", [before[0], after[0]])
    print(f"template: {before[0]} KiB after {COUNT // 10} modules, {after[0]} after {COUNT}")
    assert after[0] < 1.1 * before[0] and after[1] == before[1], (before, after)
