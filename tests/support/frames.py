"""A client of agents: starts one by a command line that ends in a Python, and speaks frames."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import select
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = Path(__file__).parent.parent.parent / "python" / "ansible_gangway"
# The parts of an agent's program, behind those that each has (src/session/boot.rs).
SERVING = {
    "commands": ["agent_commands.py", "agent_steps.py"],
    "modules": ["warm.py", "warm_texts.py", "warm_library.py", "warm_child.py"],
}
HELLO, PING, PONG = 1, 2, 3
REQUEST, DATA, END, CREDIT, CANCEL = 16, 17, 18, 19, 20
STARTED, STDOUT, STDERR, EXIT, WANT = 32, 33, 34, 35, 36
RETIRE = 48
CHUNK, WINDOW = 64 << 10, 256 << 10


def boot(length: int) -> str:
    """Return the bootstrap: reads a program of so many bytes from fd 0 and runs it.

    One line without a quote, dollar or backslash, so that shells can nest it as they like. Before
    anything is imported the working directory leaves the path: a json.py there is not ours.
    """
    return (
        "import sys;sys.path[:]=[p for p in sys.path if p not in(str(),chr(46))];import os;"
        f"_s=bytearray();[_s.extend(os.read(0,{length}-len(_s))or sys.exit(1))"
        f"for _x in iter(lambda:len(_s)-{length},0)];exec(bytes(_s))"
    )


def source(config: Mapping[str, Any], change: str = "") -> bytes:
    """Return the program of an agent; `change` is Python that runs before its `main`."""
    parts = ("agent.py", "agent_tasks.py", *SERVING[config["serves"]])
    texts = [json.dumps((PACKAGE / name).read_text()) for name in parts]
    return f"for _s in {','.join(texts)}:exec(_s)\ndel _s\n{change}\nmain({config!r})\n".encode()


class Frame(NamedTuple):
    """One frame of the agent."""

    kind: int
    id: int
    payload: bytes

    @property
    def head(self) -> dict[str, Any]:
        """What a payload in JSON says."""
        head: dict[str, Any] = json.loads(self.payload)
        return head


class Result(NamedTuple):
    """How a request ended, and what it wrote."""

    exit: dict[str, Any]
    stdout: bytes = b""
    stderr: bytes = b""
    started: dict[str, Any] | None = None


class Ended(Exception):
    """The agent's stream ended."""


