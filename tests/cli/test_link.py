"""`gangway link` and `gangway unlink`: short names, and never a file that is not ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_gangway import cli, link

SOURCE = link.plugin_directory()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the command a HOME of its own, and no Ansible configuration."""
    for name in [name for name in os.environ if name.startswith("ANSIBLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def directory(home: Path) -> Path:
    """Return where links for the user go."""
    return home / ".ansible/plugins/connection"


def tree(directory: Path) -> dict[str, str]:
    """Return what is in a directory: the target of a link, the text of a file."""
    return {
        path.name: os.readlink(path) if path.is_symlink() else path.read_text()
        for path in directory.iterdir()
    }


LINKED = {name: str(SOURCE / name) for name in ("runc.py", "docker.py", "podman.py", "kubectl.py")}


def test_link_and_unlink(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["link"]) == 0
    assert tree(directory) == LINKED
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["linked"] * 4
    assert err == ""
    assert cli.main(["unlink"]) == 0
    assert tree(directory) == {}
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["removed"] * 4


def test_twice_changes_nothing(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["link"])
    before = {path: os.lstat(path) for path in directory.iterdir()}
    capsys.readouterr()
    assert cli.main(["link", "--user"]) == 0
    assert {path: os.lstat(path) for path in directory.iterdir()} == before
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["unchanged"] * 4
    cli.main(["unlink"])
    capsys.readouterr()
    assert cli.main(["unlink"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["not", "linked"]
    ] * 4


def test_next_to_playbooks(home: Path) -> None:
    playbooks = home / "my plays"
    playbooks.mkdir()
    assert cli.main(["link", "--playbook-dir", "my plays"]) == 0
    assert tree(playbooks / "connection_plugins") == LINKED
    assert not (home / ".ansible/plugins/connection").exists()
    assert cli.main(["unlink", "--playbook-dir", "my plays"]) == 0
    assert tree(playbooks / "connection_plugins") == {}


def test_ansible_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_HOME", "~/elsewhere")
    assert cli.main(["link"]) == 0
    assert tree(home / "elsewhere/plugins/connection") == LINKED


def identity(path: Path) -> tuple[int, ...]:
    """Return what a change would change; to read a link is none."""
    found = os.lstat(path)
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling link"])
def test_a_foreign_file_is_kept(
    kind: str, directory: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory.mkdir(parents=True)
    foreign = directory / "docker.py"
    if kind == "file":
        foreign.write_text("mine")
    elif kind == "directory":
        foreign.mkdir()
    else:
        (home / "mine.py").write_text("mine")
        foreign.symlink_to(home / ("mine.py" if kind == "link" else "gone.py"))
    before = identity(foreign)
    assert cli.main(["link"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{foreign} was not made by 'gangway link'" in err
    assert "Nothing was linked." in err
    assert list(directory.iterdir()) == [foreign]
    assert cli.main(["unlink"]) == 0
    assert f"left alone {foreign}" in capsys.readouterr().out
    assert identity(foreign) == before


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_into_another_installation_is_renewed(
    exists: bool, directory: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = home / "old/lib/ansible_collections/gangway/exec/plugins/connection/docker.py"
    if exists:
        old.parent.mkdir(parents=True)
        old.write_text("old")
    directory.mkdir(parents=True)
    # As a user might have moved it: relative.
    (directory / "docker.py").symlink_to(os.path.relpath(old, directory))
    assert cli.main(["link"]) == 0
    assert tree(directory) == LINKED
    assert f"renewed {directory / 'docker.py'}" in capsys.readouterr().out
    (directory / "docker.py").unlink()
    (directory / "docker.py").symlink_to(old)
    assert cli.main(["unlink"]) == 0
    assert tree(directory) == {}
    assert old.exists() is exists


def test_no_such_playbook_directory(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["link", "--playbook-dir", "gone"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"gangway link: {home / 'gone'} is not a directory: name the one")


def test_a_directory_that_cannot_be_made(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".ansible").write_text("a file")
    assert cli.main(["link"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"gangway link: Cannot link into {home / '.ansible/plugins/connection'}:")
    assert len(err.splitlines()) == 1


def test_an_incomplete_installation(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(link, "plugin_directory", lambda: Path("/nowhere"))
    assert cli.main(["link"]) == 1
    assert "/nowhere/runc.py is missing: install ansible-gangway again" in capsys.readouterr().err
    assert not directory.exists()


@pytest.mark.plays
@pytest.mark.parametrize("source", ["environment", "ansible.cfg", "home"])
def test_a_setting_that_hides_the_links_is_named(
    source: str,
    directory: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if source == "environment":
        monkeypatch.setenv("ANSIBLE_CONNECTION_PLUGINS", "/opt/plugins")
        named, searched = "ANSIBLE_CONNECTION_PLUGINS", "/opt/plugins"
    elif source == "ansible.cfg":
        (home / "ansible.cfg").write_text("[defaults]\nconnection_plugins = /opt/plugins\n")
        named, searched = str(home / "ansible.cfg"), "/opt/plugins"
    else:
        (home / "ansible.cfg").write_text("[defaults]\nhome = /opt/ansible\n")
        named, searched = str(home / "ansible.cfg"), "/opt/ansible/plugins/connection"
    assert cli.main(["link"]) == 0
    err = capsys.readouterr().err
    assert f"because {named} makes it search {searched}: add it to" in err
    assert str(directory) in err
    # It does not hide links next to playbooks, and a list with the directory hides nothing.
    cli.main(["link", "--playbook-dir", "."])
    monkeypatch.setenv("ANSIBLE_CONNECTION_PLUGINS", f"/opt/plugins:{directory}")
    cli.main(["link"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("arguments", [[], ["link", "--user", "--playbook-dir", "."], ["links"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: gangway")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == "gangway 0.1.0\n"
