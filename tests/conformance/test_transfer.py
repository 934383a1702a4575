"""put_file and fetch_file: whole and verified, or nothing happened."""

from __future__ import annotations

import hashlib
import os
import shlex
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ansible_gangway import _core
from support.targets import Target

# The sum of such a file is taken while it is sent.
LARGE = 3_000_000

NAMES = [
    b"plain",
    b"a b",
    b'it\'s "quoted"',
    b"x;touch INJECTED",
    b"$(touch INJECTED)`touch INJECTED`",
    b"two\nlines\n",
    b"-rf",
    "汉语-['foo bar'].txt".encode(),
    b"no\xfftext\xc3\x28",
    b"n" * 255,
]


@pytest.fixture
def place(target: Target) -> Iterator[bytes]:
    """Return an empty directory in the container `target`."""
    path = f"/tmp/gangway-transfer-{os.getpid()}"
    target.run("target", f"rm -rf {path}; mkdir {path}")
    yield path.encode()
    target.run("target", f"rm -rf {path}")


def listing(target: Target, place: bytes) -> list[bytes]:
    """Return every name in the directory, hidden ones too."""
    names = target.run("target", f"cd {place.decode()} && find . -mindepth 1 -print0")
    return sorted(name.removeprefix(b"./") for name in names.split(b"\0") if name)


def quoted(path: bytes) -> str:
    """Quote a path of text for a script run through the engine's CLI."""
    return shlex.quote(path.decode())


def length_and_sum(data: bytes) -> tuple[int, str]:
    """Return what `Target.sum` says of a file that holds this."""
    return len(data), hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("container", ["target", "busybox"])
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 3_000_000])
def test_sizes(target: Target, tmp_path: Path, size: int, container: str) -> None:
    """What was put is there, by the engine's own CLI, and comes back."""
    local, back = tmp_path / "local", tmp_path / "back"
    local.write_bytes(os.urandom(size))
    session = target.session(container)
    remote = b"/tmp/gangway-size"
    assert session.put_file(bytes(local), remote) is None
    assert target.sum(container, "/tmp/gangway-size") == length_and_sum(local.read_bytes())
    assert session.fetch_file(remote, bytes(back)) is None
    assert back.read_bytes() == local.read_bytes()
    target.run(container, "rm /tmp/gangway-size")


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[2:20])
def test_names(target: Target, tmp_path: Path, place: bytes, name: bytes) -> None:
    """Every name that a file system allows, on both sides; to no shell is it more than a name."""
    local, back = bytes(tmp_path) + b"/" + name, bytes(tmp_path) + b"/back"
    os.mkdir(back)
    Path(os.fsdecode(local)).write_bytes(name)
    session = target.session()
    session.put_file(local, place + b"/" + name)
    assert listing(target, place) == [name]
    session.fetch_file(place + b"/" + name, back + b"/" + name)
    assert os.listdir(back) == [name]
    assert Path(os.fsdecode(back + b"/" + name)).read_bytes() == name


def test_a_new_file_has_the_mode_of_the_umask(target: Target, tmp_path: Path, place: bytes) -> None:
    """As any new file has, whatever the local one's mode is."""
    local = tmp_path / "local"
    local.write_text("x")
    local.chmod(0o700)
    target.session().put_file(bytes(local), place + b"/new")
    assert target.run("target", f"stat -c %a:%U:%G {quoted(place)}/new") == b"644:root:root\n"


def test_mode_and_owner_of_an_existing_file_stay(
    target: Target, tmp_path: Path, place: bytes
) -> None:
    """The content is new, the rest is as it was."""
    local = tmp_path / "local"
    local.write_text("new")
    file = quoted(place + b"/old")
    target.run("target", f"echo old >{file}; chown app:extra {file}; chmod 4751 {file}")
    assert target.session().put_file(bytes(local), place + b"/old") is None
    assert target.run("target", f"stat -c %a:%U:%G {file}; cat {file}") == b"4751:app:extra\nnew"


def test_links(target: Target, tmp_path: Path, place: bytes) -> None:
    """A symbolic link is followed and stays one; a second name of the file stays the same file."""
    local, back = tmp_path / "local", tmp_path / "back"
    local.write_text("new")
    here = quoted(place)
    target.run("target", f"cd {here}; echo old >file; ln file other; mkdir d; ln -s ../file d/link")
    note = target.session().put_file(bytes(local), place + b"/d/link")
    assert note is not None and "in place: it has 2 links" in note
    script = f"cd {here}; cat file other; readlink d/link"
    assert target.run("target", script) == b"newnew../file\n"
    target.session().fetch_file(place + b"/d/link", bytes(back))
    assert back.read_text() == "new" and not back.is_symlink()
    target.run("target", f"cd {here}; rm other; ln -s nowhere dangling")
    assert target.session().put_file(bytes(local), place + b"/d/link") is None
    assert target.session().put_file(bytes(local), place + b"/dangling") is None
    assert target.run("target", f"cd {here}; cat nowhere; readlink dangling") == b"newnowhere\n"


