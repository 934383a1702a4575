"""Run by a contender's own Python: how soon a call in a worker reaches the broker.

The broker is an imitation that keeps the clock and knows no engine: it greets, has an agent for
every key, and each request of that ends at once with status 0.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from ansible_gangway import _core

HELLO, REQUEST, EXIT, ACQUIRE, AVAILABLE = 1, 16, 35, 64, 65
VERSION = 1
AGENT = {"version": VERSION, "pid": 1, "uid": 0, "python": "3", "executable": "", "instance": ""}


def frame(kind, number, head):
    """Return a frame with a head."""
    payload = json.dumps(head).encode()
    return struct.pack(">BII", kind, number, len(payload)) + payload


@contextmanager
def imitation(directory):
    """Be the broker of this user and build in the control directory `directory`.

    Yields the descriptor of a pipe from which come, as two doubles per connection, when its first
    byte and when the first byte of its first request were read (CLOCK_MONOTONIC, seconds).
    """
    os.environ["XDG_RUNTIME_DIR"] = directory
    os.environ["XDG_STATE_HOME"] = directory
    # The name of the socket is the real one's secret: take its place.
    package = Path(_core.__file__).parent.parent
    real = _core.broker_start(python=os.fsencode(sys.executable), package=os.fsencode(package))
    (path,) = (p for p in Path(directory, "gangway").iterdir() if p.is_socket())
    os.kill(real, signal.SIGKILL)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, __file__], stdin=listener, stdout=subprocess.PIPE
        )
    with process:
        try:
            yield process.stdout.fileno()
        finally:
            process.kill()


def main():
    """Serve one client after the other on the socket that is stdin."""
    listener = socket.socket(fileno=0)
    while True:
        connection, _ = listener.accept()
        with connection:
            os.write(1, struct.pack("dd", *serve(connection)))


def serve(connection):
    """Answer one client until it leaves; return when its first byte and first request came."""
    hello = {"version": VERSION, "pid": os.getpid(), "salt": "00"}
    connection.sendall(frame(HELLO, 0, hello))
    first = request = 0.0
    data = b""
    while more := connection.recv(1 << 16):
        now = time.perf_counter()
        first = first or now
        data += more
        while len(data) >= 9:
            kind, number, length = struct.unpack_from(">BII", data)
            if kind == REQUEST:
                request = request or now
            if len(data) < 9 + length:
                break
            data = data[9 + length :]
            if kind == ACQUIRE:
                head = {"agent": 1, "hello": AGENT, "stdout": "", "stderr": ""}
                head |= {"place": "", "fresh": False}
                connection.sendall(frame(AVAILABLE, number, head))
            elif kind == REQUEST:
                connection.sendall(frame(EXIT, number, {"rc": 0}))
    return first, request


if __name__ == "__main__":
    main()
