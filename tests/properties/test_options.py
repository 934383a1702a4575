"""Whatever stands in an option arrives in the core as bytes, or is refused in one sentence."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError
from hypothesis import given
from hypothesis import strategies as st

from ansible_gangway import _core
from plugins.conftest import RecordingSession
from plugins.loading import ENGINES, connection

pytestmark = pytest.mark.plays

# Every code point: control characters, what stands for bytes that are no text, lone surrogates.
CHARACTERS = st.text(st.characters(exclude_categories=()), max_size=20)
TEXT = st.one_of(CHARACTERS, st.binary(max_size=20).map(os.fsdecode))
NAME = TEXT.filter(bool)
# Options that reach the core as they are, by the argument that they become.
AS_THEY_ARE = {
    "runc": {"extra_args": "extra_args", "working_dir": "working_dir", "user": "user"},
    "docker": {"extra_args": "extra_args", "working_dir": "working_dir", "user": "user"},
    "podman": {"extra_args": "extra_args", "working_directory": "working_dir", "user": "user"},
    "kubectl": {
        **{name: name for name in ("extra_args", "working_dir", "container", "namespace")},
        **{name: name for name in ("context", "username", "password", "token")},
        "host": "server",
    },
}


def encoded(text: str) -> bytes | None:
    """Return the bytes that a text stands for, None when it stands for none."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return None


def refusal(call: Any, *arguments: Any) -> str:
    """Return the sentence with which a call is refused."""
    with pytest.raises(AnsibleError) as caught:
        call(*arguments)
    said = str(caught.value)
    assert said and "\n" not in said
    said.encode()
    return said


@pytest.mark.parametrize(
    ("engine", "option"),
    [(engine, option) for engine, options in AS_THEY_ARE.items() for option in options],
)
@given(value=TEXT)
def test_an_option(
    engine: str, option: str, value: str, sessions: list[RecordingSession], log: Any
) -> None:
    plugin = connection(engine, **{f"ansible_{engine}_{option}": value})
    if encoded(value) is None:
        assert option in refusal(plugin._connect)
        return
    plugin._connect()
    argument = AS_THEY_ARE[engine][option]
    nothing = b"" if argument == "extra_args" else None
    assert sessions[-1].arguments[argument] == (encoded(value) or nothing)


@pytest.mark.parametrize("engine", ENGINES)
@given(name=NAME)
def test_the_name_of_a_container(
    engine: str, name: str, sessions: list[RecordingSession], log: Any
) -> None:
    plugin = connection(engine, ansible_host=name)
    if encoded(name) is None:
        refusal(plugin._connect)
        return
    plugin._connect()
    assert sessions[-1].arguments["pod" if engine == "kubectl" else "container"] == encoded(name)


@pytest.mark.parametrize("engine", ENGINES)
@given(env=st.dictionaries(TEXT, TEXT, max_size=3))
def test_environment(
    engine: str, env: dict[str, str], sessions: list[RecordingSession], log: Any
) -> None:
    plugin = connection(engine, **{f"ansible_{engine}_extra_env": env})
    texts = [*env.keys(), *env.values()]
    if any(encoded(text) is None for text in texts):
        refusal(plugin._connect)
        return
    plugin._connect()
    assert sessions[-1].arguments["env"] == {encoded(key): encoded(env[key]) for key in env}


@pytest.mark.parametrize("engine", ENGINES)
@given(seconds=st.integers())
def test_timeout(engine: str, seconds: int, sessions: list[RecordingSession], log: Any) -> None:
    plugin = connection(engine, **{f"ansible_{engine}_timeout": seconds})
    if seconds < 0 or (seconds == 0 and engine != "podman"):
        assert "container_timeout" in refusal(plugin._connect)
        return
    plugin._connect()
    assert sessions[-1].arguments["timeout"] >= 1