def test_a_large_file_in_place(target: Target, tmp_path: Path, place: bytes) -> None:
    """What cannot be a temporary file is sent the sum first: nothing else ever lands in it."""
    local, back = tmp_path / "local", tmp_path / "back"
    local.write_bytes(os.urandom(LARGE))
    here = quoted(place)
    target.run("target", f"cd {here}; echo old >file; ln file other")
    session = target.session()
    note = session.put_file(bytes(local), place + b"/file")
    assert note is not None and "in place: it has 2 links" in note
    assert target.run("target", f"cat {here}/other") == local.read_bytes()
    assert "not a regular file" in (session.put_file(bytes(local), b"/dev/null") or "")
    assert listing(target, place) == [b"file", b"other"]
    if target.engine != "kubectl":
        target.run("target", f"cd {here}; rm other; chown app file")
        note = target.session(user=b"app").put_file(bytes(local), place + b"/file")
        assert note is not None and "in place: no file can be made beside it" in note
    session.fetch_file(place + b"/file", bytes(back))
    assert back.read_bytes() == local.read_bytes()


def test_a_local_file_that_changes(target: Target, tmp_path: Path, place: bytes) -> None:
    """It has no sum that could be true: the old file stays, and the sentence says why."""
    local = tmp_path / "local"
    local.write_bytes(os.urandom(8 * LARGE))
    target.run("target", f"echo old >{quoted(place)}/file")
    over = threading.Event()

    def write() -> None:
        with local.open("r+b") as file:
            while not over.wait(0.001):
                file.seek(LARGE)
                file.write(os.urandom(10))
                file.flush()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            sentence = "the local file changed while it was sent; try again; nothing there"
            with pytest.raises(_core.Error, match=sentence):
                target.session().put_file(bytes(local), place + b"/file")
        finally:
            over.set()
        writing.result(10)
    assert target.run("target", f"cat {quoted(place)}/file") == b"old\n"
    assert listing(target, place) == [b"file"]


