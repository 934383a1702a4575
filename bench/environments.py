"""The virtual environments of the contenders: made once for each set of versions, in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from contenders import ANSIBLE, COLLECTIONS, ENVIRONMENTS, GANGWAY

INSTALL_SECONDS = 1200


class CannotInstall(Exception):
    """An environment cannot be made; the text is one sentence."""


def cache() -> Path:
    """Return the directory for what is costly to make and safe to remove; creates it."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get("GANGWAY_CACHE") or Path(home) / "gangway") / "bench"
    root.mkdir(parents=True, exist_ok=True)
    return root.resolve()


def python(environment: str) -> Path:
    """Return the Python of an environment that `prepare` has made."""
    return directory(environment) / "bin" / "python"


def directory(environment: str) -> Path:
    """Return where an environment is: its name tells its versions apart."""
    more = [ANSIBLE, *COLLECTIONS] if environment == "collections" else []
    recipe = "\n".join([sys.version, *ENVIRONMENTS[environment], *more])
    return cache() / f"{environment}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def prepare(environment: str, wheel: Path | None = None) -> None:
    """Make an environment if it is not there; put `wheel` into gangway's if it is another one."""
    place = directory(environment)
    with (cache() / f"{place.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            shutil.rmtree(place, ignore_errors=True)
            run([sys.executable, "-m", "venv", str(place)], environment)
            install(environment, *ENVIRONMENTS[environment])
            if environment == "collections":
                install_collections()
            (place / "complete").touch()
        if environment == GANGWAY:
            install_wheel(wheel)


def install_wheel(wheel: Path | None) -> None:
    """Install the wheel, unless this very one is there already."""
    if wheel is None:
        raise CannotInstall("there is no wheel in dist/: run `make wheel`")
    mark = directory(GANGWAY) / "wheel"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if not mark.exists() or mark.read_text() != digest:
        mark.unlink(missing_ok=True)
        install(GANGWAY, "--no-deps", "--force-reinstall", str(wheel))
        mark.write_text(digest)


def install_collections() -> None:
    """Take the collections out of the package that has them all."""
    environment = "collections"
    with tempfile.TemporaryDirectory(dir=cache()) as directory:
        pip = [str(python(environment)), "-m", "pip", "--disable-pip-version-check"]
        run([*pip, "download", "--quiet", "--no-deps", "--dest", directory, ANSIBLE], environment)
        (package,) = Path(directory).glob("ansible-*.whl")
        wanted = tuple(f"ansible_collections/{name.replace('.', '/')}/" for name in COLLECTIONS)
        with zipfile.ZipFile(package) as archive:
            names = [name for name in archive.namelist() if name.startswith(wanted)]
            archive.extractall(site_packages(environment), names)


def install(environment: str, *arguments: str) -> None:
    """Run pip; what is imported is compiled by the first, untimed run."""
    pip = [str(python(environment)), "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "install", "--quiet", "--no-compile", *arguments], environment)


def run(argv: list[str], environment: str) -> None:
    """Run one step of making an environment."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise CannotInstall(
            f"the environment {environment} was not installed within {INSTALL_SECONDS} s"
        ) from None
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        said = next((line for line in lines if "ERROR" in line), lines[-1] if lines else "nothing")
        raise CannotInstall(f"the environment {environment} cannot be installed: {said.strip()}")


def site_packages(environment: str) -> Path:
    """Return the directory of an environment's packages."""
    return next((directory(environment) / "lib").glob("python3.*")) / "site-packages"


def versions(environment: str) -> dict[str, str]:
    """Return {package: version} of what an environment was asked to hold."""
    names = [requirement.partition("==")[0] for requirement in ENVIRONMENTS[environment]]
    if environment == GANGWAY:
        names.append("ansible-gangway")
    if environment == "collections":
        return asked(environment, names) | collections(environment)
    return asked(environment, names)


def asked(environment: str, names: list[str]) -> dict[str, str]:
    """Ask an environment for the versions of its packages."""
    code = "import sys, importlib.metadata as m; [print(m.version(n)) for n in sys.argv[1:]]"
    argv = [str(python(environment)), "-c", code, *names]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=60)
    return dict(zip(names, done.stdout.split(), strict=False))


def collections(environment: str) -> dict[str, str]:
    """Return the versions of the collections that have a contender."""
    found = {}
    for name in COLLECTIONS:
        manifest = site_packages(environment) / "ansible_collections" / name.replace(".", "/")
        info = json.loads((manifest / "MANIFEST.json").read_text())["collection_info"]
        found[name] = info["version"]
    return found
