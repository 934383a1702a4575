"""What every test bed needs: its directories, packages, processes, mounts and command line.

A bed is a script beside this file that starts one real engine in a directory of its own and stops
it again. Everything here runs as root on Debian 12 with Python 3.9 or later and nothing but the
standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Services and daemons live in the sbin directories, which an ordinary PATH may lack.
# A daemon outlives who starts it, and containerd's temporary files go where this says.
os.environ.pop("XDG_RUNTIME_DIR", None)
os.environ["PATH"] = os.pathsep.join(
    [os.environ.get("PATH", "/usr/bin:/bin"), "/usr/local/sbin", "/usr/sbin", "/sbin"]
)


class BedError(Exception):
    """A bed cannot do what it was asked to; the text is one sentence for the user."""


# Directories -----------------------------------------------------------------------------------


def state_dir(name: str) -> Path:
    """Return the directory for everything that the bed `name` writes while it runs; creates it."""
    return private_dir(state_root() / name)


def state_root() -> Path:
    """Return the directory that holds the states of all beds; creates it, for its owner only."""
    root = private_dir(Path(os.environ.get("GANGWAY_BEDS") or "/var/tmp/gangway-beds"))
    if len(os.fsencode(root)) > 50:  # a socket's whole path has at most 107 bytes
        raise BedError(f"{root} is too long for the sockets below it; set GANGWAY_BEDS to another")
    return root


def cache_dir(name: str = "") -> Path:
    """Return a directory for what is costly to make and safe to keep; creates it."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get("GANGWAY_CACHE") or Path(home) / "gangway")
    directory = (root / name).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def private_dir(directory: Path) -> Path:
    """Create `directory` with mode 0700 if needed and return its real path.

    The default place is writable by everyone, so a directory of somebody else is refused: it could
    be a trap for keys and sockets.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_uid != os.geteuid():
        raise BedError(f"{directory} belongs to another user; remove it or set GANGWAY_BEDS")
    return directory.resolve()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` (created, never removed) inside the block."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cached(path: Path, build: Callable[[Path], None]) -> Path:
    """Return the file `path`, first made by `build` (given where to write) if it does not exist.

    Two callers at once are safe: the second waits for the first, and nobody sees half a file.
    """
    if not path.exists():
        with locked(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                part = path.with_name(f".{path.name}.part")
                build(part)
                part.replace(path)
    return path


# Commands --------------------------------------------------------------------------------------


def run(
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    seconds: float = 300,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `argv` with empty stdin; return its text output, or raise BedError with its stderr."""
    command = [str(word) for word in argv]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=env,
            cwd=cwd,
        )
    except subprocess.TimeoutExpired:
        raise BedError(f"`{shlex.join(command)}` did not end within {seconds:.0f} s") from None
    except OSError as error:
        raise BedError(f"`{shlex.join(command)}` did not start: {error.strerror}") from None
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise BedError(f"`{shlex.join(command)}` ended with status {done.returncode}: {said}")
    return done


def require(programs: Mapping[str, str]) -> None:
    """Install what is missing: `programs` maps a program that must be on PATH to its package.

    The program decides, not the package: another vendor's dockerd would conflict with Debian's.
    """
    missing = {package for program, package in programs.items() if not shutil.which(program)}
    if missing:
        apt_get("install", "--no-install-recommends", *sorted(missing))
    for program, package in programs.items():
        if not shutil.which(program):
            raise BedError(f"{program} is not on PATH although {package} is installed")


def apt_get(*arguments: str, cwd: Path | None = None) -> None:
    """Run `apt-get -y ARGUMENTS`; on failure fetch the package lists and try once more.

    Lists may be missing (a fresh machine) or too old (the mirror dropped that version).
    """
    with locked(cache_dir("apt") / "lock"), services_not_started():
        if apt_get_once(*arguments, cwd=cwd).returncode != 0:
            for command in (["update"], arguments):
                done = apt_get_once(*command, cwd=cwd)
                if done.returncode != 0:
                    words = shlex.join(["apt-get", *command])
                    raise BedError(f"`{words}` failed: {done.stderr.strip()}")


