"""Agents in containers, entered by `runc exec`."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.conftest import Start
from support import beds
from support.frames import END, RETIRE, STARTED, Agent, Ended, without_own_signals
from support.modules import Modules
from support.targets import Runc

MIB = 1 << 20


def enter(runc: Runc, container: str, *options: str) -> list[str]:
    """Return the command line that ends in the container's Python."""
    return [*runc.client, "exec", *options, container, "python3"]


def bundle(runc: Runc, container: str) -> Path:
    """Return the directory of a container of the bed."""
    return Path(runc.env["GANGWAY_RUNC_ROOT"]).parent / "containers" / container


@pytest.fixture
def inside(start: Start, runc: Runc) -> Agent:
    """Return an agent in the container `target`."""
    return start(*enter(runc, "target"))


@pytest.fixture(scope="module")
def readonly(runc: Runc) -> Iterator[str]:
    """Return a container as `runc spec` describes it: a read-only root, few capabilities."""
    beds.call("runc", "delete", "agent-readonly")
    beds.call("runc", "create", "agent-readonly", "--readonly")
    yield "agent-readonly"
    beds.call("runc", "delete", "agent-readonly")


def test_commands_and_files(inside: Agent, runc: Runc) -> None:
    assert inside.hello["executable"] == "/usr/bin/python3"
    assert inside.run("cat; exit 9", b"data").exit == {"rc": 9}
    assert inside.put("/tmp/agent file", b"data").exit == {"done": "ok"}
    assert inside.fetch("/tmp/agent file").stdout == b"data"
    assert runc.run("target", "cat '/tmp/agent file'; rm '/tmp/agent file'") == b"data"


def test_64_mib_both_ways(inside: Agent) -> None:
    data = os.urandom(MIB) * 64
    assert inside.run("cat", data).stdout == data


# What a process sees of itself, apart from its ids and those of the exec.
LOOK = """
umask; pwd; ulimit -a; ulimit -H -a; cat /proc/self/oom_score_adj; cat /proc/self/cgroup
grep -E '^(Sig(Pnd|Blk|Ign|Cgt)|Cap|NoNewPrivs|Seccomp|Groups|[UG]id)' /proc/self/status
cat /proc/self/attr/current
ls -l /proc/self/ns | sed 's/.* \\([a-z_]*\\) -> /\\1 /'; cd /proc/$$/fd; echo [0-9]*
tr '\\0' '\\n' </proc/$$/environ; true
"""


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--user", "1000:1000"),
        ("--user", "1000:1000", "--additional-gids", "2000"),
        ("--cwd", "/usr/share", "--env", "A=it's $x", "--env", "LC_ALL=C", "--env", "HOME=/x"),
    ],
    ids=["root", "user", "groups", "directory and environment"],
)
@pytest.mark.parametrize("container", ["target", "agent-readonly"])
def test_children_are_as_of_a_plain_exec(
    container: str, options: tuple[str, ...], start: Start, runc: Runc, readonly: str
) -> None:
    argv = [*runc.client, "exec", *options, container, "/bin/sh", "-c", LOOK]
    plain = subprocess.run(argv, stdin=subprocess.PIPE, capture_output=True, timeout=30)
    result = start(*enter(runc, container, *options)).run(LOOK)
    assert result.exit == {"rc": 0}
    assert without_own_signals(result.stdout) == without_own_signals(plain.stdout)
    assert result.stderr == plain.stderr
    assert b"\n0022\n" in b"\n" + plain.stdout


def test_a_read_only_root(start: Start, runc: Runc, readonly: str) -> None:
    agent = start(*enter(runc, readonly))
    assert agent.run("exit 3").exit == {"rc": 3}
    assert agent.put("/etc/new", b"data").exit == {"failed": "Read-only file system"}
    assert agent.put("/dev/shm/new", b"data").exit == {"done": "ok"}
    assert agent.fetch("/dev/shm/new").stdout == b"data"


