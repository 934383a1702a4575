"""exec_command: exit status, stdout, stderr and stdin are exact."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ansible_gangway import _core
from support import command_lines
from support.alive import ended_within
from support.targets import Target

EVERY_BYTE = bytes(range(256))


@pytest.mark.parametrize("rc", [0, 1, 2, 125, 126, 127, 130, 137, 255])
def test_exit_status(target: Target, rc: int) -> None:
    """No status is taken for the engine's own."""
    assert target.session().exec_command(b"exit %d" % rc) == (rc, b"", b"")


def test_a_command_that_a_signal_ends(target: Target) -> None:
    """128 + n, as a shell reports it."""
    assert target.session().exec_command(b"kill -TERM $$") == (143, b"", b"")


def test_streams_stay_apart(target: Target) -> None:
    """Nothing is merged, and no engine's own words are added."""
    result = target.session().exec_command(b"echo out; echo err >&2; exit 3")
    assert result == (3, b"out\n", b"err\n")


def test_binary_both_ways(target: Target) -> None:
    """All 256 byte values, line endings and invalid UTF-8 included."""
    data = EVERY_BYTE + b"\r\n\x10\x11\r" + EVERY_BYTE
    assert target.session().exec_command(b"cat", data) == (0, data, b"")
    assert target.session().exec_command(b"cat >&2", data) == (0, b"", data)


def test_no_stdin_is_empty(target: Target) -> None:
    """A command that reads gets end of file, with and without b''."""
    assert target.session().exec_command(b"cat") == (0, b"", b"")
    assert target.session().exec_command(b"cat", b"") == (0, b"", b"")


def test_stdin_that_nobody_reads(target: Target) -> None:
    """A command may end before it has read everything."""
    assert target.session().exec_command(b"exit 4", bytes(5 << 20))[0] == 4


def test_megabytes_both_ways_at_once(target: Target) -> None:
    """No direction waits for the other."""
    data = os.urandom(16 << 20)
    rc, stdout, stderr = target.session().exec_command(b"cat", data)
    assert (rc, stderr) == (0, b"")
    assert stdout == data


def test_lines_are_for_the_shell(target: Target) -> None:
    """The command line is a shell's, of the shell that was asked for."""
    assert target.session().exec_command(b"echo a b | tr a-z A-Z")[1] == b"A B\n"
    bash = target.session(shell=b"/bin/bash")
    assert bash.exec_command(b"echo ${BASH_VERSION%%.*} $0")[1] == b"5 /bin/bash\n"


def test_bytes_that_are_no_text(target: Target) -> None:
    """A command line is bytes: engines that speak JSON do not change them."""
    rc, stdout, _ = target.session().exec_command(b"printf %s '\xff\xfe\n\n'")
    assert (rc, stdout) == (0, b"\xff\xfe\n\n")


def test_words_that_look_like_an_engines_failure(target: Target) -> None:
    """Who failed decides, never what was printed."""
    words = b"Error response from daemon: No such container: x; container does not exist"
    result = target.session().exec_command(b"echo '%s' >&2; exit 1" % words)
    assert result == (1, b"", words + b"\n")


def test_environment_and_directory(target: Target) -> None:
    """extra_env and working_dir reach the command; values may be of several lines."""
    env = {b"PLAIN": b"a b", b"QUOTES": b'it\'s "$x"', b"LINES": b"one\ntwo\n", b"EMPTY": b""}
    session = target.session(env=env, working_dir=b"/usr/lib")
    printed = session.exec_command(
        b'printf "%s|" "$PLAIN" "$QUOTES" "$LINES" "${EMPTY-unset}" "$PWD"; cat', b"in"
    )
    assert printed == (0, b'a b|it\'s "$x"|one\ntwo\n||/usr/lib|in', b"")


def test_environment_is_not_on_a_command_line(target: Target) -> None:
    """No process of this machine, inside or outside the container, shows a value."""
    secret, marker = "s3cret-value", "gangway-marker"
    session = target.session(env={b"SECRET": secret.encode()})
    with command_lines.watched() as lines:
        done = session.exec_command(f"echo $SECRET; sleep 2; : {marker}".encode())
    assert done == (0, f"{secret}\n".encode(), b"")
    assert lines.having(marker)  # it did look at the right processes
    assert lines.having(secret) == []


# What a program inherits, besides its streams.
SURROUNDINGS = rb"""
env -0 | sort -z | grep -zv '^\(_\|PWD\|SHLVL\)='; pwd; umask; id; ulimit -a
cat /proc/self/oom_score_adj /proc/self/cgroup; readlink /proc/self/ns/*
grep '^Sig\(Ign\|Blk\)\|^NoNewPrivs\|^Cap\|^Seccomp:' /proc/self/status; ls /proc/self/fd | wc -l
"""