@given(command=TEXT, stdin=st.one_of(st.none(), st.binary(max_size=20)), path=TEXT)
def test_calls(
    command: str, stdin: bytes | None, path: str, sessions: list[RecordingSession], log: Any
) -> None:
    """Commands and what they read arrive unchanged, paths absolute and otherwise unchanged."""
    plugin = connection("docker")
    plugin._connect()
    if encoded(command) is None:
        refusal(plugin.exec_command, command, stdin)
    else:
        plugin.exec_command(command, in_data=stdin)
        assert sessions[-1].calls[-1] == ("exec", encoded(command), stdin, None)
    sessions[-1].answer = None
    if encoded(path) is None:
        refusal(plugin.put_file, "/local", path)
        refusal(plugin.fetch_file, path, "/local")
        refusal(plugin.fetch_file, "/remote", path)
    else:
        plugin.put_file("/local", path)
        _, _, sent = sessions[-1].calls[-1]
        assert sent == os.path.normpath(os.path.join(b"/", encoded(path) or b""))


# The native module itself.

BYTES = st.binary(max_size=20)
SHARED = {
    "executable": st.sampled_from([b"/bin/false", b"/no/such", b"", b"a\0b"]),
    "extra_args": BYTES,
    "env": st.dictionaries(BYTES, BYTES, max_size=2),
    "working_dir": st.none() | BYTES,
    "timeout": st.floats(),
    "shell": BYTES,
}
TEXTS = ("container", "namespace", "kubeconfig_content", "context", "server", "username")
SECRETS = ("password", "token", "client_cert", "client_key", "ca_cert")
OPTIONS: dict[str, Any] = {
    "runc": {"container": BYTES, "root": st.none() | BYTES, "user": st.none() | BYTES},
    "docker": {"container": BYTES, "user": st.none() | BYTES, "privileged": st.booleans()},
    "podman": {"container": BYTES, "user": st.none() | BYTES},
    "kubectl": {
        **dict.fromkeys((*TEXTS, *SECRETS), st.none() | BYTES),
        "pod": BYTES,
        "kubeconfig": st.none(),
        "validate_certs": st.none() | st.booleans(),
        "local_env": st.dictionaries(BYTES, BYTES, max_size=2),
    },
}


@pytest.mark.parametrize("engine", ENGINES)
@given(data=st.data())
def test_the_core_refuses_in_one_sentence(engine: str, data: st.DataObject, tmp_path: Path) -> None:
    """Any bytes, with a client that starts nothing: no panic, no traceback, no success."""
    options = data.draw(st.fixed_dictionaries({**SHARED, **OPTIONS[engine]}))
    path = b"/" + data.draw(BYTES)
    local = tmp_path / "local"
    local.write_bytes(b"x")
    try:
        session = getattr(_core, engine)(**options)
    except _core.Error as error:
        sentences = [str(error)]
    else:
        calls = (
            lambda: session.exec_command(path, b"in"),
            lambda: session.put_file(bytes(local), path),
            lambda: session.fetch_file(path, bytes(tmp_path / "fetched")),
        )
        sentences = []
        for call in calls:
            with pytest.raises(_core.Error) as caught:
                call()
            sentences.append(str(caught.value))
    for sentence in sentences:
        assert len(sentence.splitlines()) == 1
        assert len(sentence) < 4100
        assert not any(ord(character) < 32 for character in sentence)
    assert [entry.name for entry in tmp_path.iterdir()] == ["local"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a client that writes its arguments to the file beside it and starts nothing."""
    program = tmp_path_factory.mktemp("client") / "docker"
    program.write_text('#!/bin/sh\nprintf \'%s\\0\' "$@" >"$0.args"\nexit 125\n')
    program.chmod(0o755)
    return program


# Without what a shell would expand, join or take for a comment.
LINE = st.text(st.sampled_from("ab-=é \t'\"\\"), max_size=16)


@given(line=LINE)
def test_extra_arguments_are_split_as_pythons_shlex_does(line: str, client: Path) -> None:
    options: dict[str, Any] = {"env": {}, "working_dir": None, "timeout": 30.0, "shell": b"/bin/sh"}
    docker = {"container": b"box", "user": None, "privileged": False, **options}
    try:
        expected = shlex.split(line)
    except ValueError:
        with pytest.raises(_core.Error, match="docker_extra_args cannot be used: it has an unclos"):
            _core.docker(executable=bytes(client), extra_args=line.encode(), **docker)
        return
    session = _core.docker(executable=bytes(client), extra_args=line.encode(), **docker)
    with pytest.raises(_core.ConnectionFailed):
        session.exec_command(b"true")
    arguments = client.with_name("docker.args").read_bytes().decode().split("\0")
    assert arguments[: arguments.index("exec", len(expected))] == expected