def test_no_execution_from_tmp(start: Start, runc: Runc) -> None:
    with configured(runc, "agent-noexec", tmpfs("/tmp", "noexec")):
        agent = start(*enter(runc, "agent-noexec", "--cwd", "/tmp"))
        assert agent.run("cp /bin/true . && ./true").exit == {"rc": 126}
        assert agent.put("/tmp/file", b"data").exit == {"done": "ok"}


@pytest.mark.parametrize("user", ["0:0", "1000:1000"])
def test_processes_hidden_from_users(start: Start, runc: Runc, user: str) -> None:
    def change(config: dict[str, Any]) -> None:
        proc = next(mount for mount in config["mounts"] if mount["destination"] == "/proc")
        proc["options"] = ["hidepid=2"]

    with configured(runc, "agent-hidepid", change):
        agent = start(*enter(runc, "agent-hidepid", "--user", user))
        assert bool(agent.hello["instance"]) is (user == "0:0")
        number = agent.start("sleep 30 & sleep 31")
        agent.send(END, number)
        agent.frame(STARTED, number)
        agent.cancel(number)
        assert agent.finish(number, end=False).exit == {"rc": 143}
        look = "grep -alse '^sleep.3[01]' /proc/[0-9]*/cmdline || test $? -lt 3"
        assert runc.run("agent-hidepid", look) == b""


