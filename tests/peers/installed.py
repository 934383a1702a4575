"""The peers, as users install them: the `ansible` package in a virtual environment of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import ansible_gangway
from support.skip import cannot_run

# Brings community.docker, kubernetes.core and containers.podman. One version, because each test
# knows what that version does wrong.
ANSIBLE = "14.5.0"
# Of community.docker.docker_api.
REQUESTS = "requests>=2.32,<3"
PYTHONS = ("3.13", "3.12")


def environment(repository: Path) -> Path:
    """Return the virtual environment of the peers, made first if the cache has none.

    The tests of ansible-core are in it, as `core`.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("GANGWAY_CACHE") or Path(home) / "gangway") / "peers"
    cache.mkdir(parents=True, exist_ok=True)
    venv = cache / ANSIBLE
    with (cache / f".{ANSIBLE}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        complete = venv / "complete"
        # The interpreter is a link to one that may be gone.
        if not (complete.exists() and (venv / "bin/python").exists()):
            make(venv, repository)
            complete.touch()
    return venv


def make(venv: Path, repository: Path) -> None:
    """Make the environment from nothing: less than a minute, 500 MB."""
    find = [repository / "scripts/find-python", *PYTHONS]
    found = subprocess.run(find, capture_output=True, text=True)
    if found.returncode != 0:
        cannot_run(f"there is no Python {' or '.join(PYTHONS)} for the peers (ansible {ANSIBLE})")
    shutil.rmtree(venv, ignore_errors=True)
    subprocess.run([found.stdout.strip(), "-m", "venv", venv], check=True, timeout=120)
    pip = [venv / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", f"ansible=={ANSIBLE}", REQUESTS], check=True, timeout=900)
    # Its tests are in its source distribution only.
    release = "import ansible.release; print(ansible.release.__version__, end='')"
    core = subprocess.check_output([venv / "bin/python", "-c", release], text=True, timeout=60)
    download = ["download", "--no-deps", "--no-binary=ansible-core", f"ansible-core=={core}"]
    subprocess.run([*pip, *download, f"--dest={venv}"], check=True, timeout=900)
    with tarfile.open(venv / f"ansible_core-{core}.tar.gz") as archive:
        archive.extractall(venv, filter="data")
    (venv / f"ansible_core-{core}").rename(venv / "core")


def link_ours(directory: Path) -> Path:
    """Return `directory`, made a PYTHONPATH of the gangway under test and of nothing else."""
    package = Path(ansible_gangway.__file__).parent
    (directory / "ansible_collections").mkdir()
    (directory / "ansible_gangway").symlink_to(package)
    collection = package.parent / "ansible_collections/gangway"
    (directory / "ansible_collections/gangway").symlink_to(collection)
    return directory
