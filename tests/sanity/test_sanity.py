"""`ansible-test sanity`: what Ansible asks of a collection, with no exception to it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ansible_test
import pytest
from ansible.release import __version__

from ansible_gangway import link

COLLECTION = link.plugin_directory().parent.parent
PYTHON = "{}.{}".format(*sys.version_info)
# ansible-test makes virtual environments without pip and fetches get-pip.py from a server of its
# own, unless that is in its cache. This is all of get-pip.py that is needed.
GET_PIP = f"""
import subprocess, sys
words = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
pip = [{sys.executable!r}, "-m", "pip", "--python", sys.executable, "install", *words]
sys.exit(subprocess.call(pip))
"""


@pytest.fixture
def home() -> Path:
    """Return a HOME for ansible-test, where the environments it makes stay for the next run."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = Path(os.environ.get("GANGWAY_CACHE") or f"{cache}/gangway") / f"sanity-{__version__}"
    scripts = home / ".ansible/test/cache"
    scripts.mkdir(parents=True, exist_ok=True)
    source = Path(ansible_test.__path__[0], "_internal/python_requirements.py").read_text()
    versions = set(re.findall(r"pip='([\d.]+)'", source))
    assert versions
    for version in versions:
        (scripts / f"get_pip_{version.replace('.', '_')}.py").write_text(GET_PIP)
    return home


@pytest.mark.timeout(900)  # the first time it installs what each test needs
def test_sanity(home: Path, tmp_path: Path) -> None:
    """Every test that ansible-test has runs, and finds nothing."""
    copy = tmp_path / "ansible_collections/gangway/exec"
    shutil.copytree(COLLECTION, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert not (copy / "tests").exists(), "there are exceptions"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "PYTHON"))}

    def ansible_test_sanity(*arguments: str) -> str:
        done = subprocess.run(
            [Path(sys.executable).with_name("ansible-test"), "sanity", "--color=no", *arguments],
            cwd=copy,
            env=environment | {"HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    names = re.findall(r"^[\w-]+$", ansible_test_sanity("--list-tests"), re.MULTILINE)
    assert {"ansible-doc", "import", "pep8", "pylint", "validate-modules", "yamllint"} <= set(names)
    said = ansible_test_sanity("--local", "--python", PYTHON)
    assert re.findall(r'^Running sanity test "([\w-]+)"', said, re.MULTILINE) == names, said
    warnings = re.findall(r"^WARNING: .*", said, re.MULTILINE)
    # It wants en_US.UTF-8, which a machine need not have.
    unexpected = [line for line in warnings if "locale" not in line and "Reviewing" not in line]
    assert not unexpected, said
