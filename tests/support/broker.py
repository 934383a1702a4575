"""A broker of a test's own, and clients that speak frames with it."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ansible_gangway
from support import frames
from support.frames import DATA, HELLO, REQUEST, STDERR, STDOUT, Ended, Frame

ACQUIRE, AVAILABLE, START, UNUSABLE = 64, 65, 66, 67
SPAWN, ENDED, ADOPT, GIVE_UP = 68, 69, 70, 71
GONE, LOST, RESET, STATUS, STOP, DONE = 72, 73, 74, 75, 76, 77

PACKAGE = Path(ansible_gangway.__file__).parent.parent
START_ONE = (
    "import os, sys; from ansible_gangway import _core\n"
    "python, package = map(os.fsencode, sys.argv[1:])\n"
    "try: print(_core.broker_start(python=python, package=package))\n"
    "except _core.Error as error: sys.exit(str(error))"
)
PYTHON = (sys.executable, "-I")


def b64(data: str | bytes) -> str:
    """Return bytes as heads carry them."""
    raw = data.encode() if isinstance(data, str) else data
    return base64.b64encode(raw).decode()


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not, once all of its threads have ended."""
    with suppress(OSError):
        threads = len(os.listdir(f"/proc/{pid}/task"))
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" or threads > 1
    return False


def within(seconds: float, condition: Any) -> None:
    """Wait until `condition()` is true; a busy machine may take three times as long."""
    end = time.monotonic() + 3 * seconds
    while not condition():
        assert time.monotonic() < end, f"not within {3 * seconds} s"
        time.sleep(0.02)


class Broker:
    """A control directory under `where`, and the broker in it once one was started."""

    def __init__(self, where: Path) -> None:
        self.runtime = where
        self.state = where / "state"
        self.directory = where / "gangway"
        self.pids: set[int] = set()

    @property
    def env(self) -> dict[str, str]:
        """The environment in which this is the user's broker."""
        return {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_STATE_HOME": str(self.state),
        }

    def starter(self, python: str = sys.executable, **popen: Any) -> subprocess.Popen[str]:
        """Start a process that connects, prints the broker's pid and ends, or says why not."""
        return subprocess.Popen(
            [sys.executable, "-c", START_ONE, python, str(PACKAGE)],
            **{
                "env": self.env,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                **popen,
            },
        )

    def start(self) -> int:
        """Connect to the broker, starting one if there is none; return its pid."""
        out, err = self.starter().communicate(timeout=30)
        assert out, err
        self.pids.add(int(out))
        return int(out)

    def refusal(self, **popen: Any) -> str:
        """Return the sentence of a start that must fail."""
        starter = self.starter(**popen)
        out, err = starter.communicate(timeout=30)
        assert starter.returncode == 1 and not out, out
        return err.strip()

    @property
    def socket(self) -> Path:
        """Where the broker listens."""
        (path,) = (p for p in self.directory.iterdir() if len(p.name) == 16 and p.is_socket())
        return path

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `gangway broker …`."""
        program = "import sys; from ansible_gangway.cli import main; sys.exit(main())"
        return subprocess.run(
            [sys.executable, "-c", program, "broker", *arguments],
            env=self.env,
            text=True,
            capture_output=True,
            timeout=30,
        )

    def client(self, play: int | None = None, **more: Any) -> Client:
        """Return a connection to it."""
        return Client(self.socket, os.getpid() if play is None else play, **more)

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self.state / "gangway" / "broker.log").read_text()

    def end(self) -> None:
        """Kill what is left of it."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            within(5, lambda pid=pid: not is_alive(pid))


