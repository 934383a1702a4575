"""What the children of an agent are given: all that a process of the exec itself would have."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from agent.conftest import Start
from support.frames import Agent, Ended, without_own_signals
from support.skip import cannot_run

NOBODY = 65534
# What a program sees of itself, whatever its process and session ids are.
LOOK = """
umask; pwd; ulimit -a; ulimit -n -H
grep -E '^(Sig(Blk|Ign|Cgt)|Cap|NoNewPrivs|Seccomp|Groups|[UG]id)' /proc/self/status
cat /proc/self/oom_score_adj; cd /proc/$$/fd; echo [0-9]*
tr '\\0' '\\n' </proc/$$/environ
"""


def before_exec() -> None:
    """Give a process signals, limits and a mask that are not the usual ones."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.umask(0o027)
    resource.setrlimit(resource.RLIMIT_NOFILE, (90, 512))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 4096))
    Path("/proc/self/oom_score_adj").write_text("300")
    os.setsid()


SURROUNDINGS: dict[str, Any] = {
    "cwd": "/usr",
    "env": {b"A": b"it's\n\xff $x", b"EMPTY": b"", b"LC_ALL": b"C", b"PATH": os.environb[b"PATH"]},
}


def without_children() -> None:
    """Do the same, and leave no zombies: then an agent must fork by itself."""
    before_exec()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


@pytest.mark.parametrize("prepare", [before_exec, without_children])
def test_children_are_as_the_exec_itself(
    start: Start, python: str, prepare: Callable[[], None]
) -> None:
    surroundings = SURROUNDINGS | {"preexec_fn": prepare}
    plain = subprocess.run(
        ["/bin/sh", "-c", LOOK], stdin=subprocess.PIPE, capture_output=True, **surroundings
    )
    assert plain.returncode == 0, plain
    result = start(python, **surroundings).run(LOOK)
    assert result.stderr == plain.stderr
    assert without_own_signals(result.stdout) == without_own_signals(plain.stdout)
    for line in (b"0027", b"/usr", b"300", b"A=it's", b"\xff $x"):
        assert line in plain.stdout.split(b"\n")


def test_the_environment_is_that_of_the_exec(start: Start, python: str) -> None:
    """Python's own differs: it sets LC_CTYPE where the locale is C."""
    env = {b"X\xff": b"\xfe=\n", b"LANG": b"C", b"PYTHONPATH": b"/nowhere", b"_": b"x"}
    with_path = env | {b"PATH": os.environb[b"PATH"]}
    plain = subprocess.run(["/usr/bin/cat", "/proc/self/environ"], stdout=-1, env=with_path)
    result = start(python, env=with_path).run("cat /proc/$$/environ")
    assert result.stdout == plain.stdout


def test_a_child_leads_its_session(agent: Agent) -> None:
    result = agent.run("cut -d' ' -f1,5,6 /proc/$$/stat")
    assert result.started
    assert result.stdout.split() == [b"%d" % result.started["pid"]] * 3


def test_the_agent_is_the_first_victim_and_its_children_are_not(start: Start, python: str) -> None:
    agent = start(python)
    pid = agent.hello["pid"]
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
    own = Path("/proc/self/oom_score_adj").read_bytes()
    assert agent.run("cat /proc/self/oom_score_adj").stdout == own


def test_the_agent_sits_at_the_root(start: Start, python: str, tmp_path: Path) -> None:
    agent = start(python, cwd=tmp_path)
    assert os.readlink(f"/proc/{agent.hello['pid']}/cwd") == "/"
    assert agent.run("pwd").stdout == os.fsencode(tmp_path) + b"\n"
    (tmp_path / "shell").symlink_to("/bin/sh")
    assert agent.run("echo $0", shell=b"./shell").stdout == b"./shell\n"
    tmp_path.rename(tmp_path.with_name("moved"))
    result = agent.run("pwd")
    tmp_path.with_name("moved").rename(tmp_path)
    reason = f"its directory {tmp_path} cannot be entered: No such file or directory"
    assert result.exit == {"plain": reason}
    assert agent.run("pwd").exit == {"rc": 0}