def test_surroundings(target: Target) -> None:
    """A command finds what the engine's own exec gives: variables, limits, signals, rights."""
    ours = target.session().exec_command(SURROUNDINGS)
    assert ours[0] == 0 and ours[2] == b"", ours
    theirs = target.run("target", SURROUNDINGS.decode(), b"")
    assert surroundings(ours[1]) == surroundings(theirs)


def surroundings(printed: bytes) -> list[bytes]:
    """Return the lines, of the signals only those that programs may use.

    glibc's posix_spawn leaves signal 32, its own, ignored, and runc hands that on.
    """

    def masked(line: bytes) -> bytes:
        name, _, value = line.partition(b":\t")
        return b"%s %x" % (name, int(value, 16) & 0x7FFFFFFF) if name.startswith(b"Sig") else line

    return list(map(masked, printed.splitlines()))


def test_a_reader_that_goes_away(target: Target) -> None:
    """SIGPIPE does what it does in a shell, wherever the command was started."""
    rc, stdout, stderr = target.session().exec_command(b"(yes; echo $? >&2) | head -n 1")
    assert (rc, stdout, stderr) == (0, b"y\n", b"141\n")


def test_many_at_once(target: Target) -> None:
    """Nobody gets another's bytes, and each has its own end."""

    def call(number: int) -> tuple[int, bytes, bytes]:
        data = b"%d," % number * 50_000
        session = target.session(env={b"NUMBER": b"%d" % number})
        return session.exec_command(b'cat; echo "$NUMBER" >&2; exit "$NUMBER"', data)

    with ThreadPoolExecutor(8) as pool:
        for number, result in enumerate(pool.map(call, range(16))):
            assert result == (number, b"%d," % number * 50_000, b"%d\n" % number)


def test_a_background_child_holds_nobody_up(target: Target) -> None:
    """The call ends with the command, although a child keeps its stdout open."""
    started = time.monotonic()
    assert target.session().exec_command(b"sleep 30 & echo started") == (0, b"started\n", b"")
    assert time.monotonic() - started < 15


def test_a_shell_killed_from_within(target: Target) -> None:
    """`pkill -f` often hits its own shell; that is a failed command, not a lost container."""
    pkill = (
        b"for p in /proc/[0-9]*; do"
        b" if grep -qs 'gangway-[p]kill' $p/cmdline; then kill -TERM ${p#/proc/}; fi; done;"
    )
    command = b": gangway-pkill; " + pkill + b" sleep 1; echo never"
    assert target.session().exec_command(command) == (143, b"", b"")


def test_busybox(target: Target) -> None:
    """A container with nothing but busybox is enough for commands."""
    session = target.session("busybox")
    assert session.exec_command(b"cat; echo err >&2; exit 9", EVERY_BYTE) == (
        9,
        EVERY_BYTE,
        b"err\n",
    )


@pytest.mark.parametrize("engine_without_users", ["kubectl"])
def test_users(target: Target, engine_without_users: str) -> None:
    """remote_user by name and number, with the container's own groups and home directory."""
    if target.engine == engine_without_users:
        with pytest.raises(TypeError):
            target.session(user=b"app")
        return
    who = b'echo "$(id -u):$(id -g) $(id -G) $HOME"'
    for user in (b"app", b"1000"):
        assert target.session(user=user).exec_command(who)[1] == b"1000:1000 1000 2000 /home/app\n"
    assert target.session(user=b"app:extra").exec_command(who)[1].startswith(b"1000:2000 2000")
    assert target.session(user=b"0").exec_command(who)[1] == b"0:0 0 /root\n"


def test_an_interruption_ends_the_command_in_the_container(target: Target) -> None:
    """What a task's `timeout:` raises goes on, soon, and the command does not outlive it."""

    class Timeout(BaseException):
        pass

    def stop(*_: object) -> None:
        raise Timeout

    mark = f"/tmp/gangway-{os.getpid()}-{target.engine}"
    before = signal.signal(signal.SIGALRM, stop)
    session = target.session()
    session.exec_command(b"rm -f " + mark.encode())
    started = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.5)
        with pytest.raises(Timeout):
            session.exec_command(f"echo $$ >{mark}; sleep 60; echo over >{mark}".encode())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 15
    pid = target.run("target", f"cat {mark}").decode().strip()
    assert ended_within(target, pid, 10)


def test_a_command_that_is_too_long_is_refused(target: Target) -> None:
    """One clear sentence instead of the system's E2BIG."""
    with pytest.raises(
        _core.Error, match=r"longer than the system allows|[Aa]rgument list too long"
    ):
        target.session().exec_command(b": " + b"x" * 3_000_000)
