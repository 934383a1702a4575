"""kubectl: what does not work ends in one sentence."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from support.sentences import (
    CHECK_NAME,
    FAILED,
    NO_SHELL,
    NOT_REACHED,
    REFUSED_ACCESS,
    UNREACHABLE,
    WRONG_SETTINGS,
    assert_refused,
)
from support.targets import Kubectl

Options = dict[str, Any]


def does_not_exist(reason: str) -> str:
    return rf" does not exist \({reason}\): {CHECK_NAME}"


# Options, which class of error, and what comes after the name of the pod.
REFUSED: dict[str, tuple[Options, type[Exception], str]] = {
    "container": (
        {"container": b"nosuch"},
        UNREACHABLE,
        r' \(container "nosuch"\)' + does_not_exist(".*container nosuch .*not .*pod target.*"),
    ),
    "namespace": (
        {"namespace": b"nosuch"},
        UNREACHABLE,
        ' in namespace "nosuch"'
        + does_not_exist(r'Error from server \(NotFound\): namespaces "nosuch" not found'),
    ),
    "context": (
        {"context": b"nosuch"},
        UNREACHABLE,
        ": " + WRONG_SETTINGS.format(".*context was not found for specified context: nosuch"),
    ),
    "kubeconfig": (
        {"kubeconfig": b"/no/such/config"},
        UNREACHABLE,
        ": " + WRONG_SETTINGS.format("error: stat /no/such/config: no such file or directory"),
    ),
    "dictionary": (
        {"kubeconfig": None, "kubeconfig_content": b'{"clusters": 3}'},
        UNREACHABLE,
        ": " + WRONG_SETTINGS.format("error: error loading config file .* cannot unmarshal .*"),
    ),
    "api-server-down": (
        {"server": b"https://127.0.0.1:1"},
        UNREACHABLE,
        ": "
        + NOT_REACHED.format(
            "The connection to the server 127.0.0.1:1 was refused - did you specify the right "
            r"host or port\?"
        ),
    ),
    "host": (
        {"server": b"https://no.such.host.invalid"},
        UNREACHABLE,
        ": " + NOT_REACHED.format("Unable to connect to the server: .*no such host"),
    ),
    "scheme": (
        {"server": b"nonsense://x"},
        UNREACHABLE,
        ": " + NOT_REACHED.format('Unable to connect .*unsupported protocol scheme "nonsense"'),
    ),
    "nothing": (
        {"kubeconfig": None},
        UNREACHABLE,
        ": " + NOT_REACHED.format("The connection to the server localhost:8080 was refused.*"),
    ),
    "certificate": (
        {"client_cert": b"/no/such.pem"},
        UNREACHABLE,
        ": " + WRONG_SETTINGS.format(".*unable to read client-cert /no/such.pem .*"),
    ),
    "authority": (
        {"kubeconfig": None, "server": b"https://h", "ca_cert": b"/no/ca.pem", "token": b"x"},
        UNREACHABLE,
        ": " + WRONG_SETTINGS.format("error: unable to read certificate-authority /no/ca.pem.*"),
    ),
    "token": (
        {"token": b"wrong"},
        UNREACHABLE,
        ": " + REFUSED_ACCESS.format(r"error: You must be logged in to the server \(.*\)"),
    ),
    "impersonation": (
        {"extra_args": b"--as=nobody"},
        UNREACHABLE,
        ": "
        + REFUSED_ACCESS.format(
            r'Error from server \(Forbidden\): pods "target" is forbidden: User "nobody" cannot '
            'get resource "pods" .*in the namespace "default"'
        ),
    ),
    "flag": (
        {"extra_args": b"--no-such-flag"},
        UNREACHABLE,
        ": " + WRONG_SETTINGS.format(".*flag.*"),
    ),
    "quote": (
        {"extra_args": b"--as='x"},
        FAILED,
        ": kubectl_extra_args cannot be used: it has an unclosed quote or ends in a backslash: "
        "quote it as for a shell",
    ),
    "hidden-token": (
        {"extra_args": b"--kubeconfig=/x", "token": b"s3cret"},
        FAILED,
        ": kubectl_extra_args cannot be used: --kubeconfig there hides the token or password "
        "given beside it: use ansible_kubectl_kubeconfig",
    ),
    "executable": (
        {"executable": b"/no/such/kubectl"},
        UNREACHABLE,
        ': the executable "/no/such/kubectl" was not found: install it, or name it in '
        "ansible_kubectl_executable",
    ),
    "not-kubectl": (
        {"executable": b"/bin/true"},
        UNREACHABLE,
        ": the engine failed to start the command: it said nothing",
    ),
    "directory": (
        {"working_dir": b"/no/such"},
        FAILED,
        ': working_dir "/no/such" cannot be entered: .*',
    ),
    "variable-of-the-shell": (
        {"env": {b"OPTIND": b"s3cret"}},
        FAILED,
        ": extra_env cannot be used: the container's shell cannot set one of the variables, which "
        "it uses itself",
    ),
    "shell": (
        {"shell": b"/bin/zsh"},
        FAILED,
        rf' has no usable shell "/bin/zsh" \(it is not in the container\): {NO_SHELL}',
    ),
}
for _name in ("with.dots", "1st", "x;touch${IFS}/INJECTED", "$(id)", "#", "ä"):
    REFUSED[f"variable-{_name}"] = (
        {"env": {_name.encode(): b"s3cret"}},
        FAILED,
        r": extra_env cannot be used: \".*\" is no name for a shell's variable \(letters, digits "
        r"and _\), and in a pod a shell has to set it",
    )


@pytest.mark.parametrize("case", REFUSED)
def test_bad_options(kubectl: Kubectl, case: str) -> None:
    options, error, sentence = REFUSED[case]
    assert_refused(
        lambda: kubectl.session(**options).exec_command(b"true"), error, f'pod "target"{sentence}'
    )


PODS = {
    "nosuch": r'Error from server \(NotFound\): pods "nosuch" not found',
    "deploy/nosuch": r'Error from server \(NotFound\): deployments.apps "nosuch" not found',
    "deplyo/web": """error: the server doesn't have a resource type "deplyo\"""",
    "a/b/c": "error: arguments in resource/name form may not have more than one slash",
    "a b": r'Error from server \(NotFound\): pods "a b" not found',
    "..": r'error: invalid resource name "..": .*',
}


