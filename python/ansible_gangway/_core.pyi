"""The native module: sessions on containers over the engines' command line clients.

Every value that Ansible would call a string is `bytes` here: names, paths and output of a container
need not be valid in any encoding. Nothing is started when this module is imported, and no thread
ever. A call blocks with the GIL released; it wakes at least every 100 ms to let Python run signal
handlers, and what one of them raises (KeyboardInterrupt, Ansible's task timeout) ends the call and
the command.

The text of every exception is one sentence for the user: what failed, for which container, why,
and what to do about it where that is known. It never holds a secret.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, final, type_check_only

__all__ = [
    "Agents",
    "ConnectionFailed",
    "Error",
    "FileMissing",
    "Session",
    "__version__",
    "broker_start",
    "broker_status",
    "broker_stop",
    "docker",
    "kubectl",
    "podman",
    "runc",
    "serve_broker",
]

__version__: str

class Error(Exception):
    """The step failed (Ansible's FAILED)."""

class ConnectionFailed(Error):
    """The path to the container failed: not there, not running, engine down (UNREACHABLE)."""

class FileMissing(Error):
    """The source of a copy does not exist: local in `put_file`, remote in `fetch_file`."""

@type_check_only
class BecomePrompt(Protocol):
    """How a become plugin asks for its password, and how it judges the answer.

    Called with the GIL held, only while a prompt is awaited, each time with what one of the
    command's two streams has brought so far (since the password, once that was sent).
    """

    password: bytes | None
    """Without a line end. None: there is none to send, and a prompt is an error."""
    name: str
    """The become plugin's, for messages: `sudo`, `su`."""
    def is_prompt(self, output: bytes, /) -> bool:
        """Whether the password is asked for."""
    def is_success(self, output: bytes, /) -> bool:
        """Whether the command itself has begun."""
    def is_incorrect(self, output: bytes, /) -> bool:
        """Whether the password was refused. It is never sent twice: accounts get locked."""
    def is_missing(self, output: bytes, /) -> bool:
        """Whether a password was wanted that could not be asked for."""

@final
class Agents:
    """How sessions get agents: one exec into a container, kept by a broker, that serves many calls.

    `python` is the interpreter (an absolute path) that runs the broker, and `package` the directory
    from which it imports `ansible_gangway`. An agent stays `persist` seconds after the end of the
    last process `play` that used it; 0: no agents. With `always` it does not look at how much
    memory the container has to spare, with `kill_on_disconnect` it ends what it runs when its
    stream is lost. `interpreter` is the Python in the container to try first, an absolute path.
    `controller` tells apart who sends modules: ansible-core's version.
    """

    def __new__(
        cls,
        *,
        python: bytes,
        package: bytes,
        persist: float = 60.0,
        always: bool = False,
        kill_on_disconnect: bool = False,
        interpreter: bytes | None = None,
        controller: bytes | None = None,
        play: int = 0,
    ) -> Agents:
        """Take the settings; nothing is started."""

@final
class Session:
    """One container, entered through one engine as one user. Made by the functions below.

    Nothing is asked of the engine before the first call. A session belongs to the process that made
    it, and serves one call at a time.
    """

    def exec_command(
        self, command: bytes, stdin: bytes | None = None, become: BecomePrompt | None = None
    ) -> tuple[int, bytes, bytes]:
        """Run a shell command line; return its exit status, stdout and stderr, all exact.

        The command reads `stdin` to its end, or an empty stdin when that is None. With `become`,
        the password is sent first and `stdin` only once the command itself has begun.

        Whatever the command prints and however it ends is its result.
        Raises ConnectionFailed when it could not be started, or when how it ended is not known;
        Error when privileges were not given.
        """

    def prepare(
        self, *, commands: bool = True, pythons: Sequence[bytes] = ..., behind: bytes = ...
    ) -> None:
        """Let agents open meanwhile; the first call that needs one waits for it.

        With `commands` it is the agent for commands. One for modules opens where it would be the
        target's first agent: in the first of `pythons` that is there (paths, or names on PATH; none
        by default), for the line `SHELL -c 'PYTHON'`. `behind` is what follows the interpreter in
        that line: b"", the default, or b" && sleep 0". Where another line comes it ends unused.

        What goes wrong is said by that call. Without effect after a first call.
        """

    def put_file(self, in_path: bytes, out_path: bytes) -> str | None:
        """Copy the local file `in_path` to `out_path` in the container, both absolute.

        The new file is verified and then renamed over an existing one, which keeps its mode and
        owner and, should the copy fail, its content. Where it cannot be renamed it is written in
        place and verified; the text returned then says why.

        Raises FileMissing, ConnectionFailed, Error.
        """

    def fetch_file(self, in_path: bytes, out_path: bytes) -> str | None:
        """Copy the file `in_path` of the container to the local `out_path`, both absolute.

        No other local file is touched, and an existing one stays as it was when the copy fails.
        The text returned, if any, is for the log. Raises FileMissing, ConnectionFailed, Error.
        """

    def path(self) -> str:
        """Return how the last call went, one line for a log: through an agent, or why not.

        Empty where there is no choice.
        """

    def warnings(self) -> list[str]:
        """Return what the user should be told, such as that no broker can be started; once."""

    def reset(self) -> None:
        """End the agents of this container when what they run has ended.

        Starts nothing, takes no longer than a second, and raises what a signal handler raises.
        """

    def close(self) -> None:
        """Forget the session. Does not wait, and does not raise."""

# Shared by the engines' functions:
#   executable    the client: a name to look up in PATH, or a path
#   extra_args    its arguments before `exec`, one line quoted as for a shell; else Error
#   env           environment variables of every command
#   working_dir   directory in the container in which commands start; None: its own
#   user          user in the container, name or number, with :GROUP if wanted; None: its own
#   timeout       seconds that a command may take to start, and a become prompt to appear; no more
#                 than a day
#   agents        None: every call is an exec of its own
#   shell         what runs command lines: /bin/sh, or the path of another POSIX shell

def runc(
    *,
    container: bytes,
    executable: bytes,
    root: bytes | None,
    extra_args: bytes,
    user: bytes | None,
    env: dict[bytes, bytes],
    working_dir: bytes | None,
    timeout: float,
    shell: bytes,
    agents: Agents | None = None,
) -> Session:
    """Make a session on the runc container with the ID `container`; `root` is runc's `--root`."""

def docker(
    *,
    container: bytes,
    executable: bytes,
    extra_args: bytes,
    user: bytes | None,
    env: dict[bytes, bytes],
    working_dir: bytes | None,
    privileged: bool,
    timeout: float,
    shell: bytes,
    agents: Agents | None = None,
) -> Session:
    """Make a session on a container of the daemon that the client would choose here and now."""

def podman(
    *,
    container: bytes,
    executable: bytes,
    extra_args: bytes,
    user: bytes | None,
    env: dict[bytes, bytes],
    working_dir: bytes | None,
    timeout: float,
    shell: bytes,
    agents: Agents | None = None,
) -> Session:
    """Make a session on a container of podman; its detach keys in a stdin arrive whole."""

def kubectl(
    *,
    pod: bytes,
    container: bytes | None,
    namespace: bytes | None,
    kubeconfig: bytes | None,
    kubeconfig_content: bytes | None,
    context: bytes | None,
    server: bytes | None,
    username: bytes | None,
    password: bytes | None,
    token: bytes | None,
    client_cert: bytes | None,
    client_key: bytes | None,
    ca_cert: bytes | None,
    validate_certs: bool | None,
    executable: bytes,
    extra_args: bytes,
    local_env: dict[bytes, bytes],
    env: dict[bytes, bytes],
    working_dir: bytes | None,
    timeout: float,
    shell: bytes,
    agents: Agents | None = None,
) -> Session:
    """Make a session on a container of a Kubernetes pod.

    `pod` may be a workload such as deploy/web; one of its pods is chosen once per session.
    `kubeconfig` is a path and `kubeconfig_content` the JSON text of a configuration, which reaches
    the client without being written to disk; at most one is given. `client_cert`, `client_key` and
    `ca_cert` are paths. `validate_certs` None leaves it to the configuration. `local_env` is added
    to the client's own environment. Everything that is None is left to the configuration.
    """

def serve_broker(*, directory: bytes, name: str, log: bytes, listening: Callable[[], None]) -> None:
    """Be the broker that listens on `name` in `directory`, until nobody needs it.

    Calls `listening` once clients can connect. An empty `log` is none. The process must be a daemon
    of one thread that nothing else runs in. Raises OSError when it cannot listen.
    """

def broker_start(*, python: bytes, package: bytes) -> int:
    """Connect to this build's broker, started if there is none; return its process id.

    `python` is an interpreter that finds this package in the directory `package`. Raises Error when
    none can be used: the text says why, and what to do.
    """

def broker_status() -> list[str]:
    """Ask each broker in this user's control directory what it keeps; one JSON object each.

    Keys: `pid`, `age` (seconds), `rss_bytes`, and `agents`, each with `label`, `serves`, `state`,
    `pid`, `python`, `age`, `idle`, `running`, `requests` and `client_pid`. What does not answer as
    a broker has `socket` and `error` instead.
    """

def broker_stop() -> int:
    """Tell each broker in this user's control directory to end; return how many there were.

    What runs on an agent is not interrupted. Raises Error when one does not answer.
    """