class Client(frames.Agent):
    """A worker, as the broker sees one. Speaks frames as `frames.Agent` does."""

    def __init__(self, path: Path, play: int, seconds: float = 30, greet: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(seconds)
        self.socket.connect(str(path))
        self.socket.setblocking(False)
        self.stdin, self.stdout = os.dup(self.socket.fileno()), self.socket.fileno()
        self.seconds = seconds
        self._in, self._out = bytearray(), bytearray()
        self._next = 0
        self._windows = {}
        self.kept = []
        self.agent = 0
        if greet:
            self.send(HELLO, 0, {"version": 1, "play": play})
            self.hello = self.frame(HELLO, 0).head

    def end(self) -> None:
        """Close the connection."""
        if self.socket.fileno() >= 0:
            os.close(self.stdin)
            self.socket.close()

    def _turn(self, seconds: float | None = None) -> None:
        try:
            super()._turn(seconds)
        except (ConnectionResetError, BrokenPipeError):
            raise Ended from None

    def is_closed(self, seconds: float = 5) -> bool:
        """Whether the broker closes the connection; frames that come before are kept."""
        try:
            while True:
                self.kept.append(self.next_frame(seconds))
        except Ended:
            return True
        except TimeoutError:
            return False

    # Opening

    def acquire(self, key: str = "k", **more: Any) -> int:
        """Send ACQUIRE and return its id."""
        self._next += 1
        head = {
            "target": "t",
            "key": key,
            "label": f"test container {key}",
            "engine": "runc",
            "serves": "commands",
            "persist": 60.0,
            "timeout": 5.0,
            **more,
        }
        self.send(ACQUIRE, self._next, head)
        return self._next

    def answer(self, number: int, seconds: float | None = None) -> Frame:
        """Return the next frame of an id, of whatever kind."""
        for frame in self.kept:
            if frame.id == number:
                self.kept.remove(frame)
                return frame
        while True:
            frame = self.next_frame(seconds)
            if frame.id == number:
                return frame
            self.kept.append(frame)

    def spawn(self, number: int, argv: Sequence[str | bytes], **more: Any) -> None:
        """Send SPAWN."""
        head: dict[str, Any] = {
            "env": [[b64(k), b64(v)] for k, v in os.environ.items()],
            "cwd": b64("/"),
            "umask": 0o22,
            "files": [],
            **more,
        }
        self.send(SPAWN, number, {"argv": [b64(word) for word in argv], **head})

    def output(self, number: int, until: bytes) -> bytes:
        """Return what the process of an opening writes on stdout, to the end of `until`."""
        said = b""
        while until not in said:
            frame = self.answer(number)
            assert frame.kind in (STDOUT, STDERR), frame
            if frame.kind == STDOUT:
                said += frame.payload
        return said

    def open(self, argv: Sequence[str] = PYTHON, change: str = "", **acquire: Any) -> int:
        """Get an agent, opening it if told to; return its number."""
        number = self.acquire(**acquire)
        frame = self.answer(number)
        if frame.kind == START:
            config = {
                "nonce": secrets.token_hex(8),
                "always": True,
                "kill_on_disconnect": False,
                "serves": "commands",
            }
            text = frames.source(config, change)
            self.spawn(number, [*argv, "-c", frames.boot(len(text))])
            for at in range(0, len(text), frames.CHUNK):
                self.send(DATA, number, text[at : at + frames.CHUNK])
            magic = b"\x1egangway-agent " + config["nonce"].encode() + b"\n"
            rest = self.output(number, magic).partition(magic)[2]
            while len(rest) < 9 or len(rest) < 9 + int.from_bytes(rest[5:9]):
                rest += self.output(number, b"")  # at least one more frame
            self.adopt(number, rest[9:])
            frame = self.answer(number)
        assert frame.kind == AVAILABLE, frame
        self.agent = int(frame.head["agent"])
        return self.agent

    def adopt(self, number: int, hello: bytes, **more: Any) -> None:
        """Send ADOPT; `hello` is the agent's head."""
        head = {"hello": json.loads(hello), "stdout": "", "stderr": "", **more}
        self.send(ADOPT, number, head)

    def fake(self, program: str, **acquire: Any) -> int:
        """Adopt a Python program as it is, once it has written a line; return its number."""
        number = self.acquire(**acquire)
        assert self.answer(number).kind == START
        self.spawn(number, [*PYTHON, "-c", program])
        self.output(number, b"\n")
        hello = b'{"version":1,"pid":1,"uid":0,"python":"3","executable":"","instance":""}'
        self.adopt(number, hello)
        frame = self.answer(number)
        assert frame.kind == AVAILABLE, frame
        self.agent = int(frame.head["agent"])
        return self.agent

    # Requests go to the agent that was opened last.

    def send(self, kind: int, number: int = 0, payload: bytes | Mapping[str, Any] = b"") -> None:
        """Send a frame; REQUEST gets the agent's number before its head."""
        if kind == REQUEST and isinstance(payload, Mapping):
            payload = self.agent.to_bytes(4) + json.dumps(payload).encode()
        super().send(kind, number, payload)

    def status(self) -> dict[str, Any]:
        """Ask what there is."""
        return self.ask(STATUS)

    def ask(self, kind: int, head: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a question and return the head of DONE."""
        self._next += 1
        self.send(kind, self._next, head or b"")
        return self.frame(DONE, self._next).head