@pytest.mark.parametrize("pod", PODS)
def test_no_such_pod(kubectl: Kubectl, tmp_path: Path, pod: str) -> None:
    """Any call says so."""
    local = tmp_path / "local"
    local.touch()
    session = kubectl.session(pod)
    sentence = f'pod "{pod}"{does_not_exist(PODS[pod])}'
    assert_refused(lambda: session.exec_command(b"true"), UNREACHABLE, sentence)
    assert_refused(lambda: session.put_file(bytes(local), b"/x"), UNREACHABLE, sentence)
    assert_refused(lambda: session.fetch_file(b"/x", bytes(local)), UNREACHABLE, sentence)


@pytest.mark.parametrize(("pod", "reason"), [("", "it is empty"), ("-x", "it begins with a dash")])
def test_names_that_no_pod_has(kubectl: Kubectl, pod: str, reason: str) -> None:
    assert_refused(
        lambda: kubectl.session(pod),
        FAILED,
        f'pod "{pod}": kubectl_pod cannot be used: {reason}: name the container',
    )


def test_a_user_without_rights(kubectl: Kubectl, tmp_path: Path) -> None:
    """UNREACHABLE, and in the server's words: who may not do what, where."""
    local = tmp_path / "local"
    local.touch()
    session = kubectl.session(kubeconfig=os.fsencode(kubectl.env["GANGWAY_KUBE_FORBIDDEN"]))
    sentence = 'pod "target": ' + REFUSED_ACCESS.format(
        r'Error from server \(Forbidden\): pods "target" is forbidden: User "nobody" cannot get '
        'resource "pods" in API group "" in the namespace "default"'
    )
    assert_refused(lambda: session.exec_command(b"true"), UNREACHABLE, sentence)
    assert_refused(lambda: session.put_file(bytes(local), b"/x"), UNREACHABLE, sentence)
    assert_refused(lambda: session.fetch_file(b"/x", bytes(local)), UNREACHABLE, sentence)
    # This one may use pods, but not look at a Deployment.
    config = os.fsencode(kubectl.env["GANGWAY_KUBE_EXEC_CONFIG"])
    assert_refused(
        lambda: kubectl.session("deploy/web", kubeconfig=config).exec_command(b"true"),
        UNREACHABLE,
        'pod "deploy/web": '
        + REFUSED_ACCESS.format('.*User "exec" cannot get resource "deployments" .*'),
    )


