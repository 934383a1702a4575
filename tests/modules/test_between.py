"""What a task changes that a new interpreter would see: the next one sees it, too."""

from __future__ import annotations

from typing import Any

import pytest

from modules.test_ways import STATE, named
from modules.twins import Twins
from support.ansible import IS_NEWEST

# With an older ansible-core only `make soak` runs them.
pytestmark = [pytest.mark.timeout(900), *([] if IS_NEWEST else [pytest.mark.soak])]

PYTHON = "/usr/bin/python3"
PACKAGES = "lib/python3.11/site-packages"
APP = {"become": True, "become_user": "app"}


def test_groups(pair: Twins, names: dict[str, Any]) -> None:
    """A user's groups are those of now: at an interpreter of their own, and at root's."""
    look: list[dict[str, Any]] = [
        {"command": "id", **user} for user in (APP, {"become": True, "become_user": "root"}, {})
    ]
    tasks = [
        *look,
        {"group": {"name": "late", "gid": 4321}},
        {"user": {"name": "app", "groups": "late", "append": True}},
        *look,
        {"user": {"name": "root", "groups": "late", "append": True}},
        *look,
        {"command": "gpasswd -d app late"},
        *look,
        {"lineinfile": {"path": "/etc/group", "regexp": "^late:", "state": "absent"}},
        *look,
        {**STATE, **APP},
        STATE,
    ]
    run = pair.same(named("groups", *tasks), **names)
    said = [run.result(f"groups {number}")["stdout"] for number in (0, 5)]
    assert ["(late)" in words for words in said] == [False, True]


def test_the_interpreters_path(pair: Twins, names: dict[str, Any]) -> None:
    """Packages of a user's own and a `.pth` file that changes in place."""
    pip = "{{ from_files }} --user --no-cache-dir"
    edit = f"mkdir -p /srv/extra; echo /srv/extra >>$HOME/.local/{PACKAGES}/more.pth"
    tasks = [
        STATE,
        {"ping": {}},
        {"pip": {"name": "gangway-demo", "version": "1.0", "extra_args": pip}},
        STATE,
        {"shell": f"{edit}; touch -d @9 $HOME/.local/{PACKAGES}"},
        STATE,
        {"shell": f"echo '# more' >>$HOME/.local/{PACKAGES}/more.pth"},
        STATE,
        {"shell": f"mkdir /srv/more; echo /srv/more >$HOME/.local/{PACKAGES}/more.pth"},
        STATE,
        {"file": {"path": "/root/.local", "state": "absent"}},
        STATE,
    ]
    run = pair.same(named("path", *tasks), **names)
    paths = [run.result(f"path {number}")["state"]["python"]["path"] for number in (0, 3, 5, 9, 11)]
    site = f"/root/.local/{PACKAGES}"
    assert [site in path for path in paths] == [False, True, True, True, False]
    assert ["/srv/extra" in path for path in paths] == [False, False, True, False, False]
    assert ["/srv/more" in path for path in paths] == [False, False, False, True, False]


def test_the_systems_files(pair: Twins, names: dict[str, Any]) -> None:
    """The time zone, the names of hosts and users, and the interpreter itself."""
    wrapper = '#!/bin/sh\nCHANGED=yes exec /usr/bin/python3.11 "$@"\n'
    look = [
        STATE,
        {"command": "date +%Z"},
        {"getent": {"database": "passwd", "key": "later"}},
        {"getent": {"database": "hosts", "key": "later.example.org"}},
    ]
    tasks = [
        *look,
        {"copy": {"src": "/usr/share/zoneinfo/UTC", "dest": "/etc/localtime", "remote_src": True}},
        {"shell": "ln -sf /usr/share/zoneinfo/Asia/Tokyo /etc/localtime"},
        *look,
        {"shell": "echo later:x:4000:4000::/tmp:/bin/sh >>/etc/passwd"},
        {"shell": "echo 127.0.0.9 later.example.org >>/etc/hosts"},
        *look,
        {"shell": {"cmd": f"rm {PYTHON}; cat >{PYTHON}; chmod 755 {PYTHON}", "stdin": wrapper}},
        *look,
        {"command": f"ln -sf python3.11 {PYTHON}"},
        *look,
        {"shell": "rm -f /etc/localtime; sed -i /^later:/d /etc/passwd"},
        STATE,
    ]
    pair.same(named("files", *tasks), **names)


def test_numbers_that_are_never_twice_the_same(pair: Twins, names: dict[str, Any]) -> None:
    tasks = named("seeds", *[{"process_state": {"seeds": True}}] * 6)
    run = pair.play(tasks, **names)
    drawn = [
        seed
        for number in range(6)
        for host in ("one", "other")
        for seed in run.result(f"seeds {number}", host)["state"]["seeds"]
    ]
    assert len(set(drawn)) == len(drawn) == 36


def test_another_interpreter_takes_over(pair: Twins, names: dict[str, Any]) -> None:
    """A module that needs a library of the system's Python starts itself again, by that one."""
    for container in pair.containers.values():
        pair.target.run(container, "test -e /srv/own || python3 -m venv --without-pip /srv/own")
    own = {"vars": {"ansible_python_interpreter": "/srv/own/bin/python"}}
    tasks = [
        {"apt": {"name": "gangway-demo", "state": "absent"}, **own},
        {"apt": {"name": "no-such-package"}, **own},
        {"apt": {"name": "gangway-demo", "state": "absent"}, "check_mode": True, **own},
        {"apt_repository": {"repo": "nonsense"}, **own},
        {"ping": {}, **own},
        {**STATE, **own},
    ]
    run = pair.same(named("respawn", *tasks), **names)
    assert run.sides["respawn 0"]["other"].ended[0][0] == "ok", run.result("respawn 0")
