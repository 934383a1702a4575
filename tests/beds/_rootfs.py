"""Root file systems for containers, made on this machine without a container registry.

base     Debian with apt, python3, sudo, doas, ACL tools and German messages of what asks for a
         password; users `app` (1000) and `ops` (1001) in group `extra` (2000)
modules  base, and what the modules of ansible-core ask for: git, pip, cron, ssh and the like
busybox  one static busybox and links to it: a shell and small tools, no Python, no bash
noshell  one static program that sleeps; nothing else can be started
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path

import _bed

SUITE = "bookworm"
RECIPE = 1  # part of the cache's key: raise it when the functions below change what they make
# python3 is the whole standard library (python3-minimal is not), distutils its one separate part.
PACKAGES = ["acl", "locales", "opendoas", "python3", "python3-distutils", "sudo"]
# Programs and Python packages that modules call, in `modules` only.
FOR_MODULES = [
    *("bzip2", "ca-certificates", "cron", "file", "git", "gnupg", "iproute2", "iptables"),
    *("openssh-client", "python3-apt", "python3-debian", "python3-pexpect", "python3-pip"),
    *("python3-venv", "subversion", "unzip", "xz-utils", "zip"),
]
EXCLUDED = ["/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*"]
INCLUDED = [f"/usr/share/locale/de/LC_MESSAGES/{name}.mo" for name in ("Linux-PAM", "sudo*")]
CUSTOMIZE = [  # shell commands; "$1" is the new root
    'chroot "$1" groupadd --gid 1000 app',
    'chroot "$1" groupadd --gid 2000 extra',
    'chroot "$1" useradd --uid 1000 --gid app --groups extra --create-home --shell /bin/bash app',
    'chroot "$1" useradd --uid 1001 --groups extra --create-home --shell /bin/bash ops',
    'chroot "$1" localedef -i de_DE -f UTF-8 de_DE.UTF-8; rm -rf "$1"/usr/share/i18n',
    # Nothing of the machine that builds it. sudo wants the host name known: `runc spec` sets runc.
    'echo "127.0.0.1 localhost runc" > "$1"/etc/hosts; echo runc > "$1"/etc/hostname',
    ': > "$1"/etc/resolv.conf; rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap',
]
PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"
GROUP = "root:x:0:\napp:x:1000:\nextra:x:2000:app\n"


def archive(name: str) -> Path:
    """Return the tar file of the root file system `name`, made first if the cache has none."""
    build = BUILDERS.get(name)
    if build is None:
        raise _bed.BedError(f"no root file system is named {name!r}: {', '.join(BUILDERS)} are")
    recipe = [RECIPE, PACKAGES, EXCLUDED, INCLUDED, CUSTOMIZE, PASSWD, GROUP, platform.machine()]
    recipe += [FOR_MODULES] if name == "modules" else []
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
    return _bed.cached(_bed.cache_dir("rootfs") / f"{name}-{SUITE}-{key}.tar", build)


def build_base(target: Path) -> None:
    """Write Debian's root file system to `target`, from the mirrors of this machine's apt."""
    build_debian(target, PACKAGES)


def build_modules(target: Path) -> None:
    """Write the same with more packages."""
    build_debian(target, PACKAGES + FOR_MODULES)


def build_debian(target: Path, packages: list[str]) -> None:
    """Write a root file system with `packages` to `target`."""
    _bed.require({"mmdebstrap": "mmdebstrap"})
    with tempfile.TemporaryDirectory() as scratch:
        # mmdebstrap's apt does not read this machine's settings: a proxy, date checks.
        options = Path(scratch, "apt.conf")
        options.write_text(_bed.run(["apt-config", "dump", "Acquire"]).stdout)
        argv = ["mmdebstrap", "--mode=root", "--variant=apt", "--format=tar"]
        argv += [f"--include={','.join(packages)}", f"--aptopt={options}"]
        argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED]
        argv += [f"--dpkgopt=path-include={pattern}" for pattern in INCLUDED]
        argv += [f"--customize-hook={command}" for command in CUSTOMIZE]
        _bed.run([*argv, SUITE, str(target), *sources()], seconds=1200)


def sources() -> list[str]:
    """Return apt's lines for SUITE, its updates and its security fixes as this machine has them."""
    fields = "$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)"
    command = ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]

    def known() -> list[str]:
        lines = set()
        for line in _bed.run(command).stdout.splitlines():
            origin, codename, component, uri = line.split(" ", 3)
            if origin == "Debian" and codename.startswith(SUITE) and component == "main":
                lines.add(f"deb {uri} {codename} main")
        return sorted(lines)

    found = known()
    if not found:  # the package lists say which of the mirrors are Debian's, and there are none yet
        _bed.apt_get("update")
        found = known()
    if not found:
        raise _bed.BedError(f"apt on this machine knows no Debian mirror that has {SUITE}")
    return found


