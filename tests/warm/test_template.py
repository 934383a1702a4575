"""When a warm interpreter refuses, what it keeps, and the child that it forks ahead."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from support.captured import capture
from support.frames import CHUNK, DATA, END, Ended
from support.modules import OUTSIDE, Modules
from warm.programs import archive, module

GOOD = module("print('x')")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"print('no wrapper')", "no wrapper"),
        (b"", "no wrapper"),
        (module("print('x')", extensions="{'_debugpy': {}}"), "extensions"),
        (module("print('x')", zipped="not base64!"), "base64"),
        (module("print('x')", zipped="AAAA"), "archive"),
        (module("this is no Python"), "compile"),
        (GOOD.replace(b"profile=", b"perfil="), "unknown kind"),
        (GOOD + b"print('more')\n", "unknown kind"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unknown_text_is_refused(fresh: Modules, text: bytes, why: str) -> None:
    assert why in fresh.module(text).exit["plain"]
    assert fresh.module(GOOD).stdout == b"x\n"


def test_a_file_that_is_more_than_a_module_is_refused(fresh: Modules, file: Path) -> None:
    def refused() -> str:
        return str(fresh.file(file).exit["plain"])

    assert "No such file" in refused()
    file.mkdir()
    assert "no regular file" in refused()
    file.rmdir()
    os.mkfifo(file)
    assert "no regular file" in refused()
    file.unlink()
    file.write_bytes(b"print('no wrapper')")
    assert "no wrapper" in refused()
    file.write_bytes(module("'PK\5\6'"))
    assert "may be an archive" in refused()
    file.write_bytes(b"#" * (33 << 20))
    assert "longer" in refused()
    file.write_bytes(GOOD)
    (beside := file.with_name("datetime.py")).touch()
    assert "Python would import datetime.py" in refused()
    beside.unlink()
    assert fresh.file(file).stdout == b"x\n"


@pytest.mark.parametrize("wrong", ["1 / 0", "raise SystemExit(3)", "nonsense("])
def test_a_library_that_cannot_be_imported_is_for_a_new_interpreter(
    newest: str, tmp_path: Path, wrong: str
) -> None:
    """It fails there as it would without us, and nothing is lost here."""
    (tmp_path / "shlex.py").write_text(wrong)
    with Modules([newest], env={**OUTSIDE, "PYTHONPATH": str(tmp_path)}) as warm:
        plain = warm.module(module("print(1)")).exit["plain"]
        assert plain.startswith("its shlex cannot be imported: ")


def test_a_part_that_arrives_changed_is_refused(fresh: Modules) -> None:
    part = {"sha256": hashlib.sha256(GOOD).hexdigest(), "length": len(GOOD)}
    number = fresh.request("module", env=[], parts=[part])
    fresh.next_frame()
    result = fresh.finish(number, GOOD[:-1] + b" ")
    assert "changed" in result.exit["plain"]


# Bytes that a child finds in what it was forked from.
KEPT = """
import sys
frame = sys._getframe()
while "TEMPLATE" not in frame.f_globals:
    frame = frame.f_back
