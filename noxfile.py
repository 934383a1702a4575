"""The Python tests on every ansible-core that is supported. `nox --list` names the sessions.

The newest ansible-core runs everything. On the others only the tests that run Ansible are repeated
(marker `plays`): nothing else depends on its version. Of the matrix of engines, paths and Pythons
`make test` takes a part (`pytest --help` says which), `make soak` all. Arguments for pytest come
after two dashes: `nox -s docker-2.16 -- tests/examples -k docker`.

scripts/test works through them in three lines beside each other, as tests wait for half of their
time. They are declared the longest first; those with the tag `kubernetes` are for one of the lines,
because Kubernetes has ports of the machine.
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
# What tests are called, or their parameters; peers are of all engines. The conformance suite on
# runc has a session of its own, as long as the rest of `core`.
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

    tags = ["kubernetes"] if name.startswith(("pods-", "peers")) else []
    nox.session(run if python else missing, python=python or False, name=name, tags=tags)


# Outside `make soak` the oldest ansible-core repeats on runc all that runs Ansible, those between
# the two ends less, and on other engines less again.
LEAST = ["tests/examples", "tests/plugins"]
LESS = [*LEAST, "tests/conformance", "tests/properties"]
CONFORMANCE = "tests/conformance"
apart = [f"--ignore={directory}" for directories in BESIDE.values() for directory in directories]
declare("modules", NEWEST, BESIDE.pop("modules"))
declare(f"runc-{NEWEST}", NEWEST, [CONFORMANCE, "-k", ENGINES["core"]])
for name, keywords in ENGINES.items():
    ignored = [*apart, f"--ignore={CONFORMANCE}"] if name == "core" else apart
    declare(f"{name}-{NEWEST}", NEWEST, [*ignored, "-k", keywords])
for name, directories in BESIDE.items():
    declare(name, NEWEST, directories)
for core in [core for core in CORES if core != NEWEST] if SOAK else [OLDEST, "2.19"]:
    on_runc, on_others = [], []
    if core == OLDEST and not SOAK:
        on_others = LESS
    elif not SOAK:
        on_runc, on_others = [*LESS, "tests/warm"], LEAST
    for name, keywords in ENGINES.items():
        chosen = on_runc if name == "core" else on_others
        declare(f"{name}-{core}", core, [*chosen, "-k", keywords])