def apt_get_once(*arguments: str, cwd: Path | None) -> subprocess.CompletedProcess[str]:
    """Run one apt-get, waiting up to 5 minutes for another user of the package system."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    argv = ["apt-get", "-y", "-q", "-o", "DPkg::Lock::Timeout=300", *arguments]
    end = time.monotonic() + 300
    while True:
        done = run(argv, check=False, seconds=1800, env=env, cwd=cwd)
        # The option above covers dpkg's lock but not the one of the package lists.
        if "Could not get lock" not in done.stderr or time.monotonic() > end:
            return done
        time.sleep(2)


@contextlib.contextmanager
def services_not_started() -> Iterator[None]:
    """Keep packages that are installed inside the block from starting their services.

    A policy-rc.d of the machine's own is left as it is.
    """
    policy = Path("/usr/sbin/policy-rc.d")
    text = "#!/bin/sh\n# Written for the time of one apt-get; safe to remove.\nexit 101\n"
    ours = not policy.exists() or policy.read_text() == text
    if ours:
        policy.write_text(text)
        policy.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            policy.unlink()


# Processes -------------------------------------------------------------------------------------


def start_time(pid: int) -> str | None:
    """Return when `pid` started (boot id and clock ticks), None if it is gone or a zombie.

    With it, a process is told from a later one that got the same number.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # proc(5): the name may hold any character
    return None if state in "ZX" else f"{boot} {fields[18]}"


@dataclass(frozen=True)
class Daemon:
    """A process that outlives this script, known by the pid file it left in `directory`."""

    name: str
    directory: Path

    @property
    def log(self) -> Path:
        """Where its stdout and stderr go."""
        return self.directory / f"{self.name}.log"

    @property
    def pid_file(self) -> Path:
        """Hold the pid and the start time."""
        return self.directory / f"{self.name}.started"

    def pid(self) -> int | None:
        """Return the pid if this very process is alive."""
        try:
            pid, started = self.pid_file.read_text().strip().split(" ", 1)
        except (OSError, ValueError):
            return None
        return int(pid) if pid.isdigit() and start_time(int(pid)) == started else None

    def start(self, argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
        """Start `argv` in a session of its own; the caller waits until it is ready."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=env,
                cwd="/",
            )
        self.pid_file.write_text(f"{process.pid} {start_time(process.pid)}\n")

    def stop(self, seconds: float = 20) -> None:
        """End the process and forget it."""
        pid = self.pid()
        if pid:
            end_processes([pid], seconds)
        self.pid_file.unlink(missing_ok=True)

    def last_words(self) -> str:
        """Return the end of the log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])
        except OSError:
            return "(no log)"


def end_processes(pids: Iterable[int], seconds: float = 20) -> None:
    """Send TERM to each of `pids`, after `seconds` KILL, and wait until they are gone."""
    alive = {pid: start_time(pid) for pid in pids}

    def gone() -> bool:
        for pid, started in list(alive.items()):
            if started is None or start_time(pid) != started:
                del alive[pid]
        return not alive

    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 10.0)):
        gone()
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        end = time.monotonic() + patience
        while not gone() and time.monotonic() < end:
            time.sleep(0.02)
    if alive:
        raise BedError(f"processes {sorted(alive)} did not end although KILL was sent")


def processes_of(directory: Path, programs: Iterable[str]) -> list[int]:
    """Return the pids of `programs` (base names) that name a path below `directory` as argument.

    For what an earlier run left behind without a pid file, such as containerd's shims. The path may
    follow a `--flag=` or a `unix://`, or stand in what a daemon wrote over its arguments.
    """
    named = re.compile(rb"(?:^|[\0 =:,]|://)" + re.escape(os.fsencode(directory)) + rb"/")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # Not argv[0], which some daemons overwrite; the file may be gone since an upgrade.
                program = Path(os.readlink(entry / "exe").removesuffix(" (deleted)")).name
                if program in programs and named.search((entry / "cmdline").read_bytes()):
                    found.append(int(entry.name))
    return found


