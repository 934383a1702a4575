"""The base class of the connection plugins: Ansible's calls above it, `_core` below.

A plugin file of the collection holds its options and turns them into the arguments of its engine;
all else is here. It is not in the collection's `plugin_utils` because every task is a new process
in which Ansible compiles those files again (its loader keeps no bytecode): 6 ms for this one.
"""

# mypy: disable-error-code="import-untyped,import-not-found"
from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import sys
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

from ansible import constants
from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.plugins.connection import ConnectionBase
from ansible.release import __version__ as core_version
from ansible.utils.display import Display

from ansible_gangway import _core

T = TypeVar("T")
display = Display()

_CORE = tuple(int(number) for number in core_version.split(".")[:2])

# The values of gangway_agent: whether it starts without a look at the memory; None for no agent.
_AGENT = {
    **dict.fromkeys(("true", "yes", "on", "1"), False),
    **dict.fromkeys(("false", "no", "off", "0"), None),
    "always": True,
}


class ContainerConnection(ConnectionBase):  # type: ignore[misc]
    """Ansible's calls on one container. A subclass names its engine and reads its own options."""

    # The engine: the name of a function of _core, and what this plugin's options start with.
    transport = ""
    # The version that a plugin file was written for: it need not be this installation's.
    collection_version = ""

    # Options that another plugin has under another name, and what a timeout of 0 means to it.
    env_name = "extra_env"
    working_dir_name = "working_dir"
    timeout_of_zero = 0

    has_pipelining = True
    # No engine is asked for a terminal. True would only let become plugins that need one (run0,
    # machinectl) start and then fail in their own words.
    has_tty = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Tell Ansible the options of a plugin file while it loads the file."""
        super().__init_subclass__(**kwargs)
        register_options(sys.modules.get(cls.__module__), cls.transport)

    def __init__(self, play_context: Any, *args: Any, **kwargs: Any) -> None:
        """Options cannot be read yet. Ansible passes more arguments, different ones by version."""
        super().__init__(play_context, *args, **kwargs)
        self._session: _core.Session | None = None
        self._session_arguments: dict[str, Any] = {}

    # What a plugin file says of its engine.

    def container_name(self) -> str:
        """Name the container as the engine does; log lines do the same."""
        return self.text_option("remote_addr")

    def target(self) -> str:
        """Name the container as messages do, here and in _core."""
        return f'{self.transport} container "{self.container_name()}"'

    def engine_arguments(self) -> dict[str, Any]:
        """Return the arguments of the engine's function that not all engines share."""
        raise NotImplementedError

    def log_established(self) -> None:
        """Log the line that opens a session."""
        user = self.text_option("remote_user") or "?"
        self._vvv(f"ESTABLISH {self.transport.upper()} CONNECTION FOR USER: {user}")

    # Options as _core takes them.

    def text_option(self, name: str) -> str:
        """Return an option as str, '' when it is not set."""
        value = self.get_option(name)
        return "" if value is None else _text(value)

    def bytes_option(self, name: str) -> bytes | None:
        """Return an option as bytes, None when it is empty or not set."""
        return _bytes(self.text_option(name), name) or None

    def env_option(self, name: str) -> dict[bytes, bytes]:
        """Return a dictionary of environment variables, all of them strings."""
        env = self.get_option(name) or {}
        for key, value in env.items():
            for what, item in (("key", key), ("value", value)):
                if not isinstance(item, str):
                    # A value may be a secret: it is never named.
                    raise AnsibleError(
                        f"{self.target()}: the {what} of {key!r} in the {name} option is not a "
                        "string: wrap it in quotes, or convert it to a string if it is templated"
                    )
        return {_bytes(key, name): _bytes(env[key], name) for key in env}

    def path_option(self, name: str) -> bytes | None:
        """Return an option that is a local path as bytes; no shell has expanded its `~`."""
        value = self.bytes_option(name)
        return value and os.path.expanduser(value)

    def _shared_arguments(self) -> dict[str, Any]:
        timeout = self.get_option("container_timeout") or self.timeout_of_zero
        if timeout < 1:
            raise AnsibleError(
                f"{self.target()}: container_timeout is {timeout}: it must be at least 1 second, "
                "because nothing may wait for ever"
            )
        # ansible_shell_executable; as a command line it may bring arguments.
        shell = (self._play_context.executable or "").split() or ["/bin/sh"]
        return {
            "executable": self.path_option(f"{self.transport}_executable")
            or self.transport.encode(),
            "extra_args": self.bytes_option(f"{self.transport}_extra_args") or b"",
            "env": self.env_option(self.env_name),
            "working_dir": self.bytes_option(self.working_dir_name),
            # _core stops at a day; a number may be too large to become a float at all.
            "timeout": float(min(timeout, sys.maxsize)),
            "shell": _bytes(shell[0], "ansible_shell_executable"),
            "agents": self._agent_arguments(),
        }

    def _agent_arguments(self) -> dict[str, Any] | None:
        """Return the arguments of _core.Agents; None where every step is an exec of its own."""
        agent = self.text_option("gangway_agent").lower()
        if agent not in _AGENT:
            raise AnsibleError(
                f"{self.target()}: gangway_agent is {agent!r}: set it to true, false or always"
            )
        persist = float(self.get_option("gangway_persist"))
        if _AGENT[agent] is None or not persist > 0:
            return None
        play = multiprocessing.parent_process()  # a worker's is ansible-playbook
        return {
            "python": os.fsencode(sys.executable),
            "package": os.fsencode(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
            "persist": persist,
            "always": _AGENT[agent],
            "kill_on_disconnect": bool(self.get_option("gangway_kill_on_disconnect")),
            "interpreter": self._interpreter(),
            "controller": core_version.encode(),
            "play": play.pid if play else os.getpid(),
        }

    def _interpreter(self) -> bytes | None:
        """Return the path that ansible_python_interpreter is; it may tell Ansible to look."""
        interpreter = self.bytes_option("gangway_interpreter") or b""
        return interpreter if interpreter.startswith(b"/") else None

    # Ansible's contract.

    def set_options(self, *args: Any, **kwargs: Any) -> None:
        """Take options; in a loop Ansible keeps the plugin and gives it each item's."""
        super().set_options(*args, **kwargs)
        self._connected = False

    def _connect(self) -> ContainerConnection:
        self._open_session()
        return self

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        """Run a command line in the container; return its exit status, stdout and stderr."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        cmd = _text(cmd)
        self._vvv(f"EXEC {cmd}")
        become = None
        # The marker tells that this line goes through become; core leaves it out for the same user.
        # Without a password too: a method that asks would read the module's first line as one.
        if sudoable and self.become and self.become.success and self.become.success in cmd:
            become = BecomePrompt(self.become, self._play_context)
        command = _bytes(cmd, "the command")
        stdin = None if in_data is None else _bytes(in_data, "what the command reads")
        result: tuple[int, bytes, bytes] = self._on_session("exec_command", command, stdin, become)
        if result[0] != 0:
            self._explain_no_temporary_directory(cmd, in_data, sudoable, result)
        return result

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a local file into the container."""
        super().put_file(in_path, out_path)
        self._vvv(f"PUT {_text(in_path)} TO {_text(out_path)}")
        self._note(self._on_session("put_file", _local_path(in_path), _container_path(out_path)))

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file of the container to a local path."""
        super().fetch_file(in_path, out_path)
        self._vvv(f"FETCH {_text(in_path)} TO {_text(out_path)}")
        self._note(self._on_session("fetch_file", _container_path(in_path), _local_path(out_path)))

    def reset(self) -> None:
        """End the container's agents and forget the session; the next call opens others."""
        try:
            self._open_session().reset()
        except AnsibleError as exc:
            self._vvv(f"RESET without effect: {exc}")
        self.close()
        self._session_arguments = {}

    def close(self) -> None:
        """Forget the session; called after every task."""
        session, self._session = self._session, None
        self._connected = False
        if session is not None:
            session.close()

    @property
    def module_implementation_preferences(self) -> Any:
        """Get ready as well: Ansible asks for this before it builds a module.

        That takes it 0.1 s in a play's first task, in which agents open by themselves: one for the
        module, and one for commands when a step comes before the module, to find an interpreter or
        to write the module down.
        """
        with contextlib.suppress(AnsibleError):  # the step meets it again, and says it
            name = self.text_option("gangway_interpreter")
            name = name or _text(constants.config.get_config_value("INTERPRETER_PYTHON"))
            _call(
                self._open_session().prepare,
                commands=not (self.get_option("pipelining") and name.startswith("/")),
                pythons=self._likely_pythons(name),
                behind=b"" if _CORE >= (2, 21) else b" && sleep 0",
            )
        return super().module_implementation_preferences

    def _likely_pythons(self, name: str) -> list[bytes]:
        """Return the interpreters of which a module gets the first that is there; [] in doubt."""
        names: list[str] = []
        if self.become or len((self._play_context.executable or "").split()) != 1:
            pass  # the line will be another one
        elif name.startswith("/"):
            names = [name]
        elif name in ("auto", "auto_silent") and _CORE >= (2, 19):
            # Before that, what is found depends on the distribution as well.
            names = constants.config.get_config_value("INTERPRETER_PYTHON_FALLBACK")
        return [_bytes(name, "the name of an interpreter") for name in names]

    # Between the two.

    def _open_session(self) -> _core.Session:
        """Open a session with the present options, or keep the one opened with the same."""
        if self._connected and self._session is not None:
            return self._session
        self._check_version()
        if not self.container_name():
            raise AnsibleError(
                f"the {self.transport} connection has no container to enter: set ansible_host"
            )
        arguments = {**self._shared_arguments(), **self.engine_arguments()}
        if self._session is None or arguments != self._session_arguments:
            self.close()
            if arguments != self._session_arguments:  # else it was said ahead, or before a close
                self.log_established()
                self._session_arguments = arguments
            engine: Callable[..., _core.Session] = getattr(_core, self.transport)
            agents = arguments["agents"] and _core.Agents(**arguments["agents"])
            self._session = _call(engine, **{**arguments, "agents": agents})
        self._connected = True
        return self._session

    def _on_session(self, name: str, *args: Any) -> Any:
        """Call a method of the session; log the way it took."""
        session = self._open_session()
        try:
            return _call(getattr(session, name), *args)
        finally:
            if path := session.path():
                self._vvv(f"VIA {path}")
            for warning in session.warnings():
                display.warning(warning)

    def _check_version(self) -> None:
        """Refuse a plugin file of another version: its options need not be those read here."""
        if self.collection_version == _core.__version__:
            return
        path = os.path.realpath(sys.modules[type(self).__module__].__file__ or "")
        collection = os.path.dirname(os.path.dirname(os.path.dirname(path)))
        raise AnsibleError(
            f"version {self.collection_version} of the collection gangway.exec, in {collection}, "
            f"is in front of version {_core.__version__} that came with ansible-gangway: remove "
            "that copy (or run 'gangway link' again if a link leads to it), or run "
            f"'{sys.executable} -m pip install ansible-gangway=={self.collection_version}'"
        )

    def _explain_no_temporary_directory(
        self, cmd: str, in_data: bytes | None, sudoable: bool, result: tuple[int, bytes, bytes]
    ) -> None:
        """Name the remedy where a container has no writable place for temporary files."""
        rc, _, stderr = result
        remedy = (
            "set ansible_remote_tmp, and TMPDIR in the task's environment, to a directory that "
            "can be written there, for example /dev/shm"
        )
        # Core's own step is known by its words, never by what the container printed. From 2.16 to
        # 2.21 it is (ansible/plugins/shell/__init__.py, mkdtemp), with NAME = ansible-tmp-…:
        #   ( umask 77 && mkdir -p "` echo DIR `"&& mkdir "` echo DIR/NAME `" && echo NAME=… )
        if not sudoable and re.search(
            r"mkdir -p .* mkdir .*/(ansible-tmp-[\d.]+-\d+-\d+) .* echo \1=", cmd
        ):
            lines = _text(stderr).strip().splitlines()
            reason = lines[-1] if lines else f"exit status {rc}"
            raise AnsibleError(
                f"{self.target()}: cannot create Ansible's temporary directory ({reason}): {remedy}"
            )
        # A module makes one of its own (Python's tempfile). Its failure stays its result.
        if (
            in_data or "/AnsiballZ_" in cmd
        ) and b"No usable temporary directory found in" in stderr:
            display.warning(f"{self.target()} has no writable temporary directory: {remedy}")

    def _vvv(self, line: str) -> None:
        display.vvv(line, host=self.container_name())

    def _note(self, note: str | None) -> None:
        if note:
            display.v(note, host=self.container_name())


class BecomePrompt:
    """A become plugin as `_core` asks it: judges output, and never sees the stream."""

    def __init__(self, become: Any, play_context: Any) -> None:
        """Read the password once; the plugin's own checks are the answers."""
        password = become.get_option("become_pass", playcontext=play_context)
        self.password = _bytes(password, "the become password") if password else None
        self.name: str = become.name
        self.is_prompt: Callable[[bytes], bool] = become.check_password_prompt
        self.is_success: Callable[[bytes], bool] = become.check_success
        self.is_incorrect: Callable[[bytes], bool] = become.check_incorrect_password
        self.is_missing: Callable[[bytes], bool] = become.check_missing_password


def register_options(plugin: Any, engine: str) -> None:
    """Give Ansible the options in a plugin's DOCUMENTATION, which takes it 4 ms to parse.

    It parses nothing where it has them already; it would parse them in every task. The file here is
    made from the text (scripts/options). If it is not of this very text, or this Ansible keeps
    options differently, Ansible reads the text.
    """
    name = getattr(plugin, "__name__", "")
    if not name.startswith("ansible_collections."):  # a short name: a file in connection_plugins
        package, _, name = name.rpartition(".")
        if package != "ansible.plugins.connection":
            return
    try:
        config = constants.config
        if config.has_configuration_definition("connection", name):
            return
        path = os.path.join(os.path.dirname(__file__), "options", f"{engine}.json")
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        if content["documentation"] == zlib.crc32(plugin.DOCUMENTATION.encode()):
            options = content["options"]
            config.initialize_plugin_configuration_definitions("connection", name, options)
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return


def _call(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call `_core` and turn its exceptions into Ansible's: the only place that does."""
    try:
        return function(*args, **kwargs)
    except _core.ConnectionFailed as exc:
        raise AnsibleConnectionFailure(str(exc)) from exc
    except _core.FileMissing as exc:
        raise AnsibleFileNotFound(str(exc)) from exc
    except _core.Error as exc:
        raise AnsibleError(str(exc)) from exc


def _text(value: Any) -> str:
    return str(to_text(value, errors="surrogate_or_replace"))


def _bytes(value: Any, what: str) -> bytes:
    """Encode a text, with the bytes that it stands for where they are no text; `what` names it."""
    try:
        return bytes(to_bytes(value, errors="surrogate_or_strict"))
    except UnicodeEncodeError:
        # Such as JSON's "\ud800". It may be a part of a secret: it is not shown.
        raise AnsibleError(
            f"{what} holds half of a surrogate pair: write the character itself"
        ) from None


def _local_path(path: str) -> bytes:
    return _bytes(os.path.abspath(path), "the local path")


def _container_path(path: str) -> bytes:
    """Make a path of the container absolute: relative ones start at /, as in the other plugins."""
    return _bytes(os.path.normpath(os.path.join("/", path)), "the path")
