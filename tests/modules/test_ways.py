"""The ways to run a module: asynchronous, as another user, by another interpreter, and more.

Each is a short play. Both paths return the same, and so is the process that a module sees.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from modules.twins import EXPECTED, Twins
from support.ansible import IS_NEWEST

# With an older ansible-core only `make soak` runs them.
pytestmark = [pytest.mark.timeout(900), *([] if IS_NEWEST else [pytest.mark.soak])]
Tasks = list[dict[str, Any]]
STATE: dict[str, Any] = {"process_state": {}}


def named(prefix: str, *tasks: Mapping[str, Any]) -> Tasks:
    """Give tasks names, where they have none."""
    return [{"name": f"{prefix} {number}", **task} for number, task in enumerate(tasks)]


def test_asynchronous(pair: Twins, names: dict[str, Any]) -> None:
    """A job goes on while the connection is reset; a short one is waited for."""
    job = "touch /srv/job-began; sleep 4; touch /srv/job-ended"
    tasks = named(
        "async",
        {"shell": "echo done; echo err >&2; exit 3", "async": 60, "poll": 3},
        {"ping": {}, "async": 60, "poll": 3},
        {"process_state": {}, "async": 60, "poll": 3},
        {"shell": job, "async": 60, "poll": 0, "register": "job"},
        {"wait_for": {"path": "/srv/job-began", "timeout": 30}},
        {"meta": "reset_connection"},
        {"async_status": {"jid": "{{ job.ansible_job_id }}"}, "register": "early"},
        {"wait_for": {"path": "/srv/job-ended", "timeout": 30}},
        {"wait_for": {"timeout": 1}},
        {"async_status": {"jid": "{{ job.ansible_job_id }}"}},
        {"async_status": {"jid": "{{ job.ansible_job_id }}", "mode": "cleanup"}},
        {"async_status": {"jid": "{{ job.ansible_job_id }}"}},
        {"command": "sleep 30", "async": 1, "poll": 4},
        STATE,
    )
    pair.same(tasks, **names)


@pytest.mark.soak
def test_a_job_of_minutes(pair: Twins, names: dict[str, Any]) -> None:
    """It outlives the agent that started it."""
    tasks = named(
        "minutes",
        {"shell": "sleep 150; echo late >/srv/late", "async": 300, "poll": 0, "register": "job"},
        {"meta": "reset_connection"},
        {"pause": {"seconds": 80}},
        {"wait_for": {"path": "/srv/late", "timeout": 200}},
        {"wait_for": {"timeout": 1}},
        {"async_status": {"jid": "{{ job.ansible_job_id }}"}},
    )
    pair.same(tasks, keywords={"strategy": "linear"}, **names)


def test_other_users(pair: Twins, names: dict[str, Any]) -> None:
    """Each user has all that the plain path gives: groups, environment, limits."""
    users = [("root", "sudo"), ("app", "sudo"), ("app", "su"), ("nobody", "sudo"), ("none", "sudo")]
    seen = (
        {"command": "sh -c 'id; env | sort; pwd; umask'"},
        STATE,
        {"shell": "touch /srv/work/mine"},
    )
    tasks = [
        {**task, "become": True, "become_user": user, "become_method": method}
        for user, method in users
        for task in (*seen, {"copy": {"content": "x", "dest": f"/tmp/by-{user}-{method}"}})
    ]
    by_file = {"become": True, "become_user": "app", "vars": {"ansible_pipelining": False}}
    tasks += [{**task, **by_file} for task in seen]
    nobody = r"unknown user none"
    pair.same(named("users", *tasks, STATE), strays=f"{EXPECTED}|{nobody}", **names)


def test_environment(pair: Twins, names: dict[str, Any]) -> None:
    """Variables of a task are its own; those that change Python itself work, too."""
    values = ["plain", "", "two words", "汉语", 'it\'s "$HOME" `id` \\ *', "a\nb", "=", "#"]
    loop = {"environment": {"GIVEN": "{{ item }}", "ALSO": "x{{ item }}"}, "loop": values}
    special = [
        {"LC_ALL": "C"},
        {"LC_ALL": "C.UTF-8", "LANG": "en_US.UTF-8"},
        {"LC_ALL": "no_SUCH"},
        {"PATH": "/usr/bin:/bin"},
        {"HOME": "/srv/work"},
        {"TZ": "Asia/Tokyo"},
        {"TMPDIR": "/srv/work"},
        {"PYTHONPATH": "/srv/python"},
        {"PYTHONHASHSEED": "1"},
        {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"},
        {"PYTHONWARNINGS": "error"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LD_PRELOAD": "/no/such.so"},
        {"MALLOC_ARENA_MAX": "1"},
        {"ANSIBLE_REMOTE_TMP": "/srv/work/tmp"},
    ]
    each = [
        {**task, "environment": environment}
        for environment in special
        for task in (STATE, {"command": "sh -c 'env | sort; date +%Z; locale'"})
        # The kernel knows a forked child's environment by the template's: see compare.LACKING.
        if task is not STATE or not environment.keys() & {"PATH", "HOME", "LD_PRELOAD"}
    ]
    tasks = named("environment", {"shell": "env | sort", **loop}, {**STATE, **loop}, *each, STATE)
    for container in pair.containers.values():
        marked = "mkdir -p /srv/python && echo 'MARK = 1' >/srv/python/leaked.py"
        pair.target.run(container, marked)
    pair.same(tasks, strays=f"{EXPECTED}|environment has LD_PRELOAD", **names)


def test_interpreters(pair: Twins, names: dict[str, Any]) -> None:
    """The interpreter may change from task to task: others, wrappers, environments, none."""
    prepare = """
        python3 -m venv --without-pip /srv/venv
        echo 'MARK = "of the environment"' >/srv/venv/lib/python3.11/site-packages/of_venv.py
        printf '#!/bin/sh\\nWRAPPED=1 exec /usr/bin/python3 "$@"\\n' >/srv/wrapper
        printf '#!/bin/sh\\necho not Python\\n' >/srv/not-python
        chmod 755 /srv/wrapper /srv/not-python
    """
    for container in pair.containers.values():
        pair.target.run(container, prepare)
    paths = [
        *("/usr/bin/python3.11", "/srv/venv/bin/python", "/srv/wrapper", "/usr/bin/env python3"),
        *("/usr/bin/python3 -E", "/usr/bin/python3 -I -W ignore", "python3", "/no/such/python"),
        *("/srv/not-python", "/bin/false", "/usr/bin/python3"),
    ]
    which = "python3 -c 'import sys; print(sys.executable, sys.prefix)'"
    tasks = [
        {**task, "vars": {"ansible_python_interpreter": path}}
        for path in paths
        for task in (STATE, {"command": which}, {"ping": {}})
    ]
    # A line with options or a wrapper is no interpreter that is known to read a program.
    others = "Python could not start|^exec_command: agent "
    pair.same(named("interpreters", *tasks, STATE), strays=f"{EXPECTED}|{others}", **names)


SETTINGS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "not pipelined": ({}, {"ansible_pipelining": False}),
    "files kept": ({"ANSIBLE_KEEP_REMOTE_FILES": "1"}, {}),
    "debug": ({"ANSIBLE_DEBUG": "1", "ANSIBLE_VERBOSITY": "4"}, {}),
    "tracebacks": ({"ANSIBLE_DISPLAY_TRACEBACK": "always"}, {}),
    "module_defaults": ({}, {}),
    "no_log": ({"ANSIBLE_NO_LOG": "1"}, {}),
    "targets_log": ({"ANSIBLE_NO_TARGET_SYSLOG": "1"}, {}),
    "another directory": ({}, {"ansible_remote_tmp": "/srv/work/remote tmp"}),
    "compressed": ({"DEFAULT_MODULE_COMPRESSION": "ZIP_STORED"}, {}),
    "a limit of files": ({}, {"ansible_python_module_rlimit_nofile": 256}),
    "another shell": ({}, {"ansible_shell_executable": "/bin/bash"}),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings(setting: str, pair: Twins, names: dict[str, Any]) -> None:
    """What Ansible can be told about running modules."""
    env, variables = SETTINGS[setting]
    defaults = {"module_defaults": {"file": {"mode": "0604"}}}
    place = f"/srv/work/{setting.replace(' ', '-')}"
    tasks = named(
        "settings",
        {"file": {"path": place, "state": "directory"}},
        {"copy": {"content": "x", "dest": f"{place}/copied", "mode": "0640"}},
        {"file": {"path": f"{place}/copied", "state": "file"}},
        {"command": "sh -c 'pwd; umask; echo err >&2'", "no_log": setting == "no_log"},
        {"leak": {"how": "raises"}},
        {"leak": {"how": "writes"}},
        {"stat": {"path": "/no/such"}},
        {"user": {"name": "secret", "password": "s3cret"}, "no_log": True, "check_mode": True},
        {"script": "{{ files }}/script.sh a b"},
        {"ping": {"data": "crash"}},
        STATE,
    )
    pair.same(tasks, env=env, keywords=defaults, **{**names, **variables})


def test_own_module_utils(pair: Twins, names: dict[str, Any]) -> None:
    """A playbook's own module_utils stand in front of ansible-core's, for that playbook alone."""
    core = Path(sysconfig.get_path("purelib"), "ansible/module_utils/common/text/formatters.py")
    text = core.read_text()
    tasks = named("utils", {"uses_utils": {}}, {"ping": {}})
    marks = []
    for more in ("", "\nMARK = 'one'\n", "\nMARK = 'two'\n", ""):
        beside = {"module_utils/common/text/formatters.py": text + more} if more else {}
        run = pair.same(tasks, beside=beside, **names)
        marks.append(run.result("utils 0")["marks"][0])
    assert marks == [None, "one", "two", None]


def collection(version: int) -> dict[str, str]:
    """Return the files of a collection whose module uses module_utils of its own."""
    top = "collections/ansible_collections/gangway_test/demo"
    utils = f"{top}/plugins/module_utils"
    return {
        f"{top}/galaxy.yml": "namespace: gangway_test\nname: demo\nversion: 1.0.0\n",
        f"{utils}/helper.py": "from .sub.deep import number\n\ntwice = lambda: 2 * number()\n",
        f"{utils}/sub/__init__.py": "LOADED = __name__\n",
        f"{utils}/sub/deep.py": f"def number():\n    return {version}\n",
        f"{utils}/basic.py": "class AnsibleModule:\n    'Named like one of core.'\n",
        f"{top}/plugins/modules/thing.py": (
            "from ansible.module_utils.basic import AnsibleModule\n"
            "from ansible_collections.gangway_test.demo.plugins.module_utils import helper\n"
            "from ansible_collections.gangway_test.demo.plugins.module_utils import basic, sub\n"
            "if __name__ == '__main__':\n"
            "    module = AnsibleModule({})\n"
            "    name = basic.AnsibleModule.__doc__\n"
            "    module.exit_json(twice=helper.twice(), sub=sub.LOADED, name=name)\n"
        ),
    }


def test_a_collection(pair: Twins, names: dict[str, Any]) -> None:
    """A collection's module_utils are those that the task brings, also after an upgrade."""
    tasks = named("collection", {"gangway_test.demo.thing": {}}, {"ping": {}}, STATE)
    results = []
    for version in (1, 1, 2, 1):
        run = pair.same(tasks, beside=collection(version), **names)
        results.append(run.result("collection 0").get("twice"))
    assert results == [2, 2, 4, 2]
