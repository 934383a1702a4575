"""One broker, started by whoever comes first, in a directory that is ours alone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.broker import PACKAGE, START_ONE, STOP, Broker, is_alive, within
from support.skip import cannot_run

NOBODY = 65534


def test_a_hundred_starts_at_once_get_one_broker(broker: Broker) -> None:
    program = (
        "import os, sys, time\n"
        "from ansible_gangway import _core\n"
        "os.read(0, 1)\n"
        "python, package = map(os.fsencode, sys.argv[1:])\n"
        "for _ in range(5):\n"
        "    if not os.fork(): break\n"
        "pid = _core.broker_start(python=python, package=package)\n"
        "os.write(1, b'%d\\n' % pid)\n"
        "while True:\n"
        "    try: os.wait()\n"
        "    except ChildProcessError: break\n"
    )
    ready, go = os.pipe()
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", program, sys.executable, str(PACKAGE)],
            env=broker.env,
            stdin=ready,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(17)  # each becomes six
    ]
    os.close(ready)
    os.close(go)
    said = [starter.communicate(timeout=60) for starter in starters]
    assert not any(err for _, err in said), said
    pids = [int(line) for out, _ in said for line in out.splitlines()]
    broker.pids |= set(pids)
    assert len(pids) == 102 and len(set(pids)) == 1
    assert broker.log.count("started") == 1


def test_nothing_is_left_when_nobody_needs_it(broker: Broker) -> None:
    pid = broker.start()
    process = Path(f"/proc/{pid}")
    assert process.joinpath("comm").read_text() == "gangway-broker\n"
    assert os.readlink(process / "cwd") == "/"
    within(9, lambda: not is_alive(pid))
    assert [path.name for path in broker.runtime.iterdir()] == ["state"]
    lines = broker.log.splitlines()
    assert [line.split(": ", 1)[1] for line in lines] == ["started, version 0.1.0", "ended"]


def test_it_has_nothing_of_its_starter(broker: Broker) -> None:
    secret = {"ANSIBLE_BECOME_PASS": "secret", **broker.env}
    hold, write = os.pipe()
    starter = broker.starter(env=secret, pass_fds=[write], preexec_fn=lambda: os.umask(0))
    os.close(write)
    out, err = starter.communicate(timeout=30)  # its stdout and stderr reach their ends
    assert not err
    pid = int(out)
    broker.pids.add(pid)
    assert os.read(hold, 1) == b"" and is_alive(pid)
    os.close(hold)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert status["Umask"] == "0077" and int(status["SigBlk"], 16) == 0
    ignored = int(status["SigIgn"], 16)
    assert [number for number in signal.valid_signals() if ignored >> (number - 1) & 1] == [
        signal.SIGPIPE
    ]
    assert status["Threads"] == "1"
    assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert os.getsid(pid) != os.getsid(0)
    links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    assert not [link for link in links if link.startswith("pipe:")], links


def test_a_killed_broker_is_replaced(broker: Broker) -> None:
    first = broker.start()
    os.kill(first, signal.SIGKILL)
    within(5, lambda: not is_alive(first))
    assert broker.socket.is_socket()
    second = broker.start()
    assert second != first and broker.start() == second


def test_a_starter_that_is_killed_leaves_no_lock(broker: Broker) -> None:
    broker.directory.mkdir(mode=0o700)
    name = broker.start()
    os.kill(name, signal.SIGKILL)
    lock = next(path for path in broker.directory.iterdir() if path.suffix == ".lock")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX);"
            "print(flush=True); time.sleep(60)",
            str(lock),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    holder.stdout.readline()
    starter = broker.starter()
    time.sleep(0.5)
    assert starter.poll() is None
    holder.kill()
    holder.communicate()
    out, err = starter.communicate(timeout=10)
    assert out, err
    broker.pids.add(int(out))


def test_a_start_is_interrupted_at_once(broker: Broker) -> None:
    slow = broker.runtime / "python"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    starter = broker.starter(python=str(slow))
    within(5, lambda: any(broker.runtime.glob("gangway/*.lock")))
    time.sleep(0.3)
    begun = time.monotonic()
    starter.send_signal(signal.SIGINT)
    _, err = starter.communicate(timeout=10)
    assert "KeyboardInterrupt" in err and time.monotonic() - begun < 8


def _not_ours(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    os.chown(directory, NOBODY, NOBODY)


def _writable(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)


def _a_link(directory: Path) -> None:
    real = directory.with_name("real")
    real.mkdir(mode=0o700)
    directory.symlink_to(real)


def _a_file(directory: Path) -> None:
    directory.write_text("")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (
            _not_ours,
            "DIR belongs to the user 65534: set XDG_RUNTIME_DIR to a directory of your own",
        ),
        (_writable, "others have access to DIR (its mode is 0777): make it 0700, or set XDG_RUN"),
        (_a_link, "DIR is not a directory: remove it, or set XDG_RUNTIME_DIR to"),
        (_a_file, "DIR is not a directory: remove it, or set XDG_RUNTIME_DIR to"),
    ],
)
def test_a_directory_that_is_not_ours_alone_is_refused(
    broker: Broker, spoil: Callable[[Path], None], why: str
) -> None:
    spoil(broker.directory)
    why = why.replace("DIR", str(broker.directory), 1)
    assert broker.refusal().startswith(f"no broker can be used: {why}")


def test_a_path_too_long_is_refused(broker: Broker) -> None:
    broker.runtime = broker.runtime / ("x" * 90)
    broker.runtime.mkdir()
    said = broker.refusal()
    assert "bytes long and a socket's may be 107: set XDG_RUNTIME_DIR to a shorter" in said


@contextmanager
def mounted(where: Path, options: str) -> Iterator[None]:
    """Have a small file system there."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(where)]).returncode:
        cannot_run("a file system cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_full_disk_is_named(broker: Broker) -> None:
    with mounted(broker.runtime, "nr_inodes=1"):
        said = broker.refusal()
        assert said.startswith(f"no broker can be used: {broker.directory}: No space left"), said
        subprocess.run(["mount", "-o", "remount,nr_inodes=2", str(broker.runtime)], check=True)
        assert ".lock: No space left on device" in broker.refusal()
        subprocess.run(["mount", "-o", "remount,nr_inodes=3", str(broker.runtime)], check=True)
        said = broker.refusal()  # the lock has room, the socket has none
        assert "its start failed" in said and "No space left on device" in said, said


def test_a_read_only_disk_is_named_and_a_noexec_one_is_fine(broker: Broker) -> None:
    with mounted(broker.runtime, "noexec"):
        pid = broker.start()
        os.kill(pid, signal.SIGKILL)
        within(5, lambda: not is_alive(pid))
        subprocess.run(["mount", "-o", "remount,ro", str(broker.runtime)], check=True)
        assert "Read-only file system" in broker.refusal()


def test_the_directory_of_the_user_before_is_not_taken(broker: Broker) -> None:
    os.chown(broker.runtime, NOBODY, NOBODY)  # as XDG_RUNTIME_DIR is after su
    temporary = broker.runtime / "tmp"
    temporary.mkdir()
    broker.directory = temporary / f"gangway-{os.geteuid()}"
    out, err = broker.starter(env={**broker.env, "TMPDIR": str(temporary)}).communicate(timeout=20)
    assert out, err
    broker.pids.add(int(out))
    assert broker.socket.is_socket()


def test_a_python_that_cannot_start_it_is_named(broker: Broker) -> None:
    said = broker.starter(python="/no/such/python").communicate(timeout=20)[1].strip()
    assert said == (
        "no broker can be used: /no/such/python could not start it (No such file or directory "
        "(os error 2)): make it executable again"
    )
    old = broker.runtime / "python"
    old.write_text("#!/bin/sh\necho 'ImportError: no such thing' >&2; exit 1\n")
    old.chmod(0o755)
    said = broker.starter(python=str(old)).communicate(timeout=20)[1].strip()
    assert said == (
        "no broker can be used: its start failed (exit status: 1): ImportError: no such thing"
    )
    broker.start()  # nothing of that is in the way


@pytest.fixture
def name(broker: Broker) -> Path:
    """Return where the broker would listen; nobody does."""
    pid = broker.start()
    path = broker.socket
    os.kill(pid, signal.SIGKILL)
    within(5, lambda: not is_alive(pid))
    path.unlink()
    return path


@contextmanager
def listening(path: Path, answer: bytes | None, uid: int = 0) -> Iterator[list[int]]:
    """Have a process of another program there; None closes every connection at once."""
    accepted: list[int] = []
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    if uid:
        # The kernel notes who called listen().
        with suppress(ProcessLookupError):
            pid = os.fork()
            if not pid:
                os.setuid(uid)
                server.listen()
                os._exit(0)
            os.waitpid(pid, 0)
    else:
        server.listen()
    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection = server.accept()[0]
            except OSError:
                return
            accepted.append(1)
            if answer is None:
                connection.close()
                continue
            held.append(connection)
            with suppress(BrokenPipeError):
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield accepted
    finally:
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        server.close()
        for connection in held:
            connection.close()


def test_another_users_process_on_the_socket_gets_no_word(broker: Broker, name: Path) -> None:
    with listening(name, b"", uid=NOBODY):
        assert broker.refusal() == (
            f"no broker can be used: the process that listens on {name} belongs to the user "
            "65534: remove that file"
        )


def test_another_user_is_not_served(broker: Broker) -> None:
    broker.start()
    program = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        "print(s.recv(9))"
    )
    who = [f"--reuid={NOBODY}", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    command = ["setpriv", *who, sys.executable, "-I", "-c", program, str(broker.socket)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert said.stdout == "b''\n", said
    assert "a connection of another user was closed" in broker.log


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "a frame of the unknown kind 83"),
        (b"\x01\0\0\0\0\xff\xff\xff\xff", "a frame of 4294967295 bytes"),
        (b"\x01\0\0\0\0\0\0\0\x02{}", "it did not greet"),
        (b"", "it does not answer"),
    ],
)
def test_garbage_on_the_socket_is_no_broker(
    broker: Broker, name: Path, answer: bytes, why: str
) -> None:
    with listening(name, answer):
        begun = time.monotonic()
        assert broker.refusal() == (
            f"no broker can be used: what listens on {name} is no broker of this version "
            f"({why}): end it, or remove that file"
        )
        assert time.monotonic() - begun < 15
        shown = broker.cli("status")
        assert shown.returncode == 1 and why in shown.stderr


