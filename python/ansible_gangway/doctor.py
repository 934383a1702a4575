"""The command `gangway doctor`: this installation, Ansible's view of it, short names, engines."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible_gangway import __version__, engines, link
from ansible_gangway.probe import Finding, run

ANSIBLE_TIMEOUT = 20.0
"""Seconds for Ansible to say how it is set up: a first import from a cold disk is slow."""

# Run by the interpreter that runs Ansible, as a playbook in the directory argv[1] would see things;
# the other arguments are short names.
ASK_ANSIBLE = """
import json, sys
del sys.path[0]  # the present directory, which a playbook does not have there
directory, *names = sys.argv[1:]
import ansible.release
from ansible.plugins.loader import add_all_plugin_dirs, connection_loader, init_plugin_loader
from ansible.utils.collection_loader import AnsibleCollectionConfig
view = {"ansible": ansible.release.__version__, "python": sys.version.split()[0],
        "executable": sys.executable, "package": None, "collection": None, "short_names": {}}
try:
    import ansible_gangway._core
    view["package"] = ansible_gangway.__version__
except ImportError as exc:
    view["import_error"] = str(exc)
init_plugin_loader()
AnsibleCollectionConfig.playbook_paths = [directory]
add_all_plugin_dirs(directory)
try:
    import ansible_collections.gangway.exec as collection
    view["collection"] = list(collection.__path__)[0]
except ImportError:
    pass
for name in names:
    found = connection_loader.find_plugin_with_context(name)
    view["short_names"][name] = found.plugin_resolved_path if found.resolved else None
print(json.dumps(view))
"""

MARKS = {"ok": "ok", "absent": "--", "problem": "!!", "broken": "!!"}


def examine(playbook_dir: str) -> list[Finding]:
    """Look at everything; `playbook_dir` is where playbooks are run from."""
    directory = os.path.abspath(playbook_dir)
    with ThreadPoolExecutor() as pool:
        view = pool.submit(_ask_ansible, directory)
        probes = [pool.submit(engines.PROBES[name]) for name in link.NAMES]
        return [
            installation(),
            *ansible(view.result()),
            *short_names(view.result(), directory),
            *(probe.result() for probe in probes),
        ]


def render(finding: Finding) -> str:
    """Return a finding as the lines that are printed."""
    line = f"{MARKS[finding.state]}  {finding.subject:16} {finding.text}"
    return line if finding.advice is None else f"{line}\n{'':21}-> {finding.advice}"


def installation() -> Finding:
    """Whether the package holds together."""
    subject = "ansible-gangway"
    where = f"{__version__} in {Path(__file__).parent}"
    again = f"Run '{sys.executable} -m pip install --force-reinstall ansible-gangway'."
    try:
        from ansible_gangway import _core
    except ImportError as exc:
        return Finding(subject, "broken", f"{where}: the native module fails: {exc}", again)
    if _core.__version__ != __version__:
        return Finding(
            subject,
            "broken",
            f"{where}: the native module is of version {_core.__version__}",
            again,
        )
    for name in link.PLUGINS:
        if not (link.plugin_directory() / name).is_file():
            text = f"{where}: {link.plugin_directory() / name} is missing"
            return Finding(subject, "broken", text, again)
    return Finding(subject, "ok", where)


def ansible(view: dict[str, Any]) -> list[Finding]:
    """Whether Ansible can import the package, and which copy of the collection it takes."""
    if "error" in view:
        return [Finding("ansible-core", "broken", view["error"], view.get("advice"))]
    text = f"{view['ansible']} on Python {view['python']} ({view['executable']})"
    findings = [Finding("ansible-core", "ok", text, view.get("advice"))]
    if view["package"] is None:
        findings[0] = Finding(
            "ansible-core",
            "broken",
            f"{text} cannot import ansible_gangway: {view['import_error']}",
            f"Run '{view['executable']} -m pip install ansible-gangway'.",
        )
    return [*findings, collection(view)]


def collection(view: dict[str, Any]) -> Finding:
    """Whether the copy of the collection that Ansible takes is of the package's version."""
    subject = "gangway.exec"
    path = view["collection"]
    if path is None:
        return Finding(
            subject,
            "broken",
            "Ansible does not find the collection",
            "If ANSIBLE_COLLECTIONS_SCAN_SYS_PATH (collections_scan_sys_path) is off, put it on.",
        )
    version = collection_version(Path(path))
    if version == view["package"]:
        return Finding(subject, "ok", f"{version} in {path}")
    return Finding(
        subject,
        "broken",
        f"{version} in {path} is in front of the version {view['package']} of ansible-gangway",
        "Remove that copy, or run "
        f"'{view['executable']} -m pip install ansible-gangway=={version}'.",
    )


