"""Short names: links to the plugin files in a directory that Ansible searches before it redirects.

`ansible_connection=docker` means `community.docker.docker` to Ansible, unless a plugin directory
has a `docker.py`. So a short name is a symbolic link there to the file of the collection.
"""

# mypy: disable-error-code="import-untyped,import-not-found"
from __future__ import annotations

import os
import sys
from pathlib import Path

NAMES = ("runc", "docker", "podman", "kubectl")
PLUGINS = tuple(f"{name}.py" for name in NAMES)
COLLECTION_PLUGINS = Path("ansible_collections/gangway/exec/plugins/connection")


class LinkError(Exception):
    """One sentence for the user."""


def plugin_directory() -> Path:
    """Return where the plugin files of this installation are, next to this package."""
    # Not resolved: a link should survive what a symbolic link in the path is there for.
    return Path(os.path.abspath(__file__)).parent.parent / COLLECTION_PLUGINS


def user_directory() -> Path:
    """Return the user's own plugin directory."""
    home = os.environ.get("ANSIBLE_HOME") or "~/.ansible"
    return Path(os.path.abspath(os.path.expanduser(home))) / "plugins" / "connection"


def playbook_directory(directory: str) -> Path:
    """Return the plugin directory of the playbooks in a directory."""
    playbooks = Path(os.path.abspath(directory))
    if not playbooks.is_dir():
        raise LinkError(f"{playbooks} is not a directory: name the one that holds the playbooks.")
    return playbooks / "connection_plugins"


def state(path: Path) -> str:
    """Tell what is at the path of a short name: nothing, or whose it is.

    `ours` leads to this installation, `stale` to the collection in another one (or in none any
    more); anything else is `foreign`.
    """
    if not os.path.lexists(path):
        return "missing"
    if not path.is_symlink():
        return "foreign"
    target = Path(os.path.normpath(path.parent / os.readlink(path)))
    if target == plugin_directory() / path.name:
        return "ours"
    parts = len(COLLECTION_PLUGINS.parts)
    return "stale" if target.parent.parts[-parts:] == COLLECTION_PLUGINS.parts else "foreign"


def link(directory: Path) -> list[str]:
    """Link the plugin files into a directory, all or none; return a line for each."""
    for name in PLUGINS:
        if not (plugin_directory() / name).is_file():
            raise LinkError(
                f"{plugin_directory() / name} is missing: install ansible-gangway again with "
                f"'{sys.executable} -m pip install --force-reinstall ansible-gangway'."
            )
    states = {directory / name: state(directory / name) for name in PLUGINS}
    foreign = [str(path) for path, found in states.items() if found == "foreign"]
    if foreign:
        raise LinkError(
            f"{' and '.join(foreign)} {'were' if len(foreign) > 1 else 'was'} not made by 'gangway "
            "link' and would be overwritten: move it away first. Nothing was linked."
        )
    lines = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, found in states.items():
            target = plugin_directory() / path.name
            if found == "missing":
                # Fails if something came into being there meanwhile.
                path.symlink_to(target)
                lines.append(f"linked {path} -> {target}")
            elif found == "stale":
                lines.append(f"renewed {path} -> {target} (was {os.readlink(path)})")
                new = path.with_name(f".{path.name}.{os.getpid()}")
                new.symlink_to(target)
                new.replace(path)
            else:
                lines.append(f"unchanged {path} -> {target}")
    except OSError as exc:
        raise LinkError("\n".join([*lines, f"Cannot link into {directory}: {exc}."])) from exc
    return lines


def unlink(directory: Path) -> list[str]:
    """Remove the links that `link` made in a directory, whichever installation they lead to."""
    lines = []
    for name in PLUGINS:
        path = directory / name
        found = state(path)
        if found == "missing":
            lines.append(f"not linked {path}")
        elif found == "foreign":
            lines.append(f"left alone {path}, which 'gangway link' did not make")
        else:
            try:
                path.unlink()
            except OSError as exc:
                raise LinkError("\n".join([*lines, f"Cannot remove {path}: {exc}."])) from exc
            lines.append(f"removed {path}")
    return lines


def why_not_searched(directory: Path) -> str | None:
    """Say why Ansible, as configured here and now, would not search the user's directory."""
    try:
        from ansible.config.manager import ConfigManager
    except ImportError:
        return None
    config = ConfigManager()
    paths, origin = config.get_config_value_and_origin("DEFAULT_CONNECTION_PLUGIN_PATH")
    if origin == "default":
        # Its value is a template that only `ansible.constants` fills in, with this:
        home, origin = config.get_config_value_and_origin("ANSIBLE_HOME")
        paths = [os.path.join(os.path.expanduser(home), "plugins", "connection")]
    if str(directory) in paths:
        return None
    return (
        f"Ansible does not search {directory} here, because {origin.removeprefix('env: ')} makes "
        f"it search {os.pathsep.join(paths)}: add it to ANSIBLE_CONNECTION_PLUGINS, or to "
        "connection_plugins in the section [defaults] of ansible.cfg."
    )