def test_one_that_closes_every_connection_is_given_up(broker: Broker, name: Path) -> None:
    with listening(name, None) as accepted:
        assert broker.refusal().endswith("closes every connection: end it")
        assert len(accepted) == 3


def test_a_build_has_a_broker_of_its_own(broker: Broker) -> None:
    first = broker.start()
    copy = broker.runtime / "copy"
    shutil.copytree(PACKAGE / "ansible_gangway", copy / "ansible_gangway")
    program = f"import sys; sys.path.insert(0, {str(copy)!r})\n{START_ONE}"
    starter = subprocess.Popen(
        [sys.executable, "-I", "-c", program, sys.executable, str(copy)],
        env=broker.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    second = int(starter.communicate(timeout=20)[0])
    broker.pids.add(second)
    assert first != second
    shown = broker.cli("status").stdout
    assert f"broker {first}: 0 agents" in shown and f"broker {second}: 0 agents" in shown
    assert broker.cli("stop").stdout == "2 brokers told to end once nothing runs on their agents\n"
    within(3, lambda: not is_alive(first) and not is_alive(second))
    assert not broker.directory.exists()
    assert broker.cli("status").stdout == "no broker runs\n"


@pytest.mark.parametrize(
    "enter",
    [
        ["unshare", "--mount"],
        ["unshare", "--net"],
        ["unshare", "--user", "--map-root-user"],
        ["unshare", "--pid", "--fork", "--mount-proc"],
        ["setpriv", "--groups=0,4711"],
    ],
    ids=["mount", "net", "user", "pid", "groups"],
)
def test_namespaces_and_groups_have_a_broker_of_their_own(broker: Broker, enter: list[str]) -> None:
    """What it would start there is not what a worker here would."""
    own = broker.start()
    # In a pid namespace the broker ends with this, its PID 1.
    program = f"{START_ONE}\nsys.stdin.read()"
    command = [*enter, sys.executable, "-u", "-c", program, sys.executable, str(PACKAGE)]
    with subprocess.Popen(
        command, env=broker.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as there:
        assert there.stdout and there.stdin
        assert there.stdout.readline().strip().isdigit()
        names = [path for path in broker.directory.iterdir() if path.is_socket()]
        assert len(names) == 2 and broker.start() == own
        for path in names:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                # The kernel tells who listens, by the number that it has here.
                peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4)
                broker.pids.add(int.from_bytes(peer, sys.byteorder))
        assert len(broker.pids) == 2
        there.stdin.close()
        assert there.wait(20) == 0


def test_a_directory_that_is_removed_under_a_broker(broker: Broker) -> None:
    """As at a logout: the next worker has a broker all the same, which the first leaves alone."""
    first = broker.start()
    with broker.client() as client:
        client.open()
        shutil.rmtree(broker.directory)
        second = broker.start()
        assert second != first
        assert client.run("echo on").stdout == b"on\n"
        client.ask(STOP)
    within(9, lambda: not is_alive(first))
    assert broker.socket.is_socket() and broker.start() == second
