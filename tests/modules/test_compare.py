"""The comparison sees a difference wherever one is planted, in results as they really are."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

import pytest

from modules import compare, twins
from modules.twins import PLAIN, Run, Twins
from support.ansible import IS_NEWEST, Ansible
from support.targets import Runc


@pytest.fixture(scope="module")
def plain(
    bed_runc: dict[str, str], ansible: Ansible, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Twins]:
    """Return two containers that are both on the plain path."""
    name = f"gangway-modules-{os.getpid()}0"
    directory = tmp_path_factory.mktemp("plain")
    with twins.twins(Runc(bed_runc), ansible, directory, name, "base", PLAIN) as made:
        yield made


# With an older ansible-core only `make soak` runs them.
pytestmark = [pytest.mark.timeout(600), *([] if IS_NEWEST else [pytest.mark.soak])]
TASKS: list[dict[str, Any]] = [
    {"setup": {}},
    {"stat": {"path": "/srv/start/lines.txt"}},
    {"command": "sh -c 'echo out; echo err >&2; exit 3'"},
    {"copy": {"content": "x", "dest": "/srv/work/x", "backup": True}},
    {"copy": {"content": "y", "dest": "/srv/work/x", "backup": True}},
    {"find": {"paths": "/srv/start/tree", "recurse": True}},
    {"leak": {"how": "writes"}},
    {"leak": {"how": "raises"}},
    {"user": {"name": "new", "generate_ssh_key": True, "ssh_key_comment": "of the worker"}},
    {"tempfile": {}},
    {"process_state": {}},
]


def changes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield (path, other value) for each place in a value of JSON: never what is there."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from changes(item, (*path, key))
        yield (*path, "planted"), None
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from changes(item, (*path, index))
        yield path, [*value, None]
        yield path, {}
    elif isinstance(value, str):
        yield from ((path, other) for other in (value + "!", "!" + value, value + "\n", None))
    elif isinstance(value, bool):
        yield from ((path, other) for other in (not value, int(value), None))
    elif value is None:
        yield path, ""
    else:
        yield from ((path, other) for other in (str(value), -value - 1, None))
    if path and not isinstance(path[-1], int):
        yield path, compare.ABSENT


def planted(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    """Return a copy of `value` with another one at `path`."""
    if not path:
        return other
    changed = copy.copy(value)
    key, rest = path[0], path[1:]
    if not rest and other is compare.ABSENT:
        del changed[key]
    elif not rest:
        changed[key] = other
    else:
        changed[key] = planted(value[key], rest, other)
    return changed


def branch(value: Any, path: tuple[Any, ...]) -> Any:
    """Return a value of JSON with nothing beside `path`, as far as objects lead: it is faster."""
    if not path or not isinstance(value, dict) or path[0] not in value:
        return value
    return {path[0]: branch(value[path[0]], path[1:])}


def test_planted_differences(plain: Twins) -> None:
    """The same play twice is the same; any change of any value in it is told, and told once."""
    tasks = [{"name": f"{number}", **task} for number, task in enumerate(TASKS)]
    run = plain.same(tasks)
    count = 0
    for task in tasks:
        module = twins.module_of(task)
        side = run.sides[task["name"]]["one"]
        for ended, result in side.ended:
            assert ended in ("ok", "failed")
            assert not list(compare.differences(module, result, result))
            for path, other in changes(result):
                if str(path[-1:]).startswith("('leads its ") and isinstance(other, bool):
                    continue  # named in compare.VALUES: both are right
                part = branch(result, path[:2])
                found = list(compare.differences(module, part, planted(part, path, other)))
                assert found, (module, path, other)
                count += 1
        for index, call in enumerate(side.calls):
            for key in call.keys() & {"rc", "stdout", "stderr", "arguments"}:
                for path, other in changes(call[key], (key,)):
                    changed = [*side.calls]
                    changed[index] = planted(call, path, other)
                    assert list(compare.calls(module, side.calls, changed)), (module, path, other)
            fewer = side.calls[:index] + side.calls[index + 1 :]
            assert list(compare.calls(module, side.calls, fewer))
    assert count > 1000


FILES = {
    "mode": "chmod 600 /srv/work/x",
    "owner": "chown app /srv/work/x",
    "content": "printf z >/srv/work/x",
    "name": "mv /srv/work/x /srv/work/X",
    "absent": "rm /srv/work/x",
    "more": "touch /srv/work/more",
    "link": "ln -sfn /etc/shadow /srv/work/link",
    "hard link": "ln /srv/work/x /srv/work/hard; ln -f /srv/work/x /srv/work/hard2",
    "directory": "mkdir /tmp/ansible_left_behind",
    "below dev": "touch /dev/shm/left",
    "a program": "chmod u-s /usr/bin/passwd",
}


def test_planted_files(plain: Twins) -> None:
    """A change of one file in one container is told."""
    make = "cd /srv/work; printf y >x; chown 0 x; chmod 644 x; rm -rf X more hard* /dev/shm/left"
    again = f"{make} /tmp/ansible_left_behind; ln -sfn /etc/passwd link; chmod u+s /usr/bin/passwd"
    for what, script in FILES.items():
        for container in plain.containers.values():
            plain.target.run(container, again)
        assert not plain.file_differences(), what
        plain.target.run(plain.containers["other"], script)
        assert plain.file_differences(), what
    plain.target.run(plain.containers["other"], again)


# A start of Python that is not as it was: a shell line, and where process_state must show it.
STARTS = {
    "umask 077": "system/status Umask",
    "export LEAKED=1": "environ/LEAKED",
    "exec 9</etc/passwd": "descriptors/open/9",
    "trap '' TERM": "signals/handlers/15",
    "ulimit -n 512": "rlimits/RLIMIT_NOFILE",
    "cd /tmp": "system/cwd",
    "echo 500 >/proc/self/oom_score_adj": "system/oom_score_adj",
    'exec /usr/bin/python3.11 -s "$@"': "python/flags",
    "export LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0": "python/encodings",
    'exec nice -n 3 /usr/bin/python3.11 "$@"': "system/priority",
}


def test_planted_states(plain: Twins) -> None:
    """A Python that is started otherwise in one of the containers is told, and by what."""
    wrapper = '#!/bin/sh\n. /srv/distort\nexec /usr/bin/python3.11 "$@"\n'
    for container in plain.containers.values():
        script = "cd /usr/bin; touch /srv/distort; rm python3; cat >python3; chmod 755 python3"
        plain.target.run(container, script, wrapper.encode())
    for line, where in STARTS.items():
        plain.target.run(plain.containers["other"], "cat >/srv/distort", line.encode())
        run: Run = plain.play([{"name": "state", "process_state": {}}])
        found = [str(difference) for difference in run.differences({"state": "process_state"})]
        assert any(f"state/{where}" in text for text in found), (line, found, str(run.printed))
    plain.target.run(plain.containers["other"], ": >/srv/distort")
    plain.same([{"name": "state", "process_state": {}}])