def test_a_mount_point_is_written_in_place(target: Target, tmp_path: Path) -> None:
    """/etc/hosts is a mount in Docker and Kubernetes: no rename, and the note says so."""
    local = tmp_path / "hosts"
    session = target.session()
    before = session.exec_command(b"cat /etc/hosts")[1]
    local.write_bytes(before + b"# gangway\n")
    note = session.put_file(bytes(local), b"/etc/hosts")
    assert target.run("target", "cat /etc/hosts") == local.read_bytes()
    if target.engine == "runc":
        assert note is None
    else:
        assert note is not None and "/etc/hosts: written in place" in note
    session.fetch_file(b"/etc/hosts", bytes(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == local.read_bytes()
    local.write_bytes(before)
    session.put_file(bytes(local), b"/etc/hosts")


def test_special_targets(target: Target, tmp_path: Path, place: bytes) -> None:
    """A device takes the bytes; what would block or cannot be is refused in words."""
    local = tmp_path / "local"
    local.write_text("x")
    session = target.session()
    assert "not a regular file" in (session.put_file(bytes(local), b"/dev/null") or "")
    target.run("target", f"mkfifo {quoted(place)}/fifo; mkdir {quoted(place)}/dir")
    for name, reason in ((b"fifo", "it is a FIFO"), (b"dir", "it is a directory")):
        with pytest.raises(_core.Error, match=f"cannot put .*{reason}.*nothing there was changed"):
            session.put_file(bytes(local), place + b"/" + name)
    with pytest.raises(_core.Error, match="there is no directory /no/such/; nothing"):
        session.put_file(bytes(local), b"/no/such/file")
    assert listing(target, place) == [b"dir", b"fifo"]


def test_sources_that_are_no_files(target: Target, tmp_path: Path, place: bytes) -> None:
    """Each refusal is a sentence, and the local file stays as it was."""
    back = tmp_path / "back"
    back.write_text("precious")
    target.run("target", f"mkfifo {quoted(place)}/fifo")
    cases = [
        (place, _core.Error, "it is a directory"),
        (place + b"/fifo", _core.Error, "it is not a regular file"),
        (b"/dev/zero", _core.Error, "it is not a regular file"),
        (place + b"/missing", _core.FileMissing, "no such file in the container"),
    ]
    for path, error, reason in cases:
        with pytest.raises(error, match=reason) as raised:
            target.session().fetch_file(path, bytes(back))
        assert type(raised.value) is error
    assert back.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [back]


def test_files_without_a_size(target: Target, tmp_path: Path) -> None:
    """What /proc makes up when it is read comes whole, too."""
    back = tmp_path / "back"
    target.session().fetch_file(b"/proc/filesystems", bytes(back))
    assert back.read_bytes() == target.run("target", "cat /proc/filesystems")


def test_a_local_file_without_a_size(target: Target, place: bytes) -> None:
    """What the controller's own /proc makes up when it is read is sent whole."""
    target.session().put_file(b"/proc/filesystems", place + b"/file")
    sent = Path("/proc/filesystems").read_bytes()
    assert target.run("target", f"cat {quoted(place)}/file") == sent


def test_local_sources(target: Target, tmp_path: Path) -> None:
    """A missing file and a directory are named before anything reaches the container."""
    session = target.session()
    with pytest.raises(_core.FileMissing, match=r"file or module does not exist: .*/missing"):
        session.put_file(bytes(tmp_path / "missing"), b"/tmp/x")
    with pytest.raises(_core.Error, match="it is not a regular file"):
        session.put_file(bytes(tmp_path), b"/tmp/x")


def test_fetch_touches_the_one_path_it_was_given(target: Target, tmp_path: Path) -> None:
    """Not a file that is called like the source, and a local link stays a link."""
    (tmp_path / "hostname").write_text("precious")
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    target.session().fetch_file(b"/etc/passwd", bytes(tmp_path / "link"))
    assert (tmp_path / "hostname").read_text() == "precious"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == target.run("target", "cat /etc/passwd")
    assert len(list(tmp_path.iterdir())) == 3


def test_local_targets_that_are_no_files(target: Target, tmp_path: Path) -> None:
    """A device takes the bytes; what would block or cannot be is refused in words."""
    fetch = target.session().fetch_file
    assert fetch(b"/etc/passwd", b"/dev/null") is None
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(_core.Error, match=r"/fifo: it is a FIFO or a socket"):
        fetch(b"/etc/passwd", bytes(tmp_path / "fifo"))
    assert (tmp_path / "fifo").is_fifo() and len(list(tmp_path.iterdir())) == 1


def test_a_log_that_grows(target: Target, tmp_path: Path, place: bytes) -> None:
    """It comes as it was when the fetch began: the first bytes, and nothing mixed."""
    log = quoted(place + b"/log")
    grow = f"seq 1 300000 >{log}; (exec >/dev/null 2>&1; while test -e {log}; do seq 1 9; done) & "
    # The writer ends with the file.
    grow = grow.replace("do seq 1 9", f"do test -e {log} && seq 1 99 >>{log}")
    target.session().exec_command(f"{grow} true".encode())
    back = tmp_path / "back"
    target.session().fetch_file(place + b"/log", bytes(back))
    target.run("target", f"rm {log}")
    expected = b"".join(b"%d\n" % number for number in range(1, 300_001))
    assert back.read_bytes().startswith(expected)


# The engine's client, which loses all but the first megabyte of as many execs as a file says.
LOSSY = """#!/bin/sh
left=$(cat '{left}')
case " $* " in *" exec "*);; *) left=0;; esac
test "$left" -gt 0 || exec '{client}' "$@"
echo $((left - 1)) >'{left}'
case {way} in
put) head -c 1000000 | '{client}' "$@";;
fetch) '{client}' "$@" | {{ head -c 1000000; cat >/dev/null; }};;
esac
"""


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("way", ["put", "fetch"])
def test_a_client_that_loses_bytes(
    target: Target, tmp_path: Path, place: bytes, way: str, times: int
) -> None:
    """And exits 0, as kubectl may. Nothing was changed yet, so the file is sent again; once."""
    local, left, client = tmp_path / "local", tmp_path / "left", tmp_path / "client"
    remote = quoted(place + b"/file")
    mine, theirs = os.urandom(2_000_000), os.urandom(2_100_000)
    local.write_bytes(mine)
    target.run("target", f"cat >{remote}", theirs)
    left.write_text("0")
    client.write_text(LOSSY.format(left=left, client=target.client[0], way=way))
    client.chmod(0o755)
    session = target.session(executable=bytes(client))
    session.exec_command(b"true")
    left.write_text(f"{times}")
    call = session.put_file if way == "put" else session.fetch_file
    paths = [bytes(local), place + b"/file"][:: 1 if way == "put" else -1]
    if times == 1:
        assert call(*paths) is None
        expected = mine if way == "put" else theirs
        assert local.read_bytes() == expected
        assert target.sum("target", remote) == length_and_sum(expected)
    else:
        error, said = {
            "put": (_core.Error, "it arrived incomplete or changed .*; nothing there was changed"),
            "fetch": (_core.ConnectionFailed, "the stream was lost while .* was read"),
        }[way]
        with pytest.raises(_core.Error, match=said) as raised:
            call(*paths)
        assert type(raised.value) is error
        assert local.read_bytes() == mine
        assert target.sum("target", remote) == length_and_sum(theirs)
    assert left.read_text() == "0\n"
    assert listing(target, place) == [b"file"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["client", "left", "local"]


# A PATH that lacks tools is given by extra_env, which in a pod is for commands only.
without_tools = pytest.mark.parametrize("target", ["docker", "podman", "runc"], indirect=True)


@without_tools
@pytest.mark.parametrize("missing", [("dd",), ("cksum",), ("dd", "cksum", "stat")])
def test_tools_that_are_missing(
    target: Target, tmp_path: Path, place: bytes, missing: tuple[str, ...]
) -> None:
    """Without dd there is cat, without cksum sha256sum, without stat a write in place."""
    local, back = tmp_path / "local", tmp_path / "back"
    kept = ("cat", "cksum", "sha256sum", "wc", "chmod", "chown", "mv", "rm", "stat", "dd")
    tools = quoted(place + b"/tools")
    links = "; ".join(
        f"ln -s $(command -v {tool}) {tools}/{tool}" for tool in kept if tool not in missing
    )
    target.run("target", f"mkdir {tools}; {links}")
    session = target.session(env={b"PATH": place + b"/tools"})
    for size, name in ((100_000, b"/small"), (LARGE, b"/large")):
        local.write_bytes(os.urandom(size))
        first = session.put_file(bytes(local), place + name)
        assert first is None
        note = session.put_file(bytes(local), place + name)
        assert (note is None) == ("stat" not in missing)
        session.fetch_file(place + name, bytes(back))
        assert back.read_bytes() == local.read_bytes()
    assert listing(target, place)[:3] == [b"large", b"small", b"tools"]


@without_tools
@pytest.mark.parametrize("change", ["echo more >>{file}", "echo x | dd of={file} conv=notrunc"])
def test_a_file_that_changes_while_it_is_summed(
    target: Target, tmp_path: Path, place: bytes, change: str
) -> None:
    """What grew after it was sent is fetched once more; what is another file is not kept."""
    back = tmp_path / "back"
    back.write_text("old")
    file, tools = quoted(place + b"/file"), quoted(place + b"/tools")
    script = f"#!/bin/sh\nsleep 1; {change.format(file=file)}; exec /usr/bin/cksum\n"
    target.run(
        "target",
        f"head -c {LARGE} /dev/urandom >{file}; mkdir {tools}; cat >{tools}/cksum;"
        f"chmod 755 {tools}/cksum",
        stdin=script.encode(),
    )
    before = target.run("target", f"cat {file}")
    session = target.session(env={b"PATH": place + b"/tools:/usr/bin:/bin"})
    if "more" in change:
        session.fetch_file(place + b"/file", bytes(back))
        assert back.read_bytes() == before + b"more\n" * 2
    else:
        with pytest.raises(_core.Error, match="it changed while it was read; try again"):
            session.fetch_file(place + b"/file", bytes(back))
        assert back.read_text() == "old"
    assert list(tmp_path.iterdir()) == [back]


@without_tools
def test_nothing_to_verify_with(target: Target, tmp_path: Path, place: bytes) -> None:
    """No success without proof: by length with a note, or not at all."""
    local = tmp_path / "local"
    local.write_text("x")
    tools = quoted(place + b"/tools")
    target.run(
        "target",
        f"mkdir {tools}; for t in cat wc chmod mv rm; do ln -s $(command -v $t) {tools}/$t; done",
    )
    session = target.session(env={b"PATH": place + b"/tools"})
    note = session.put_file(bytes(local), place + b"/file")
    assert note is not None and "verified by length only" in note
    target.run("target", f"rm {tools}/wc")
    with pytest.raises(_core.Error, match="neither cksum, sha256sum nor wc"):
        session.put_file(bytes(local), place + b"/other")
    assert b"other" not in listing(target, place)


def test_a_user_without_rights(target: Target, tmp_path: Path, place: bytes) -> None:
    """The container's own reason is said, and nothing changes."""
    if target.engine == "kubectl":
        with pytest.raises(TypeError):  # a pod's exec has no user
            target.session(user=b"app")
        return
    local = tmp_path / "local"
    local.write_text("new")
    session = target.session(user=b"app")
    target.run("target", f"cd {quoted(place)}; echo old >mine; chown app mine; echo r >root")
    # The directory is root's: no file can be made in it, but this one may be written.
    note = session.put_file(bytes(local), place + b"/mine")
    assert note is not None and "in place: no file can be made beside it" in note
    for name in (b"/root", b"/fresh"):
        with pytest.raises(_core.Error, match=r"cannot put .*Permission denied"):
            session.put_file(bytes(local), place + name)
    with pytest.raises(_core.Error, match=r"cannot fetch .*Permission denied"):
        session.fetch_file(b"/etc/shadow", bytes(tmp_path / "back"))
    assert target.run("target", f"cd {quoted(place)}; cat mine root") == b"newr\n"
