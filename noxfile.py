"""The Python tests on every ansible-core that is supported. `nox --list` names the sessions.

The newest ansible-core runs everything. On the others only the tests that run Ansible are repeated
(marker `plays`): nothing else depends on its version. Of the matrix of engines, paths and Pythons
`make test` takes a part (`pytest --help` says which), `make soak` all. Arguments for pytest come
after two dashes: `nox -s docker-2.16 -- tests/examples -k docker`.

They are cut into lines (tags) that scripts/test runs beside each other, as tests wait for half of
their time. Only one line has Kubernetes: its ports are the machine's.
"""

import os
import subprocess
from pathlib import Path

import nox

# ansible-core: the Python that its controller side is tested with.
CORES = {
    "2.16": "3.11",
    "2.17": "3.12",
    "2.18": "3.12",
    "2.19": "3.11",
    "2.20": "3.12",
    "2.21": "3.13",
}
OLDEST, NEWEST = "2.16", "2.21"
# What tests are called, or their parameters; peers are of all engines.
ENGINES = {
    "core": "not (docker or podman or kube)",
    "docker": "docker and not (podman or kube)",
    "pods": "podman or kube",
}
BESIDE = {
    "modules": ["tests/modules"],
    "without-engine": ["tests/bench", "tests/packaging", "tests/sanity", "tests/warm"],
    "peers": ["tests/peers"],
}
SOAK = os.environ.get("GANGWAY_SOAK") == "1"
REQUIRE_ALL = os.environ.get("GANGWAY_REQUIRE_ALL") == "1"

nox.needs_version = ">=2025.5"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = True
nox.options.reuse_venv = "yes"
OTHERS = [core for core in CORES if core != NEWEST] if SOAK else [OLDEST, "2.19"]
LINES = {
    "newest": [f"core-{NEWEST}", f"docker-{NEWEST}"],
    "pods": [f"pods-{NEWEST}", *(f"pods-{core}" for core in OTHERS), "peers"],
    "rest": [
        *("modules", "without-engine"),
        *(f"{name}-{core}" for core in OTHERS for name in ("core", "docker")),
    ],
}
nox.options.sessions = [name for names in LINES.values() for name in names]


def find_python(version: str) -> str | None:
    """Return the path of Python `version`, or None; nox would take a pyenv shim that cannot run."""
    found = subprocess.run(["scripts/find-python", version], stdout=subprocess.PIPE, text=True)
    return found.stdout.strip() or None


def the_wheel(session: nox.Session) -> Path:
    """Return the wheel under test: what `make wheel` built."""
    wheels = list(Path("dist").glob("ansible_gangway-*.whl"))
    if len(wheels) != 1:
        session.error(f"dist/ holds {len(wheels)} wheels instead of one: run `make wheel`")
    return wheels[0]


def tests(session: nox.Session, core: str, chosen: list[str]) -> None:
    """Run pytest beside this ansible-core and the wheel, as a user has them installed."""
    project = nox.project.load_toml("pyproject.toml")
    session.install(f"ansible-core~={core}.0", *nox.project.dependency_groups(project, "test"))
    session.install("--no-deps", "--force-reinstall", str(the_wheel(session)))
    select = [] if core == NEWEST else ["-m", "plays"]
    if SOAK:
        select += ["--soak"]
    else:
        select += ["--sample", "pairwise" if core == NEWEST else "sparse"]
    session.run("python", "-m", "pytest", *select, *(session.posargs or chosen))


def declare(name: str, core: str, chosen: list[str]) -> None:
    """Make a session; where its Python is missing it says so instead."""
    version = CORES[core]
    python = find_python(version)

    def missing(session: nox.Session) -> None:
        end = session.error if REQUIRE_ALL else session.skip
        end(f"{name} is not tested: there is no Python {version} on this machine")

    def run(session: nox.Session) -> None:
        tests(session, core, chosen)

    tags = [line for line, names in LINES.items() if name in names]
    nox.session(run if python else missing, python=python or False, name=name, tags=tags)


# Outside `make soak` the oldest ansible-core repeats on runc all that runs Ansible, those between
# the two ends less, and on other engines less again.
LEAST = ["tests/examples", "tests/plugins"]
LESS = [*LEAST, "tests/conformance", "tests/properties"]
for core in CORES:
    elsewhere = [path for paths in BESIDE.values() for path in paths] if core == NEWEST else []
    ignored = [f"--ignore={directory}" for directory in elsewhere]
    on_runc, on_others = [], []
    if core == OLDEST and not SOAK:
        on_others = LESS
    elif core != NEWEST and not SOAK:
        on_runc, on_others = [*LESS, "tests/warm"], LEAST
    for name, keywords in ENGINES.items():
        chosen = on_runc if name == "core" else on_others
        declare(f"{name}-{core}", core, [*chosen, *ignored, "-k", keywords])
for name, directories in BESIDE.items():
    declare(name, NEWEST, directories)
