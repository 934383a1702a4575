"""A unix socket in front of Docker's, whose answers are late or end early."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from pathlib import Path


class Relay:
    """Passes Docker's socket on for as long as the block runs; the block gets its address.

    `delay`: seconds that each connection's first answer is late. `cut_after`: seconds until a
    connection is closed in both directions, whatever is under way on it.
    """

    def __init__(
        self, address: str, path: Path, *, delay: float = 0, cut_after: float = 600
    ) -> None:
        self._behind = address.removeprefix("unix://")
        self._path = path
        self._delay, self._cut_after = delay, cut_after
        self._server = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> str:
        self._server.bind(str(self._path))
        self._server.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return f"unix://{self._path}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                front = self._server.accept()[0]
                threading.Thread(target=self._serve, args=(front,), daemon=True).start()

    def _serve(self, front: socket.socket) -> None:
        end = time.monotonic() + self._cut_after
        answered = False
        behind = socket.socket(socket.AF_UNIX)
        with front, behind, contextlib.suppress(OSError):
            behind.connect(self._behind)
            open_ends = {front: behind, behind: front}
            while open_ends and (left := end - time.monotonic()) > 0:
                for source in select.select(list(open_ends), [], [], left)[0]:
                    data = source.recv(65536)
                    if source is behind and not answered:
                        time.sleep(self._delay)
                        answered = True
                    if data:
                        open_ends[source].sendall(data)
                    else:
                        open_ends.pop(source).shutdown(socket.SHUT_WR)