class Agent:
    """An agent that runs. `argv` ends in the interpreter; what follows `-c` is put behind it."""

    def __init__(
        self,
        argv: Sequence[str],
        change: str = "",
        serves: str = "commands",
        seconds: float = 30,
        always: bool = False,
        kill_on_disconnect: bool = False,
        **popen: Any,
    ) -> None:
        self.nonce = secrets.token_hex(8)
        config = {
            "nonce": self.nonce,
            "always": always,
            "kill_on_disconnect": kill_on_disconnect,
            "serves": serves,
        }
        text = source(config, change)
        self.process = subprocess.Popen(
            [*argv, "-c", boot(len(text))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            **{"stderr": subprocess.PIPE, **popen},
        )
        assert self.process.stdin and self.process.stdout
        self.stdin, self.stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.stdin, False)
        os.set_blocking(self.stdout, False)
        self.seconds = seconds
        self.words = ""
        self._in, self._out = bytearray(), bytearray()
        self._next = 0
        self._windows: dict[int, int] = {}  # bytes of DATA that each request may have now
        self.kept: list[Frame] = []  # of other requests than the one that is waited for
        try:
            self.write(text)
            self.before = self._skip_to_hello()
            self.hello = self.frame(HELLO, 0).head
        except BaseException:
            self.process.kill()
            self.end()
            raise

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Close the stream and see that the agent ends; it is killed if it does not."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.wait()

    def wait(self, seconds: float = 10) -> int:
        """Return the agent's status, and leave in `words` what it said on stderr.

        It is killed when it has not ended by itself within `seconds`.
        """
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            if self.process.stderr and not self.process.stderr.closed:
                with self.process.stderr as stderr:
                    self.words = stderr.read().decode(errors="replace")

    def rest(self) -> list[Frame]:
        """Return the frames up to the end of the stream."""
        frames = []
        with suppress(Ended):
            while True:
                frames.append(self.next_frame())
        return frames

    # Bytes

    def write(self, data: bytes) -> None:
        """Send bytes; what comes meanwhile is kept. An agent that has ended reads none of them."""
        self._out += data
        with suppress(Ended):
            while self._out:
                self._turn()
        self._out.clear()

    def _turn(self, seconds: float | None = None) -> None:
        poll = select.poll()
        poll.register(self.stdout, select.POLLIN)
        if self._out:
            poll.register(self.stdin, select.POLLOUT)
        if not poll.poll((self.seconds if seconds is None else seconds) * 1000):
            raise TimeoutError("the agent says nothing")
        if self._out:
            try:
                del self._out[: os.write(self.stdin, self._out)]
            except BlockingIOError:
                pass
            except BrokenPipeError:
                self._out.clear()
        try:
            data = os.read(self.stdout, 1 << 20)
        except BlockingIOError:
            return
        if not data:
            raise Ended
        self._in += data

    def _skip_to_hello(self) -> bytes:
        line = b"\x1egangway-agent " + self.nonce.encode() + b"\n"
        while line not in self._in:
            try:
                self._turn()
            except Ended:
                raise Ended(f"{self.wait()}: {self.words}") from None
        before, _, rest = bytes(self._in).partition(line)
        self._in[:] = rest
        return before

    # Frames

    def send(self, kind: int, number: int = 0, payload: bytes | Mapping[str, Any] = b"") -> None:
        """Send a frame; a mapping is its head."""
        raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        if kind == DATA:
            self._windows[number] = self._windows.get(number, WINDOW) - len(raw)
        self.write(struct.pack(">BII", kind, number, len(raw)) + raw)

    def next_frame(self, seconds: float | None = None) -> Frame:
        """Return the next frame of the stream; TimeoutError after `seconds` without one."""
        end = time.monotonic() + (self.seconds if seconds is None else seconds)
        while True:
            if len(self._in) >= 9:
                kind, number, length = struct.unpack_from(">BII", self._in)
                if len(self._in) >= 9 + length:
                    frame = Frame(kind, number, bytes(self._in[9 : 9 + length]))
                    del self._in[: 9 + length]
                    if kind == CREDIT:
                        self._windows[number] += struct.unpack(">I", frame.payload)[0]
                        assert self._windows[number] <= WINDOW
                    return frame
            self._turn(max(0.0, end - time.monotonic()))

    def frame(self, kind: int, number: int, seconds: float | None = None) -> Frame:
        """Return the next frame of this kind and request; others are kept."""
        for frame in self.kept:
            if (frame.kind, frame.id) == (kind, number):
                self.kept.remove(frame)
                return frame
        while True:
            frame = self.next_frame(seconds)
            if (frame.kind, frame.id) == (kind, number):
                return frame
            self.kept.append(frame)

    # Requests

    def request(self, op: str, **head: Any) -> int:
        """Send a REQUEST and return its id; bytes in it become base64."""
        self._next += 1
        plain = {
            key: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for key, value in head.items()
        }
        self.send(REQUEST, self._next, {"op": op, **plain})
        return self._next

    def start(self, command: str | bytes, shell: bytes = b"/bin/sh") -> int:
        """Ask for a command and return its id; its stdin is open."""
        raw = command.encode() if isinstance(command, str) else command
        return self.request("exec", shell=shell, command=raw)

    def run(self, command: str | bytes, stdin: bytes = b"", shell: bytes = b"/bin/sh") -> Result:
        """Run a command to its end."""
        number = self.start(command, shell)
        return self.finish(number, stdin)

    def put(self, path: str | bytes, data: bytes, sha256: str | None = None) -> Result:
        """Write a file."""
        number = self.request(
            "put",
            path=os.fsencode(path),
            length=len(data),
            sha256=sha256 or hashlib.sha256(data).hexdigest(),
        )
        return self.finish(number, data)

    def fetch(self, path: str | bytes) -> Result:
        """Read a file."""
        return self.finish(self.request("fetch", path=os.fsencode(path)))

    def finish(self, number: int, stdin: bytes = b"", end: bool = True) -> Result:
        """Send what is left of a request's input, take its output with all credit, to its EXIT."""
        at, ended = 0, not end
        outputs = {STDOUT: bytearray(), STDERR: bytearray()}
        started = None
        kept, self.kept = self.kept, []
        while True:
            while at < len(stdin) and (window := self._windows.get(number, WINDOW)):
                part = stdin[at : at + min(CHUNK, window)]
                at += len(part)
                self.send(DATA, number, part)
            if at == len(stdin) and not ended:
                self.send(END, number)
                ended = True
            frame = kept.pop(0) if kept else self.next_frame()
            if frame.id != number:
                self.kept.append(frame)
            elif frame.kind in outputs:
                outputs[frame.kind] += frame.payload
                self.send(CREDIT, number, struct.pack(">I", len(frame.payload)))
            elif frame.kind == STARTED:
                assert started is None
                started = frame.head
            elif frame.kind == EXIT:
                self.kept += kept
                return Result(frame.head, bytes(outputs[STDOUT]), bytes(outputs[STDERR]), started)
            else:
                assert frame.kind == CREDIT, frame

    def cancel(self, number: int) -> None:
        """Send CANCEL."""
        self.send(CANCEL, number)

    def ping(self) -> float:
        """Return the seconds until PONG."""
        begun = time.monotonic()
        self.send(PING)
        self.frame(PONG, 0)
        return time.monotonic() - begun


def without_own_signals(text: bytes) -> list[bytes]:
    """Return the lines of /proc/PID/status and others with glibc's own signals not ignored.

    Those are 32 and 33, which its posix_spawn leaves ignored: no program can have them.
    """

    def handled(found: re.Match[bytes]) -> bytes:
        return b"SigIgn:\t%016x" % (int(found[1], 16) & ~(3 << 31))

    return re.sub(rb"SigIgn:\s*(\w+)", handled, text).split(b"\n")
