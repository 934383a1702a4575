"""Files through an agent: outcomes and words are those of the direct path's shell program."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from agent.conftest import Start
from support.frames import DATA, END, EXIT, Agent
from support.skip import cannot_run

MIB = 1 << 20
# Everybody may run it, unlike a Python below somebody's HOME.
COMMON = "/usr/bin/python3"
BECOME = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]
NEW = b"new\n" * 100


class Shell:
    """The direct path's programs, run by the host's shell."""

    def __init__(self, repository: Path, become: list[str]) -> None:
        text = (repository / "src/session/script.rs").read_text()
        sums = (repository / "src/session/sum.rs").read_text()
        named = dict(re.findall(r'const (\w+): &str = r#"(.*?)"#;', text, re.DOTALL))
        sha256 = re.search(r'Sha256 => \{\s*r#"(.*?)"#', sums, re.DOTALL)
        assert sha256
        self._before = named["START"] + named["MARK"] + sha256[1]
        self._put, self._fetch = named["PUT"], named["FETCH"]
        self._become = become

    def _run(self, program: str, *arguments: str | bytes, stdin: bytes = b"") -> list[bytes]:
        argv = [*self._become, "/bin/sh", "-c", self._before + program, "0a1b", *arguments]
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=30)
        # RS nonce " " words RS
        return re.split(rb"\x1e0a1b (.*?)\x1e", done.stdout, flags=re.DOTALL)

    def put(self, path: bytes, data: bytes) -> dict[str, Any]:
        """Write a file; return it as an EXIT."""
        _, words, _ = self._run(
            self._put, path, hashlib.sha256(data).hexdigest(), str(len(data)), stdin=data
        )
        kind, _, reason = words.decode(errors="replace").partition(": ")
        return {"done": words.decode()} if kind in ("ok", "in place") else {kind: reason}

    def fetch(self, path: bytes) -> dict[str, Any]:
        """Read a file; return it as an EXIT, with the bytes."""
        found = self._run(self._fetch, path)
        word = found[1].decode()
        if word[0] == "k":
            sha256, length = word[1:].split()
            assert int(length) == len(found[2])
            return {"sha256": sha256, "bytes": found[2]}
        if word[0] == "n":
            return {"missing": True}
        known = {"d": "it is a directory", "x": "it is not a regular file"}
        return {"failed": known.get(word[0]) or word[1:]}


class Both:
    """An agent and the shell's programs, each with a directory of its own that is equal."""

    def __init__(self, agent: Agent, shell: Shell, top: Path) -> None:
        self.agent, self.shell = agent, shell
        self.top = top

    def put(self, prepare: Callable[[Path], Any], name: bytes = b"file") -> dict[str, Any]:
        """Put NEW both ways into what `prepare` makes; return the common EXIT."""
        ends, states = [], []
        for way in ("agent", "shell"):
            directory = self.top / way / "put"
            directory.mkdir(parents=True, mode=0o755)
            directory.chmod(0o755)
            prepare(directory)
            path = os.fsencode(directory) + b"/" + name
            end = self.agent.put(path, NEW).exit if way == "agent" else self.shell.put(path, NEW)
            ends.append(self._plain(end))
            states.append(self.state(directory))
        assert ends[0] == ends[1]
        assert states[0] == states[1]
        return ends[0]

    def fetch(self, prepare: Callable[[Path], Any], name: bytes = b"file") -> dict[str, Any]:
        """Fetch both ways what `prepare` makes; return the common EXIT, with the bytes."""
        directory = self.top / "fetch"
        directory.mkdir()
        directory.chmod(0o755)
        prepare(directory)
        path = os.fsencode(directory) + b"/" + name
        return self.fetch_path(path)

    def fetch_path(self, path: bytes) -> dict[str, Any]:
        """Fetch both ways; return the common EXIT, with the bytes."""
        result = self.agent.fetch(path)
        end = result.exit | ({"bytes": result.stdout} if "sha256" in result.exit else {})
        if "bytes" in end:
            assert end["sha256"] == hashlib.sha256(end["bytes"]).hexdigest()
            assert result.started == {"length": len(end["bytes"])}
        assert end == self.shell.fetch(path)
        return end

    def _plain(self, end: dict[str, Any]) -> dict[str, Any]:
        """Return the EXIT with what differs for a reason taken out: directories, dd's own words."""
        text = {key: re.sub(r"/(agent|shell)/put", "", str(end[key])) for key in end}
        return {key: re.sub(r"^dd: .*'.*': ", "", text[key]) for key in text}

    def state(self, directory: Path) -> dict[bytes, Any]:
        """Return what is in a directory: kinds, modes, owners, links and contents."""
        found = {}
        for root, names, files in os.walk(os.fsencode(directory)):
            for name in names + files:
                path = os.path.join(root, name)
                info = os.lstat(path)
                content: Any = None
                if stat.S_ISREG(info.st_mode):
                    with open(path, "rb") as file:
                        content = file.read()
                elif stat.S_ISLNK(info.st_mode):
                    content = os.readlink(path).replace(b"/agent/", b"/shell/")
                key = os.path.relpath(path, os.fsencode(directory))
                found[key] = (info.st_mode, info.st_uid, info.st_gid, info.st_nlink, content)
        return found