def build_busybox(target: Path) -> None:
    """Write a root file system with nothing but busybox to `target`."""
    busybox = static_busybox()
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch, "busybox")
        program.write_bytes(busybox)
        program.chmod(0o755)
        applets = _bed.run([program, "--list"]).stdout.split()
    with tarfile.open(target, "w") as tar:
        for directory in ("bin", "dev", "etc", "home", "proc", "root", "sys", "var"):
            add(tar, directory, stat.S_IFDIR | 0o755)
        for directory in ("tmp", "var/tmp"):
            add(tar, directory, stat.S_IFDIR | 0o1777)
        add(tar, "home/app", stat.S_IFDIR | 0o755, owner=1000)
        add(tar, "etc/passwd", stat.S_IFREG | 0o644, PASSWD.encode())
        add(tar, "etc/group", stat.S_IFREG | 0o644, GROUP.encode())
        add(tar, "bin/busybox", stat.S_IFREG | 0o755, busybox)
        for applet in applets:
            if applet != "busybox":
                add(tar, f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox")


def build_noshell(target: Path) -> None:
    """Write a root file system whose only program is /sleep to `target`."""
    with tarfile.open(target, "w") as tar:
        for directory in ("dev", "etc", "proc", "sys"):
            add(tar, directory, stat.S_IFDIR | 0o755)
        add(tar, "tmp", stat.S_IFDIR | 0o1777)
        add(tar, "etc/passwd", stat.S_IFREG | 0o644, PASSWD.encode())
        add(tar, "etc/group", stat.S_IFREG | 0o644, GROUP.encode())
        # busybox goes by the name it is called by: as `sleep` it cannot be made to be a shell.
        add(tar, "sleep", stat.S_IFREG | 0o755, static_busybox())


def static_busybox() -> bytes:
    """Return Debian's static busybox, not installed here: it would replace the dynamic one."""
    with tempfile.TemporaryDirectory() as scratch:
        _bed.apt_get("download", "busybox-static", cwd=Path(scratch))
        package = next(Path(scratch).glob("busybox-static_*.deb"))
        data = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True, timeout=60
        ).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        file = tar.extractfile("./bin/busybox")
        assert file is not None
        return file.read()


BUILDERS = {
    "base": build_base,
    "modules": build_modules,
    "busybox": build_busybox,
    "noshell": build_noshell,
}


def add(tar: tarfile.TarFile, path: str, mode: int, content: bytes = b"", owner: int = 0) -> None:
    """Add one member; `mode` holds the type bits too, and `content` is a symbolic link's target."""
    member = tarfile.TarInfo(path)
    member.mode = stat.S_IMODE(mode)
    member.uid = member.gid = owner
    if stat.S_ISDIR(mode):
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
    elif stat.S_ISLNK(mode):
        member.type = tarfile.SYMTYPE
        member.linkname = content.decode()
        tar.addfile(member)
    else:
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