template = frame.f_globals["TEMPLATE"]
print(template.parts.size, sum(map(len, template.archives)))
"""


def test_what_is_kept_is_bounded(newest: str) -> None:
    """The least recently used parts leave; who needs one again sends it again."""
    most = 1 << 20
    texts = [module(KEPT, archive({"x": os.urandom(150_000).hex()})) for _ in range(8)]
    change = f"MOST_ARCHIVES = TEMPLATE.parts._most = {most}"
    with Modules([newest], change=change, env=OUTSIDE) as warm:
        for text in [*texts, texts[-1], texts[-1]]:
            sizes = [int(size) for size in warm.module(text).stdout.split()]
            assert all(200_000 < size <= most for size in sizes)
        assert warm.sent < 8_000
        assert warm.module(texts[0]).exit == {"rc": 0}
        assert warm.sent > 100_000


def test_a_changed_file_needs_a_new_interpreter(newest: str, tmp_path: Path) -> None:
    with Modules([newest], env={**OUTSIDE, "PYTHONPATH": str(tmp_path)}) as warm:
        assert warm.module(GOOD).exit == {"rc": 0}
        (tmp_path / "new.py").write_text("")
        assert "has changed" in warm.module(GOOD).exit["plain"]
        with pytest.raises(Ended):  # it ends by itself: nobody waits for it
            warm.next_frame(10)


@pytest.mark.plays
def test_a_file_that_changes_while_its_library_is_imported(newest: str, tmp_path: Path) -> None:
    """The import looks at all files anew, and must not take the change for what was before."""
    (text,) = capture(tmp_path / "play", [{"ping": {}}])
    (site := tmp_path / "site").mkdir()
    with Modules([newest], env={**OUTSIDE, "PYTHONPATH": str(site)}) as warm:
        number, wanted = warm.start_module(text)
        assert wanted
        for start in range(0, len(wanted), CHUNK):
            warm.send(DATA, number, wanted[start : start + CHUNK])
        warm.send(END, number)
        (site / "new.py").write_text("")
        assert warm.finish(number, end=False).exit == {"rc": 0}
        time.sleep(2)
        assert "has changed" in warm.module(text).exit["plain"]


PACKAGES = "lib/python{version}/site-packages"


@pytest.mark.parametrize(
    "path",
    [
        f"home/.local/{PACKAGES}/new.py",
        f"home/.local/{PACKAGES}/there.pth",
        f"venv/{PACKAGES}/new.py",
        f"venv/{PACKAGES}/there.pth",
        "venv/pyvenv.cfg",
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_what_makes_the_interpreters_path(
    newest: str, tmp_path: Path, path: str, there: bool
) -> None:
    """Directories that are not there yet count, too, and the content of files that are."""
    venv = path.startswith("venv")
    file = tmp_path / path.format(version=Path(newest).name.removeprefix("python"))
    python = newest
    if venv:
        subprocess.run([newest, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
        python = str(tmp_path / "venv/bin/python")
    if there:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    with Modules([python], env={**OUTSIDE, "HOME": str(tmp_path / "home")}) as warm:
        assert warm.module(GOOD).exit == {"rc": 0}
        file.parent.mkdir(parents=True, exist_ok=True)
        before = file.parent.stat()
        with file.open("a") as opened:
            opened.write("# more\n")
        if there:  # in place: the directory does not show it
            os.utime(file.parent, ns=(before.st_atime_ns, before.st_mtime_ns))
        changed = not there or file.suffix != ".py"
        assert ("plain" in warm.module(GOOD).exit) == changed


def spare(warm: Modules) -> int:
    """Return the child that waits; there is one soon after a task."""
    children = Path(f"/proc/{warm.hello['pid']}/task/{warm.hello['pid']}/children")
    for _ in range(100):
        found = children.read_text().split()
        if len(found) == 1:
            return int(found[0])
        time.sleep(0.05)
    raise AssertionError(found)


def test_a_child_waits_for_the_next_module(fresh: Modules) -> None:
    fresh.module(GOOD)
    for _ in range(5):
        waiting = spare(fresh)
        result = fresh.module(GOOD)
        assert (result.stdout, result.started) == (b"x\n", {"pid": waiting})


def test_it_takes_a_file_as_well(fresh: Modules, file: Path) -> None:
    file.write_bytes(GOOD)
    fresh.file(file)
    waiting = spare(fresh)
    result = fresh.file(file)
    assert (result.stdout, result.started) == (b"x\n", {"pid": waiting})


def test_a_waiting_child_that_is_killed_is_replaced(fresh: Modules) -> None:
    fresh.module(GOOD)
    waiting = spare(fresh)
    os.kill(waiting, signal.SIGKILL)
    end = time.monotonic() + 10
    while os.path.exists(f"/proc/{waiting}"):  # until it is seen: what it was given before is lost
        assert time.monotonic() < end
        time.sleep(0.01)
    result = fresh.module(GOOD)
    assert (result.exit, result.stdout) == ({"rc": 0}, b"x\n")
    assert result.started != {"pid": waiting}
    assert spare(fresh)


def test_a_waiting_child_ends_before_the_agent(newest: str) -> None:
    """What is left to a process 1 that reaps nothing stays a zombie; here this process is it."""
    be_subreaper = partial(ctypes.CDLL(None).prctl, 36)
    assert be_subreaper(1) == 0
    try:
        with Modules([newest]) as warm:
            warm.module(GOOD)
            waiting = spare(warm)
        with pytest.raises(ChildProcessError):
            os.waitpid(waiting, 0)
        assert not Path(f"/proc/{waiting}").exists()
    finally:
        be_subreaper(0)


def test_two_modules_run_at_once(fresh: Modules) -> None:
    slow, wanted = fresh.start_module(module("import time\ntime.sleep(1)\nprint('slow')"))
    assert wanted
    fresh.send(DATA, slow, wanted)
    fresh.send(END, slow)
    assert fresh.module(GOOD).stdout == b"x\n"
    assert fresh.finish(slow, end=False).stdout == b"slow\n"


def test_a_module_of_two_archives_gets_its_own(fresh: Modules) -> None:
    for word in ("one", "two", "one"):
        zipped = archive({"ansible/modules/x.py": f"print('{word}')"})
        program = (
            "import base64, hashlib\ndef _ansiballz_main(zip_data, **others):\n"
            "    print(hashlib.sha256(zip_data.encode()).hexdigest())\n"
        )
        result = fresh.module(module(program, zipped))
        assert result.stdout.decode().strip() == hashlib.sha256(zipped.encode()).hexdigest()
        time.sleep(0.1)
