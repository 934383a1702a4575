"""Whatever a program does, it does the same in a warm interpreter as in a new one."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from support.frames import Result
from support.modules import OUTSIDE, Modules, plainly
from warm.conftest import as_files
from warm.programs import ENDS, FINALISES, FORKS, LEAKS, LOOK_AROUND, module

# What names a file when it fails.
OF_FILES = {**ENDS, **{k: v for k, v in {**FINALISES, **FORKS}.items() if re.search("fail|err", k)}}
BELOW = {"timeout": 60, "start_new_session": True}


def compare(
    warm: Modules,
    python: str,
    program: str,
    env: dict[str, str] | None = None,
    file: Path | None = None,
) -> Result:
    """Run a program both ways, from stdin or the file; the results must be equal."""
    text = module(program)
    expected = plainly(python, text, file, env={**OUTSIDE, **(env or {})}, **BELOW)
    result = warm.file(file, env or {}) if file else warm.module(text, env or {})
    assert forget(result.stderr) == forget(expected.stderr)
    assert forget(result.stdout) == forget(expected.stdout)
    assert result.exit == expected.exit
    return result


def forget(output: bytes) -> str:
    """Return output without addresses."""
    return re.sub("0x[0-9a-f]{6,}", "ADDRESS", output.decode(errors="replace"))


@pytest.mark.parametrize("name", ENDS)
def test_a_program_ends_as_in_a_new_interpreter(warm: Modules, python: str, name: str) -> None:
    compare(warm, python, ENDS[name])


@pytest.mark.parametrize("name", FINALISES)
def test_what_is_left_at_the_end_is_finalised(warm: Modules, python: str, name: str) -> None:
    compare(warm, python, FINALISES[name])


@pytest.mark.parametrize("name", sorted(name for name in FINALISES if "ctypes" in name))
def test_what_c_has_buffered_is_written(python: str, name: str) -> None:
    """Also where `ctypes` is there already, as with the library of ansible-core it is."""
    with Modules([python], change="import ctypes", env=OUTSIDE) as warm:
        for _ in range(2):
            compare(warm, python, FINALISES[name])
            time.sleep(0.3)


@pytest.mark.parametrize("name", FORKS)
def test_a_fork_of_the_program_ends_as_plain_python_does(
    warm: Modules, python: str, name: str
) -> None:
    compare(warm, python, FORKS[name])


@as_files
@pytest.mark.parametrize("name", OF_FILES)
def test_a_file_ends_as_in_a_new_interpreter(
    warm: Modules, python: str, name: str, file: Path
) -> None:
    compare(warm, python, "#!/usr/bin/python3\n" + OF_FILES[name], file=file)


@as_files
@pytest.mark.parametrize("environment", [{}, {"PYTHONSAFEPATH": "1"}, {"LC_ALL": "C"}], ids=str)
def test_a_file_sees_a_new_interpreter(
    python: str, environment: dict[str, str], file: Path
) -> None:
    """Also when it is named by a link, and in the child that is forked ahead."""
    link = file.with_name("AnsiballZ_link.py")
    with Modules([python], env={**OUTSIDE, **environment}) as warm:
        look_around(warm, python, {"GIVEN": "é"}, environment, file)
        file.rename(file.parent.parent / "AnsiballZ_y.py")
        link.symlink_to("../AnsiballZ_y.py")
        look_around(warm, python, {}, environment, link)
        time.sleep(0.5)
        look_around(warm, python, {}, environment, link)
        look_around(warm, python, {}, environment)


@pytest.mark.parametrize("name", LEAKS)
def test_the_next_task_finds_nothing_of_the_last(warm: Modules, python: str, name: str) -> None:
    compare(warm, python, LEAKS[name])
    look_around(warm, python)


def look_around(
    warm: Modules,
    python: str,
    env: dict[str, str] | None = None,
    outside: dict[str, str] | None = None,
    file: Path | None = None,
) -> None:
    """Compare all that a program sees; the interpreter was started with `outside`."""
    text = module(LOOK_AROUND)
    whole = {**OUTSIDE, **(outside or {}), **(env or {})}
    expected = plainly(python, text, file, env=whole, **BELOW)
    result = warm.file(file, env or {}) if file else warm.module(text, env or {})
    assert result.stderr == expected.stderr
    assert json.loads(forget(result.stdout)) == json.loads(forget(expected.stdout))


def test_a_program_sees_a_new_interpreter(warm: Modules, python: str) -> None:
    look_around(warm, python)


def test_variables_reach_the_program_alone(warm: Modules, python: str) -> None:
    look_around(warm, python, {"GREETING": "é ü", "EMPTY": "", "OTHER": "a\nb"})
    look_around(warm, python)


@pytest.mark.parametrize("name", ["PYTHONPATH", "PYTHONHASHSEED", "LD_LIBRARY_PATH", "LC_ALL"])
def test_a_variable_that_an_interpreter_reads_early_is_refused(warm: Modules, name: str) -> None:
    assert name in warm.module(module("print(1)"), {name: "x"}).exit["plain"]


@pytest.mark.parametrize(
    ("environment", "flag"),
    [
        ({"PYTHONINSPECT": "1"}, []),
        ({"PYTHONPATH": "relative"}, []),
        ({"COVERAGE_PROCESS_START": "x"}, []),
        ({}, ["-i"]),
        ({}, ["-v"]),
    ],
)
def test_an_interpreter_that_does_more_is_refused(
    newest: str, environment: dict[str, str], flag: list[str]
) -> None:
    env = {**OUTSIDE, **environment}
    with Modules([newest, *flag], env=env, stderr=None if not flag else -3) as warm:
        assert "plain" in warm.module(module("print(1)")).exit


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "LANG": ""},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1:replace"},
        {"PYTHONUNBUFFERED": "1"},
        {"PYTHONUTF8": "1"},
        {"PYTHONDONTWRITEBYTECODE": "1"},
        {"PYTHONWARNINGS": "error"},
        {"PYTHONSAFEPATH": "1"},
        {"PYTHONNOUSERSITE": "1"},
        {"TZ": "America/New_York"},
        {"PYTHONOPTIMIZE": "2"},
    ],
    ids=str,
)
def test_the_interpreters_own_settings_hold(python: str, environment: dict[str, str]) -> None:
    with Modules([python], env={**OUTSIDE, **environment}) as warm:
        look_around(warm, python, {}, environment)


def test_a_directory_with_modules_is_what_it_is_for_plain_python(
    newest: str, tmp_path: Path
) -> None:
    (tmp_path / "shlex.py").write_text("print('mine')")
    (tmp_path / "only_here.py").write_text("print('imported')")
    text = module("import only_here, os, sys\nprint(os.getcwd(), sys.path[0])")
    with Modules([newest], cwd=tmp_path) as warm:
        result = warm.module(text)
    expected = plainly(newest, text, cwd=tmp_path, env={**OUTSIDE, "PYTHONDONTWRITEBYTECODE": "1"})
    assert (result.stdout, result.exit) == (expected.stdout, expected.exit)


CALLBACKS = """
import ctypes, os
def made(count):
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
    return [kind(lambda x, i=i: x + i) for i in range(count)]
first = made(3000)
files = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
print(sum(call(1) for call in first + made(3000)))
"""


def test_callbacks_of_c(newest: str) -> None:
    """Some builds of libffi map them from a file that they keep open."""
    with Modules([newest], change="PRELOADED.append('ctypes')", env=OUTSIDE) as warm:
        result = warm.module(module(CALLBACKS))
    assert (result.exit, result.stdout) == ({"rc": 0}, b"9003000\n"), result