def collection_version(path: Path) -> str:
    """Read the version of a collection from its metadata."""
    for name in ("MANIFEST.json", "galaxy.yml"):
        try:
            text = (path / name).read_text(errors="replace")
        except OSError:
            continue
        match = re.search(r"""^\s*["']?version["']?\s*:\s*["']?([^"',\s]+)""", text, re.MULTILINE)
        if match:
            return match.group(1)
    return "of unknown version"


def short_names(view: dict[str, Any], directory: str) -> list[Finding]:
    """Tell what `ansible_connection=docker` and the like mean here."""
    return [_short_name(name, view, directory) for name in link.PLUGINS]


def _short_name(file_name: str, view: dict[str, Any], directory: str) -> Finding:
    name = file_name.removesuffix(".py")
    subject = f"'{name}'"
    for place in (Path(directory, "connection_plugins"), link.user_directory()):
        if link.state(place / file_name) == "stale":
            return Finding(
                subject,
                "problem",
                f"{place / file_name} leads to another installation: "
                f"{os.readlink(place / file_name)}",
                "Run 'gangway link' to renew it, or 'gangway unlink' to remove it (with "
                "--playbook-dir if it is next to playbooks).",
            )
    meaning = view.get("short_names", {}).get(name)
    if meaning is None:
        state = link.state(link.user_directory() / file_name)
        if state == "ours":
            text = f"is linked in {link.user_directory()}, where Ansible does not look"
            return Finding(subject, "problem", text, link.why_not_searched(link.user_directory()))
        text = "means nothing to Ansible"
    elif os.path.realpath(meaning) == os.path.realpath(link.plugin_directory() / file_name):
        return Finding(subject, "ok", f"means gangway.exec.{name}, by {meaning}")
    else:
        text = f"means {meaning}"
    return Finding(subject, "absent", text, f"'gangway link' makes it mean gangway.exec.{name}.")


def _ask_ansible(directory: str) -> dict[str, Any]:
    """Ask the Ansible of this installation, or else the one in PATH, how it sees things."""
    beside = shutil.which(os.path.join(os.path.dirname(sys.executable), "ansible"))
    in_path = shutil.which("ansible")
    ansible = beside or in_path
    if ansible is None:
        return {
            "error": f"Ansible is neither in PATH nor installed for {sys.executable}",
            "advice": "Install ansible-core and ansible-gangway into the same Python.",
        }
    version = run([ansible, "--version"], ANSIBLE_TIMEOUT, directory)
    python = re.search(r"python version = .*\((/[^()]+)\)\s*$", version.stdout, re.MULTILINE)
    if python is None:
        return {"error": f"{ansible} --version: {version.reason or 'names no Python'}"}
    ask = [python.group(1), "-c", ASK_ANSIBLE, directory, *link.NAMES]
    answer = run(ask, ANSIBLE_TIMEOUT, directory)
    if not answer.ok:
        return {"error": f"{ansible} cannot be asked: {answer.reason}"}
    view: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    if beside and in_path and not os.path.samefile(beside, in_path):
        view["advice"] = f"The ansible in PATH is another one: {in_path}."
    return view