def test_no_credentials(kubectl: Kubectl) -> None:
    """There is no terminal at which kubectl could ask."""
    session = kubectl.session(
        kubeconfig=None,
        server=kubectl.env["GANGWAY_KUBE_SERVER"].encode(),
        ca_cert=os.fsencode(kubectl.env["GANGWAY_KUBE_CA"]),
    )
    reason = "kubectl has no credentials and asks for a user name"
    assert_refused(
        lambda: session.exec_command(b"true"),
        UNREACHABLE,
        f'pod "target": {REFUSED_ACCESS.format(reason)}',
    )


@pytest.mark.parametrize("text", ["", "clusters: [\n", "just text\n", "\0\xff", "- a\n"])
def test_kubeconfigs_that_are_none(kubectl: Kubectl, tmp_path: Path, text: str) -> None:
    """A file without anything in it means localhost, to kubectl; any other is named."""
    config = tmp_path / "config"
    config.write_text(text, "latin-1")
    reasons = (
        NOT_REACHED.format("The connection to the server localhost:8080 was refused.*")
        if not text
        else WRONG_SETTINGS.format(f'error: error loading config file "{config}": .*')
    )
    assert_refused(
        lambda: kubectl.session(kubeconfig=bytes(config)).exec_command(b"true"),
        UNREACHABLE,
        f'pod "target": {reasons}',
    )


def test_a_server_that_is_mute(kubectl: Kubectl) -> None:
    """Nothing waits for it without bound: neither an exec nor the search for a pod."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"https://127.0.0.1:{mute.getsockname()[1]}".encode()
        for pod, sentence in (
            (
                "target",
                "the engine did not start the command within 1 seconds and was ended; whether it "
                "ran is unknown: check the engine, or raise container_timeout",
            ),
            ("deploy/web", NOT_REACHED.format("/.*/kubectl gave no answer within 1 s")),
        ):
            session = kubectl.session(pod, server=url, timeout=1.0)
            assert_refused(
                lambda session=session: session.exec_command(b"true"),
                UNREACHABLE,
                f'pod "{pod}": {sentence}',
            )


def test_pods_that_cannot_be_entered(kubectl: Kubectl) -> None:
    """One that is done, and one without a shell."""
    cases: list[tuple[str, type[Exception], str]] = [
        (
            kubectl.env["GANGWAY_KUBE_DONE"],
            UNREACHABLE,
            " is succeeded, not running: see `kubectl describe pod` for the reason",
        ),
        (
            "noshell",
            FAILED,
            rf' has no usable shell "/bin/sh" \(.*exec: "/bin/sh": .*\): {NO_SHELL}',
        ),
    ]
    for pod, error, sentence in cases:
        session = kubectl.session(pod)
        assert_refused(
            lambda session=session: session.exec_command(b"true"), error, f'pod "{pod}"{sentence}'
        )