@pytest.fixture
def top() -> Iterator[Path]:
    """Return a directory that everybody may enter."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def both(agent: Agent, repository: Path, top: Path) -> Both:
    """Return both ways as root, on every Python."""
    return Both(agent, Shell(repository, []), top)


@pytest.fixture
def as_user(start: Start, repository: Path, top: Path) -> Both:
    """Return both ways as an ordinary user."""
    if not os.path.exists(COMMON):
        cannot_run(f"an agent of another user: there is no {COMMON}, which everybody may run")
    agent = start(*BECOME, COMMON, cwd="/")
    assert agent.hello["uid"] == 1000
    return Both(agent, Shell(repository, BECOME), top)


def a_file(directory: Path, mode: int = 0o644, owner: int = 0, name: str = "file") -> Path:
    path = directory / name
    path.write_bytes(b"old")
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path


def test_a_new_file(both: Both) -> None:
    assert both.put(lambda directory: None) == {"done": "ok"}


def test_a_new_file_has_the_mode_that_the_umask_gives(
    start: Start, newest: str, tmp_path: Path
) -> None:
    agent = start("/bin/sh", "-c", 'umask 027; exec "$@"', "sh", newest)
    assert agent.put(f"{tmp_path}/file", b"x").exit == {"done": "ok"}
    assert (tmp_path / "file").stat().st_mode & 0o7777 == 0o640
    assert agent.run("umask").stdout == b"0027\n"


@pytest.mark.parametrize("mode", [0o600, 0o4711, 0o666, 0])
def test_an_old_file_keeps_its_owner_and_mode(both: Both, mode: int) -> None:
    assert both.put(lambda directory: a_file(directory, mode, 77)) == {"done": "ok"}


@pytest.mark.parametrize("name", [b"a b'c\"$(x)\n", b"\xff\xfe", b"-n", b"*"])
def test_any_name(both: Both, name: bytes) -> None:
    assert both.put(lambda directory: None, name) == {"done": "ok"}


def test_a_link_is_followed(both: Both) -> None:
    def prepare(directory: Path) -> None:
        (directory / "other").mkdir()
        a_file(directory / "other", 0o640, 5)
        (directory / "file").symlink_to("middle")
        (directory / "middle").symlink_to(directory / "other" / "file")

    assert both.put(prepare) == {"done": "ok"}


def test_a_link_to_nothing_makes_the_file(both: Both) -> None:
    assert both.put(lambda directory: (directory / "file").symlink_to("new")) == {"done": "ok"}


@pytest.mark.parametrize("to", ["no/such/file", "file"])
def test_a_link_that_cannot_be_followed(both: Both, to: str) -> None:
    reason = {"failed": "it is a link that cannot be followed"}
    assert both.put(lambda directory: (directory / "file").symlink_to(to)) == reason


def test_a_directory(both: Both) -> None:
    assert both.put(lambda directory: (directory / "file").mkdir()) == {
        "failed": "it is a directory"
    }


def test_a_fifo(both: Both) -> None:
    reason = {"failed": "it is a FIFO or a socket"}
    assert both.put(lambda directory: os.mkfifo(directory / "file")) == reason


def test_a_socket(both: Both) -> None:
    def prepare(directory: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(directory / "file"))

    assert both.put(prepare) == {"failed": "it is a FIFO or a socket"}


def test_no_directory(both: Both) -> None:
    end = both.put(lambda directory: None, b"no\xff/file")
    assert re.match(r"there is no directory .*/no\ufffd/$", end["failed"])


def test_a_file_with_more_links_is_written_in_place(both: Both) -> None:
    def prepare(directory: Path) -> None:
        os.link(a_file(directory, 0o640, 9), directory / "second")

    assert both.put(prepare) == {"done": "in place: it has 2 links"}


def test_a_device_is_written_as_it_is(both: Both) -> None:
    def prepare(directory: Path) -> None:
        os.mknod(directory / "file", 0o666 | stat.S_IFCHR, os.makedev(1, 3))

    assert both.put(prepare) == {
        "done": "in place: it is not a regular file, which cannot be verified"
    }


def test_a_full_device(both: Both) -> None:
    def prepare(directory: Path) -> None:
        os.mknod(directory / "file", 0o666 | stat.S_IFCHR, os.makedev(1, 7))

    assert both.put(prepare) == {"broken": "No space left on device"}


def test_a_full_disk(both: Both) -> None:
    mounted = []

    def prepare(directory: Path) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "x", directory], check=True)
        mounted.append(directory)
        (directory / "filler").write_bytes(bytes(16384 - 4096 * 3))
        (directory / "file").write_bytes(b"old")
        with (directory / "rest").open("wb", 0) as rest, pytest.raises(OSError, match="No space"):
            while True:
                rest.write(bytes(4096))

    try:
        assert both.put(prepare) == {"failed": "No space left on device"}
    finally:
        for directory in mounted:
            subprocess.run(["umount", directory], check=True)


def test_a_mount_point_is_written_in_place(both: Both) -> None:
    mounted = []

    def prepare(directory: Path) -> None:
        a_file(directory)
        other = a_file(directory, name="other")
        subprocess.run(["mount", "--bind", other, directory / "file"], check=True)
        mounted.append(directory / "file")

    try:
        reason = "in place: it cannot be replaced, as a mount point cannot"
        assert both.put(prepare) == {"done": reason}
    finally:
        for path in mounted:
            subprocess.run(["umount", path], check=True)


def test_a_read_only_file_system(both: Both) -> None:
    mounted = []

    def prepare(directory: Path) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "x", directory], check=True)
        mounted.append(directory)
        a_file(directory)
        subprocess.run(["mount", "-o", "remount,ro", directory], check=True)

    try:
        assert both.put(prepare) == {"failed": "Read-only file system"}
    finally:
        for path in mounted:
            subprocess.run(["umount", path], check=True)


def test_a_directory_that_others_own(as_user: Both) -> None:
    """A file that may be written in a directory that may not is written in place."""
    reason = {"done": "in place: no file can be made beside it (Permission denied)"}
    assert as_user.put(lambda directory: a_file(directory, 0o666)) == reason


def test_no_permission(as_user: Both) -> None:
    assert as_user.put(lambda directory: None) == {"failed": "Permission denied"}


def test_no_permission_for_an_old_file(as_user: Both) -> None:
    reason = {"failed": "Permission denied"}
    assert as_user.put(lambda directory: a_file(directory, 0o644)) == reason


def test_an_owner_that_cannot_be_kept(as_user: Both) -> None:
    def prepare(directory: Path) -> None:
        a_file(directory, 0o666)
        directory.chmod(0o777)

    reason = "in place: its owner and mode cannot be given to a new file"
    assert as_user.put(prepare) == {"done": reason}


def test_a_file_that_cannot_be_read_back(as_user: Both) -> None:
    """The shell calls it changed on its way, which would be known here."""
    path = a_file(as_user.top, 0o622)
    end = as_user.agent.put(os.fsencode(path), NEW).exit
    assert end == {"broken": "what was written reads differently"}
    assert path.read_bytes() == NEW


def test_a_sticky_directory(as_user: Both) -> None:
    def prepare(directory: Path) -> None:
        os.chown(directory, 0, 0)
        directory.chmod(0o1777)
        a_file(directory, 0o666, 1000)
        os.chown(directory / "file", 1000, 1000)

    assert as_user.put(prepare) == {"done": "ok"}


def test_what_arrives_changed_is_not_written(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    wrong = hashlib.sha256(b"other").hexdigest()
    found = hashlib.sha256(b"data").hexdigest()
    said = "it arrived incomplete or changed (sum and length are {} {}, not {} {})"
    reason = said.format(found, 4, wrong, 4)
    assert agent.put(str(path), b"data", wrong).exit == {"failed": reason}
    for sent in (b"dat", b"datax"):
        number = agent.request("put", path=os.fsencode(path), length=4, sha256=found)
        agent.send(DATA, number, sent)
        agent.send(END, number)
        came = hashlib.sha256(sent).hexdigest()
        reason = said.format(came, len(sent), found, 4)
        assert agent.frame(EXIT, number).head == {"failed": reason}
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("how", ["cancelled", "lost"])
def test_an_unfinished_put_leaves_nothing(new_agent: Agent, tmp_path: Path, how: str) -> None:
    path = os.fsencode(tmp_path / "file")
    number = new_agent.request("put", path=path, length=9, sha256="0")
    new_agent.send(DATA, number, b"data")
    if how == "cancelled":
        new_agent.cancel(number)
        assert new_agent.frame(EXIT, number).head == {"failed": "interrupted"}
        assert new_agent.run("exit 3").exit == {"rc": 3}
    else:
        new_agent.end()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [0, 1, 262144, 262145, MIB])
def test_sizes(new_agent: Agent, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    path = tmp_path / "file"
    assert new_agent.put(str(path), data).exit == {"done": "ok"}
    assert path.read_bytes() == data
    result = new_agent.fetch(str(path))
    assert result.exit == {"sha256": hashlib.sha256(data).hexdigest()}
    assert result.stdout == data


def test_a_long_file_takes_the_plain_way(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(MIB + 1))
    assert agent.put(str(path), bytes(MIB + 1)).exit == {
        "plain": "the agent takes files of up to 1048576 bytes"
    }
    assert agent.fetch(str(path)).exit == {"plain": "the agent sends files of up to 1048576 bytes"}


def test_a_fetch_waits_for_credit(new_agent: Agent, tmp_path: Path) -> None:
    data = os.urandom(MIB)
    (tmp_path / "file").write_bytes(data)
    number = new_agent.request("fetch", path=os.fsencode(tmp_path / "file"))
    new_agent.ping()
    assert sum(len(frame.payload) for frame in new_agent.kept if frame.kind == 33) == 262144
    assert new_agent.finish(number).stdout == data
    cancelled = new_agent.request("fetch", path=os.fsencode(tmp_path / "file"))
    new_agent.cancel(cancelled)
    assert new_agent.frame(EXIT, cancelled).head == {"failed": "interrupted"}


def test_fetch_of_a_file(both: Both) -> None:
    end = both.fetch(lambda directory: a_file(directory), b"file")
    assert end["bytes"] == b"old"


def test_fetch_of_what_is_no_file(both: Both) -> None:
    def prepare(directory: Path) -> None:
        (directory / "directory").mkdir()
        os.mkfifo(directory / "fifo")
        (directory / "dangling").symlink_to("nowhere")
        (directory / "loop").symlink_to("loop")
        (directory / "link").symlink_to(a_file(directory))
        os.mknod(directory / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))

    assert both.fetch(prepare, b"directory") == {"failed": "it is a directory"}
    base = os.fsencode(both.top / "fetch")
    for name in (b"fifo", b"null"):
        assert both.fetch_path(base + b"/" + name) == {"failed": "it is not a regular file"}
    for name in (b"dangling", b"loop", b"nowhere", b"no/where", b"file/below", b"x" * 300):
        assert both.fetch_path(base + b"/" + name) == {"missing": True}
    assert both.fetch_path(base + b"/link")["bytes"] == b"old"


def test_fetch_without_permission(as_user: Both) -> None:
    reason = {"failed": "Permission denied"}
    assert as_user.fetch(lambda directory: a_file(directory, 0o600)) == reason
    closed = as_user.top / "closed"
    closed.mkdir(mode=0o700)
    a_file(closed)
    assert as_user.fetch_path(os.fsencode(closed / "file")) == reason


@pytest.mark.parametrize("path", ["/proc/version", "/proc/filesystems", "/sys/kernel/mm/ksm/run"])
def test_fetch_of_what_the_kernel_makes(both: Both, path: str) -> None:
    """Its length is known only from reading it."""
    assert both.fetch_path(path.encode())["bytes"] == Path(path).read_bytes()