@pytest.mark.parametrize("module", ["json", "select", "os", "struct", "fcntl", "binascii", "re"])
def test_nothing_is_imported_from_the_directory(
    module: str, start: Start, python: str, tmp_path: Path
) -> None:
    (tmp_path / f"{module}.py").write_text("open('imported', 'w')\nraise SystemExit(9)\n")
    agent = start(python, cwd=tmp_path)
    assert agent.run("echo fine").stdout == b"fine\n"
    file = tmp_path / "data"
    assert agent.put(str(file), b"data").exit == {"done": "ok"}
    assert agent.fetch(str(file)).stdout == b"data"
    assert not (tmp_path / "imported").exists()


@pytest.fixture
def public() -> Iterator[Path]:
    """Return a directory that everybody may enter."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_directory_that_is_gone(start: Start, python: str, public: Path) -> None:
    gone = public / "gone"
    gone.mkdir()
    agent = start("/bin/sh", "-c", f'cd {gone}; rmdir {gone}; exec "$@"', "sh", python)
    assert agent.run("echo fine; /bin/pwd").stdout == b"fine\n"
    assert agent.put(f"{public}/file", b"data").exit == {"done": "ok"}


@pytest.mark.parametrize("mode", [0o700, 0o711, 0o744])
def test_a_directory_of_somebody_else(start: Start, public: Path, mode: int) -> None:
    """As after su, which leaves a user in root's own directory."""
    python = "/usr/bin/python3"
    if not os.path.exists(python):
        cannot_run(f"an agent of another user: there is no {python}, which everybody may run")
    inner = public / "closed" / "inner"
    inner.mkdir(parents=True)
    inner.parent.chmod(mode)
    inner.chmod(mode)
    become = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", python]
    agent = start(*become, cwd=inner)
    assert agent.hello["uid"] == NOBODY
    result = agent.run("readlink /proc/self/cwd; id -u")
    assert result.stdout == f"{inner}\n{NOBODY}\n".encode()


def test_few_descriptors(start: Start, newest: str) -> None:
    """What cannot be started takes the plain way, and nothing else suffers."""
    agent = start("/bin/sh", "-c", 'ulimit -n 30; exec "$@"', "sh", newest)
    numbers = [agent.start("read x; exit 3") for _ in range(20)]
    ends = [agent.finish(number, b"x\n").exit for number in numbers]
    assert {"rc": 3} in ends
    assert {"plain": "the agent could not do it: [Errno 24] Too many open files"} in ends
    assert agent.run("exit 4").exit == {"rc": 4}


def test_closed_stderr_and_inherited_descriptors(start: Start, python: str, tmp_path: Path) -> None:
    agent = start("/bin/sh", "-c", 'exec 7>$0 2>&-; exec "$@"', str(tmp_path / "seven"), python)
    result = agent.run("echo out; echo err >&2; echo seven >&7")
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")
    assert (tmp_path / "seven").read_text() == "seven\n"


def test_what_is_printed_first_is_skipped(start: Start, newest: str) -> None:
    agent = start("/bin/sh", "-c", 'echo Welcome; echo BECOME; exec "$@"', "sh", newest)
    assert agent.before == b"Welcome\nBECOME\n"
    assert agent.run("echo x").stdout == b"x\n"


def test_too_old_a_python_says_so(start: Start, repository: Path) -> None:
    found = subprocess.run(
        [repository / "scripts" / "find-python", "2.7"], stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    if not found:
        cannot_run("an agent on Python 2.7: there is none on this machine")
    with pytest.raises(
        Ended, match=r"^1: Python 2\.7 is too old, 3\.6 is the first that serves\n$"
    ):
        start(found)


def test_hello(start: Start, python: str) -> None:
    first, second = start(python), start(python)
    hello = first.hello
    version = subprocess.run([python, "-c", "import sys; print(sys.version.split()[0])"], stdout=-1)
    assert hello["python"] == version.stdout.decode().strip()
    assert (hello["version"], hello["uid"]) == (1, os.getuid())
    assert os.path.samefile(hello["executable"], python)
    assert hello["instance"] == second.hello["instance"]
    assert Path("/proc/sys/kernel/random/boot_id").read_text().strip() in hello["instance"]
    assert set(hello) == {"version", "pid", "uid", "python", "executable", "instance"}
    assert sys.platform == "linux"