def children(pid: int) -> list[int]:
    """Return the pids of the processes that `pid` started and that are its children still."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == pid:
                    found.append(int(entry.name))
    return found


def processes_inside(directory: Path) -> list[int]:
    """Return the pids of containers' processes whose root file system lies below `directory`.

    They are found through the kernel's table of mounts, so also when their engine forgot them.
    """
    found = []
    ours = os.readlink("/proc/self/ns/mnt")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns/mnt") != ours:
                    lines = (entry / "mountinfo").read_text(errors="replace").splitlines()
                    roots = [line for line in lines if line.split()[4] == "/"]
                    if any(f"{directory}/" in line for line in roots):
                        found.append(int(entry.name))
    return found


def wait_until(
    check: Callable[[], object], what: str, seconds: float, daemon: Daemon | None = None
) -> None:
    """Wait until `check` returns something true, or raise BedError with `what`.

    With `daemon`, its early end is an error at once, with the end of its log.
    """
    end = time.monotonic() + seconds
    while not check():
        if daemon and daemon.pid() is None:
            raise BedError(f"{daemon.name} ended before {what}:\n{daemon.last_words()}")
        if time.monotonic() > end:
            words = f"; its log ends:\n{daemon.last_words()}" if daemon else ""
            raise BedError(f"waited {seconds:.0f} s in vain until {what}{words}")
        time.sleep(0.05)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


# Mounts ----------------------------------------------------------------------------------------


def mounts_below(directory: Path) -> list[Path]:
    """Return the mount points at or below `directory`, the innermost first."""
    points = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        # The kernel writes a space as \040, and likewise tab, newline and backslash.
        raw = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), line.split()[4])
        point = os.fsdecode(raw)
        if point == str(directory) or point.startswith(f"{directory}/"):
            points.append(Path(point))
    return points[::-1]


def unmount_below(directory: Path) -> None:
    """Unmount everything at or below `directory`."""
    for point in mounts_below(directory):
        if run(["umount", point], check=False).returncode != 0:
            run(["umount", "--lazy", point])


def remove_tree(directory: Path) -> None:
    """Remove `directory` with all it holds, after unmounting; nothing on another file system."""
    unmount_below(directory)
    run(["rm", "-rf", "--one-file-system", "--", directory])


# The command line ------------------------------------------------------------------------------


def write_env(directory: Path, values: Mapping[str, str | Path]) -> None:
    """Record what `env` prints: KEY=VALUE lines that a shell and shlex both read."""
    lines = [f"{key}={shlex.quote(str(value))}\n" for key, value in values.items()]
    (directory / "env").write_text("".join(lines))


def main(
    name: str,
    start: Callable[[], None],
    stop: Callable[[], None],
    started: Callable[[], bool],
    more: Callable[[argparse._SubParsersAction[argparse.ArgumentParser]], None] | None = None,
) -> None:
    """Run the bed's command line: start, stop, env and what `more` adds (with a `run` default).

    One command at a time for each bed; `start` must end with `write_env`. What follows a `--` is
    in the `extra` of the arguments.
    """
    about = sys.modules["__main__"].__doc__
    parser = argparse.ArgumentParser(prog=f"tests/beds/{name}", description=about)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def env(_: argparse.Namespace) -> None:
        if not started() or not (state_dir(name) / "env").exists():
            raise BedError(f"the {name} bed is not started; run `tests/beds/{name} start` first")
        sys.stdout.write((state_dir(name) / "env").read_text())

    commands.add_parser("start", help="start it; does nothing when it runs").set_defaults(
        run=lambda _: start()
    )
    commands.add_parser("stop", help="stop it; does nothing when it is stopped").set_defaults(
        run=lambda _: stop()
    )
    commands.add_parser("env", help="print KEY=VALUE lines for the tests").set_defaults(run=env)
    if more:
        more(commands)
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:end], argparse.Namespace(extra=words[end + 1 :]))
    with reported(parser.prog):
        if os.geteuid() != 0:
            raise BedError("a test bed starts engines and mounts file systems; run it as root")
        with locked(state_root() / f"{name}.lock"):
            arguments.run(arguments)


def left_behind(names: Iterable[str]) -> list[str]:
    """Return those of containers' names that tests gave which are gone: gangway-WHAT-PID[-MORE]."""

    def gone(name: str) -> bool:
        found = re.fullmatch(r"gangway-[a-z-]+-(\d+)(-[\w-]+)?", name)
        return bool(found and start_time(int(found[1])) is None)

    return list(filter(gone, names))


def container_name(text: str) -> str:
    """Check a name given on the command line: it becomes a file name too."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name for a container")
    return text


@contextlib.contextmanager
def reported(program: str) -> Iterator[None]:
    """Turn a BedError inside the block into one line on stderr and exit status 1."""
    try:
        yield
    except BedError as error:
        sys.exit(f"{program}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{program}: interrupted")