# The container has no `umount`.
WITHOUT_PROC = (
    "import ctypes, os, sys; ctypes.CDLL(None).umount2(b'/proc', 2); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


def test_without_proc(start: Start, runc: Runc) -> None:
    argv = [*runc.client, "exec", "--cap", "CAP_SYS_ADMIN", "--env", "X=1", "target"]
    agent = start(*argv, "unshare", "-m", "python3", "-c", WITHOUT_PROC, "python3")
    assert agent.hello["instance"] == ""
    assert agent.run("ls -A /proc; echo $X; exit 4").stdout == b"1\n"
    assert agent.put("/tmp/file", b"data").exit == {"done": "ok"}
    number = agent.start("sleep 30 & sleep 31")
    agent.frame(STARTED, number)
    agent.cancel(number)
    assert agent.finish(number, end=False).exit == {"rc": 143}
    look = "grep -alse '^sleep.3[01]' /proc/[0-9]*/cmdline || test $? -lt 3"
    assert runc.run("target", look) == b""


def test_nothing_is_written_to_the_disk(start: Start, runc: Runc) -> None:
    """Not even the compiled standard library, where an image lacks it."""
    with runc.container("agent-disk") as container:
        runc.run(container, "rm -rf /usr/lib/python3*/__pycache__ /usr/lib/python3*/*/__pycache__")
        runc.run(container, "python3 -c pass")  # does write, before any program runs
        find = "find / -xdev -not -path '/dev/*' -printf '%p %i %T@ %s\\n' | sort"
        before = runc.run(container, find)
        agent = start(*enter(runc, container))
        assert agent.run("exit 3").exit == {"rc": 3}
        assert agent.put("/dev/shm/file", b"data").exit == {"done": "ok"}
        assert agent.fetch("/dev/shm/file").stdout == b"data"
        assert runc.run(container, find) == before
        assert b"/lib/python3" in before


def test_modules_in_the_directory_are_not_ours(start: Start, runc: Runc) -> None:
    names = ("json", "select", "os", "struct", "_json", "binascii")
    make = "mkdir -p /tmp/trap && cd /tmp/trap && for m in {}; do echo 'x = 1/0' >$m.py; done"
    runc.run("target", make.format(" ".join(names)))
    try:
        agent = start(*enter(runc, "target", "--cwd", "/tmp/trap"))
        assert agent.run("pwd").stdout == b"/tmp/trap\n"
        assert agent.fetch("/tmp/trap/json.py").stdout == b"x = 1/0\n"
    finally:
        runc.run("target", "rm -r /tmp/trap")


def test_sudo_carries_it(start: Start, runc: Runc) -> None:
    """The bootstrap passes through nested shells; what comes first is skipped."""
    argv = [*runc.client, "exec", "--user", "1000:1000", "target", "/bin/sh", "-c"]
    inner = 'sudo -n -H /bin/sh -c \'echo BECOME-SUCCESS; exec python3 -c "$0"\' "$2"'
    runc.run("target", "echo 'app ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/agent")
    try:
        agent = start(*argv, inner, "sh")
        assert agent.before == b"BECOME-SUCCESS\n"
        assert agent.hello["uid"] == 0
        assert agent.run("id -u; echo $SUDO_USER").stdout == b"0\napp\n"
    finally:
        runc.run("target", "rm /etc/sudoers.d/agent")


def test_cancel_ends_what_su_began(inside: Agent, runc: Runc) -> None:
    """It has a session of its own, and su passes TERM on to one process alone."""
    number = inside.start("su app -c 'sleep 62 & sh -c \"sleep 63; true\"; true'; true")
    inside.send(END, number)
    look = "grep -alse '^sleep.6[23]' /proc/[0-9]*/cmdline || test $? -lt 3"
    end = time.monotonic() + 10
    while len(runc.run("target", look).split()) < 2:
        assert time.monotonic() < end
    inside.cancel(number)
    assert inside.finish(number, end=False).exit == {"rc": 143}
    while runc.run("target", look) != b"":
        assert time.monotonic() < end + 10


def test_too_little_memory(start: Start, runc: Runc) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["resources"]["memory"] = {"limit": 60 * MIB}

    with configured(runc, "agent-memory", change) as container:
        agent = start(*enter(runc, container))
        assert agent.rest() == []
        assert agent.wait() == 0
        words = agent.hello["refused"].split()
        assert 30 < int(words.pop(4)) < 60
        assert " ".join(words) == "the container has only MiB of memory to spare"
        agent = start(*enter(runc, container), always=True)
        assert "refused" not in agent.hello
        assert agent.run("exit 3").exit == {"rc": 3}


def test_the_page_cache_is_memory_to_spare(start: Start, runc: Runc) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["resources"]["memory"] = {"limit": 160 * MIB}

    with configured(runc, "agent-cache", change) as container:
        runc.run(container, "dd if=/dev/zero of=/var/tmp/big bs=1M count=200 2>/dev/null; sync")
        runc.run(container, "cat /var/tmp/big /var/tmp/big >/dev/null")
        agent = start(*enter(runc, container))
        assert "refused" not in agent.hello


def test_short_of_memory_the_agent_goes_first(start: Start, runc: Runc) -> None:
    """And not the application, which is the one that takes too much."""

    def change(config: dict[str, Any]) -> None:
        config["linux"]["resources"]["memory"] = {"limit": 200 * MIB}

    with configured(runc, "agent-oom", change) as container:
        agent = start(*enter(runc, container))
        hog = (
            "import time; x = bytearray(150 << 20); y = []\n"
            "for i in range(100): y.append(bytearray(1 << 20)); time.sleep(0.01)"
        )
        argv = [*runc.client, "exec", container, "python3", "-c", hog]
        application = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        try:
            with pytest.raises(Ended):
                while True:
                    agent.next_frame()
            assert agent.wait() == 137
        finally:
            application.kill()
            application.wait()


def test_the_application_outlives_what_is_ours(start: Start, runc: Runc) -> None:
    """It takes what it may have: the agents, with a warm interpreter among them, make room."""

    def change(config: dict[str, Any]) -> None:
        config["linux"]["resources"]["memory"] = {"limit": 200 * MIB}

    with configured(runc, "agent-room", change) as container:
        agent = start(*enter(runc, container))
        with Modules(enter(runc, container)) as warm:
            warm.module(b"'_ansiballz_main'")  # it is refused, and all is loaded
            # Bit by bit, so that it alone always fits.
            program = (
                "import time; x = []\n"
                "for i in range(182): x.append(b'x' * (1 << 20)); time.sleep(0.01)\n"
                "time.sleep(1); print(len(x), 'and well')"
            )
            argv = [*runc.client, "exec", container, "python3", "-c", program]
            application = subprocess.run(argv, capture_output=True, timeout=60)
            assert application.stdout == b"182 and well\n", application
            ended = 0
            for one in (agent, warm):
                try:
                    one.ping()
                except Ended:
                    ended += 1
            assert ended > 0


def test_the_instance_is_that_of_the_container(start: Start, runc: Runc) -> None:
    with runc.container("agent-instance") as container:
        first = start(*enter(runc, container)).hello["instance"]
        assert start(*enter(runc, container, "--user", "1000:1000")).hello["instance"] == first
        other = start(*enter(runc, "target")).hello["instance"]
    assert first and first != other
    time.sleep(0.02)  # the start of PID 1 is counted in hundredths of a second
    with runc.container("agent-instance") as container:
        assert start(*enter(runc, container)).hello["instance"] != first


def test_a_paused_container_does_not_end_it(start: Start, runc: Runc) -> None:
    with runc.container("agent-paused") as container:
        agent = start(*enter(runc, container), change="SILENCE, TICK = 1.5, 0.5")
        number = agent.start("read x; echo $x")
        agent.frame(STARTED, number)
        runc.cli("pause", container)
        time.sleep(3)
        runc.cli("resume", container)
        assert agent.finish(number, b"awake\n").stdout == b"awake\n"


def test_nothing_is_left(start: Start, runc: Runc) -> None:
    agent = start(*enter(runc, "target"))
    agent.run("sleep 0.1 & exit 3")
    pid = agent.hello["pid"]
    agent.send(RETIRE)
    agent.rest()
    agent.wait()
    assert runc.run("target", f"test -e /proc/{pid} || echo gone") == b"gone\n"


def test_memory_of_an_idle_agent(start: Start, runc: Runc, record_testsuite_property: Any) -> None:
    """What one costs in a container that has no other Python."""
    agent = start(*enter(runc, "target"), "-IS")
    for _ in range(20):
        agent.run("true")
    pid = agent.hello["pid"]
    text = runc.run("target", f"cat /proc/{pid}/smaps_rollup").decode()
    sizes = {line.split(":")[0]: line.split()[1] for line in text.splitlines()[1:]}
    record_testsuite_property("agent_pss_kib", sizes["Pss"])
    record_testsuite_property("agent_private_dirty_kib", sizes["Private_Dirty"])
    assert int(sizes["Pss"]) < 12 * 1024, sizes


@pytest.mark.parametrize(
    "count", [500, pytest.param(10000, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
def test_many_commands_cost_no_memory(inside: Agent, runc: Runc, count: int) -> None:
    status = f"grep -E '^(VmRSS|Threads)' /proc/{inside.hello['pid']}/status"
    handles = f"ls /proc/{inside.hello['pid']}/fd | wc -l"

    def look() -> tuple[int, int]:
        words = runc.run("target", f"{status}; {handles}").split()
        assert words[4] == b"1"
        return int(words[1]), int(words[5])

    for _ in range(100):
        inside.run("cat", b"x" * 1000)
    before = look()
    for _ in range(count):
        assert inside.run("cat; exit 1", b"x" * 1000).exit == {"rc": 1}
    after = look()
    assert after[1] == before[1]
    assert after[0] - before[0] < 300  # KiB


class configured:
    """A container whose config.json `change` has changed; it is made anew."""

    def __init__(self, runc: Runc, name: str, change: Any) -> None:
        self.runc, self.name, self.change = runc, name, change

    def __enter__(self) -> str:
        beds.call("runc", "delete", self.name)
        beds.call("runc", "create", self.name)
        path = bundle(self.runc, self.name)
        config = json.loads((path / "config.json").read_text())
        self.change(config)
        (path / "config.json").write_text(json.dumps(config))
        self.runc.cli("delete", "--force", self.name)
        with (path / "output").open("wb") as output:
            subprocess.run(
                [*self.runc.client, "run", "--detach", "--bundle", path, self.name],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=60,
                check=True,
            )
        return self.name

    def __exit__(self, *_: object) -> None:
        beds.call("runc", "delete", self.name)


def tmpfs(path: str, *options: str) -> Any:
    """Return a change of config.json that mounts an empty file system."""

    def change(config: dict[str, Any]) -> None:
        config["mounts"].append(
            {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": list(options)}
        )

    return change
