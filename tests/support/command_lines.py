"""What `ps` shows while something runs."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class CommandLines:
    """The command lines of all processes of this machine, those in containers included.

    It reads all of /proc again and again, which takes about 10 ms on an idle machine: a process
    that ends sooner may escape it. So what is looked for has to be in use for longer than that.
    """

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self.longest = 0.0
        self._end = threading.Event()

    def look(self) -> None:
        """Read them until the end."""
        while not self._end.wait(0.002):
            started = time.monotonic()
            for name in os.listdir("/proc"):
                if name.isdigit():
                    with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                        self.seen.add(file.read())
            self.longest = max(self.longest, time.monotonic() - started)

    def stop(self) -> None:
        """Look no more."""
        self._end.set()

    def having(self, text: str) -> list[bytes]:
        """Return those with `text` in them."""
        return sorted(line for line in self.seen if text.encode() in line)


@contextmanager
def watched() -> Iterator[CommandLines]:
    """Collect command lines for as long as the block runs."""
    lines = CommandLines()
    thread = threading.Thread(target=lines.look)
    thread.start()
    try:
        yield lines
    finally:
        lines.stop()
        thread.join()
