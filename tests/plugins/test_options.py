"""Every option of the plugins that ours take the place of is accepted unchanged."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from ansible_gangway import link
from plugins.loading import ENGINES, connection, documented_options

pytestmark = pytest.mark.plays


class Option(NamedTuple):
    """An option as DOCUMENTATION declares it; ini is `section/key`."""

    default: Any = None
    type: str | None = None
    vars: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    ini: tuple[str, ...] = ()
    cli: tuple[str, ...] = ()
    keyword: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


def kubectl_option(name: str, variables: str, env: str, **more: Any) -> Option:
    return Option(
        vars=tuple(f"ansible_kubectl_{name}" for name in variables.split()),
        env=tuple(f"K8S_AUTH_{name}" for name in env.split()),
        **{"default": "", **more},
    )


USER = Option(
    vars=("ansible_user", "ansible_docker_user"),
    env=("ANSIBLE_REMOTE_USER",),
    ini=("defaults/remote_user",),
    cli=("user",),
    keyword=("remote_user",),
)

# As `ansible-doc --json` shows them of community.docker.docker 5.4.0.
DOCKER = {
    "remote_addr": Option(
        "inventory_hostname", vars=("inventory_hostname", "ansible_host", "ansible_docker_host")
    ),
    "remote_user": USER,
    "docker_extra_args": Option(
        "", vars=("ansible_docker_extra_args",), ini=("docker_connection/extra_cli_args",)
    ),
    "container_timeout": Option(
        10,
        "integer",
        vars=("ansible_docker_timeout",),
        env=("ANSIBLE_TIMEOUT", "ANSIBLE_DOCKER_TIMEOUT"),
        ini=("defaults/timeout", "docker_connection/timeout"),
        cli=("timeout",),
    ),
    "extra_env": Option(type="dict", vars=("ansible_docker_extra_env",)),
    "working_dir": Option(
        type="string",
        vars=("ansible_docker_working_dir",),
        env=("ANSIBLE_DOCKER_WORKING_DIR",),
        ini=("docker_connection/working_dir",),
    ),
    "privileged": Option(
        False,
        "boolean",
        vars=("ansible_docker_privileged",),
        env=("ANSIBLE_DOCKER_PRIVILEGED",),
        ini=("docker_connection/privileged",),
    ),
}

# As `ansible-doc --json` shows them of kubernetes.core.kubectl 6.6.0.
KUBECTL = {
    "kubectl_pod": kubectl_option("pod", "pod", "POD"),
    "kubectl_container": kubectl_option("container", "container", "CONTAINER"),
    "kubectl_namespace": kubectl_option("namespace", "namespace", "NAMESPACE"),
    "kubectl_extra_args": kubectl_option("extra_args", "extra_args", "EXTRA_ARGS"),
    "kubectl_local_env_vars": kubectl_option(
        "local_env_vars", "local_env_vars", "", default={}, type="dict"
    ),
    "kubectl_kubeconfig": kubectl_option("kubeconfig", "kubeconfig config", "KUBECONFIG"),
    "kubectl_context": kubectl_option("context", "context", "CONTEXT"),
    "kubectl_host": kubectl_option("host", "host server", "HOST SERVER"),
    "kubectl_username": kubectl_option("username", "username user", "USERNAME"),
    "kubectl_password": kubectl_option("password", "password", "PASSWORD"),
    "kubectl_token": kubectl_option("token", "token api_key", "TOKEN API_KEY", default=None),
    "client_cert": kubectl_option(
        "client_cert", "cert_file client_cert", "CERT_FILE", aliases=("kubectl_cert_file",)
    ),
    "client_key": kubectl_option(
        "client_key", "key_file client_key", "KEY_FILE", aliases=("kubectl_key_file",)
    ),
    "ca_cert": kubectl_option(
        "ca_cert", "ssl_ca_cert ca_cert", "SSL_CA_CERT", aliases=("kubectl_ssl_ca_cert",)
    ),
    "validate_certs": kubectl_option(
        "validate_certs",
        "verify_ssl validate_certs",
        "VERIFY_SSL",
        aliases=("kubectl_verify_ssl",),
    ),
}


# As `ansible-doc --json` shows them of containers.podman.podman 1.21.0.
PODMAN = {
    "remote_addr": Option(
        "inventory_hostname",
        vars=("inventory_hostname", "ansible_host", "ansible_podman_host"),
        env=("ANSIBLE_PODMAN_HOST",),
        ini=("defaults/remote_addr",),
    ),
    "remote_user": Option(
        vars=("ansible_user",), env=("ANSIBLE_REMOTE_USER",), ini=("defaults/remote_user",)
    ),
    "podman_extra_args": Option(
        "",
        "string",
        vars=("ansible_podman_extra_args",),
        env=("ANSIBLE_PODMAN_EXTRA_ARGS",),
        ini=("defaults/podman_extra_args",),
    ),
    "podman_executable": Option(
        "podman",
        "string",
        vars=("ansible_podman_executable",),
        env=("ANSIBLE_PODMAN_EXECUTABLE",),
        ini=("defaults/podman_executable",),
    ),
    "container_timeout": Option(
        0,
        "integer",
        vars=("ansible_podman_timeout",),
        env=("ANSIBLE_PODMAN_TIMEOUT",),
        ini=("defaults/podman_timeout",),
    ),
    "mount_detection": Option(
        True,
        "boolean",
        vars=("ansible_podman_mount_detection",),
        env=("ANSIBLE_PODMAN_MOUNT_DETECTION",),
    ),
    "ignore_mount_errors": Option(True, "boolean", vars=("ansible_podman_ignore_mount_errors",)),
    "extra_env_vars": Option({}, "dict", vars=("ansible_podman_extra_env",)),
    "privilege_escalation_method": Option(
        "auto", "string", vars=("ansible_podman_privilege_escalation",)
    ),
    "working_directory": Option(type="string", vars=("ansible_podman_working_directory",)),
}


def agents(name: str, default: Any, kind: str | None = None) -> Option:
    """Return an option of the agents, the same in every plugin."""
    variable = f"ansible_gangway_{name}"
    return Option(default, kind, (variable,), (variable.upper(),), (f"gangway/{name}",))


def ours(engine: str, timeout: int) -> dict[str, Option]:
    """Return the options that every plugin of this collection has."""
    upper, section = engine.upper(), f"{engine}_connection"
    return {
        f"{engine}_executable": Option(
            engine,
            vars=(f"ansible_{engine}_executable",),
            env=(f"ANSIBLE_{upper}_EXECUTABLE",),
            ini=(f"{section}/executable",),
        ),
        "extra_env": Option(type="dict", vars=(f"ansible_{engine}_extra_env",)),
        "working_dir": Option(
            type="string",
            vars=(f"ansible_{engine}_working_dir",),
            env=(f"ANSIBLE_{upper}_WORKING_DIR",),
            ini=(f"{section}/working_dir",),
        ),
        "container_timeout": Option(
            timeout,
            "integer",
            vars=("ansible_timeout", f"ansible_{engine}_timeout"),
            env=("ANSIBLE_TIMEOUT", f"ANSIBLE_{upper}_TIMEOUT"),
            ini=("defaults/timeout", f"{section}/timeout"),
            cli=("timeout",),
        ),
        "pipelining": Option(
            True,
            "boolean",
            vars=("ansible_pipelining",),
            env=("ANSIBLE_PIPELINING",),
            ini=("defaults/pipelining", "connection/pipelining"),
        ),
        "gangway_agent": agents("agent", "true"),
        "gangway_persist": agents("persist", 60, "float"),
        "gangway_kill_on_disconnect": agents("kill_on_disconnect", False, "boolean"),
        "gangway_interpreter": Option(vars=("ansible_python_interpreter",)),
    }


EXPECTED = {
    "runc": {
        **ours("runc", 10),
        "remote_addr": Option(
            "inventory_hostname", vars=("inventory_hostname", "ansible_host", "ansible_runc_host")
        ),
        "remote_user": USER._replace(vars=("ansible_user", "ansible_runc_user")),
        "runc_root": Option(
            type="string",
            vars=("ansible_runc_root",),
            env=("ANSIBLE_RUNC_ROOT",),
            ini=("runc_connection/root",),
        ),
        "runc_extra_args": Option(
            "", vars=("ansible_runc_extra_args",), ini=("runc_connection/extra_cli_args",)
        ),
    },
    "docker": {**DOCKER, **ours("docker", 10)},
    "podman": {
        **PODMAN,
        "remote_user": USER._replace(vars=("ansible_user", "ansible_podman_user")),
        "podman_executable": PODMAN["podman_executable"]._replace(
            ini=("podman_connection/executable", "defaults/podman_executable")
        ),
        "podman_extra_args": PODMAN["podman_extra_args"]._replace(
            ini=("podman_connection/extra_cli_args", "defaults/podman_extra_args")
        ),
        "working_directory": Option(
            type="string",
            vars=("ansible_podman_working_dir", "ansible_podman_working_directory"),
            env=("ANSIBLE_PODMAN_WORKING_DIR",),
            ini=("podman_connection/working_dir",),
        ),
        "container_timeout": ours("podman", 10)["container_timeout"]._replace(
            ini=("defaults/timeout", "podman_connection/timeout", "defaults/podman_timeout")
        ),
        **{
            name: option
            for name, option in ours("podman", 10).items()
            if name.startswith(("pipelining", "gangway_"))
        },
    },
    "kubectl": {
        **KUBECTL,
        **ours("kubectl", 30),
        "remote_addr": Option("inventory_hostname", vars=("inventory_hostname", "ansible_host")),
        "remote_user": Option(),
    },
}


def literals(engine: str) -> dict[str, str]:
    """Read the documentation as ansible-doc does: from the text, without importing the file."""
    tree = ast.parse(Path(link.plugin_directory(), f"{engine}.py").read_text())
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        if isinstance(node.value, ast.Constant)
    }


def declared(engine: str) -> dict[str, Option]:
    """Return what the documentation of a plugin declares."""

    def names(option: dict[str, Any], source: str) -> tuple[str, ...]:
        return tuple(entry["name"] for entry in option.get(source, ()))

    return {
        name: Option(
            option.get("default"),
            option.get("type"),
            names(option, "vars"),
            names(option, "env"),
            tuple(f"{entry['section']}/{entry['key']}" for entry in option.get("ini", ())),
            names(option, "cli"),
            names(option, "keyword"),
            tuple(option.get("aliases", ())),
        )
        for name, option in documented_options(literals(engine)["DOCUMENTATION"]).items()
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_every_option_is_the_expected_one(engine: str) -> None:
    assert declared(engine) == EXPECTED[engine]


@pytest.mark.parametrize(
    ("engine", "peer"), [("docker", DOCKER), ("podman", PODMAN), ("kubectl", KUBECTL)]
)
def test_nothing_of_the_peer_is_lost(engine: str, peer: dict[str, Option]) -> None:
    for name, option in peer.items():
        mine = declared(engine)[name]
        default = 10 if option is PODMAN["container_timeout"] else option.default
        assert (mine.default, mine.type) == (default, option.type)
        for source in ("vars", "env", "ini", "cli", "keyword", "aliases"):
            # The last name that is set wins: what is added comes first, or is this engine's own.
            names = getattr(mine, source)
            if source == "vars" and name == "remote_user":
                names = tuple(name for name in names if name != "ansible_podman_user")
            wanted: tuple[str, ...] = getattr(option, source)
            assert names[-len(wanted) or None :] == wanted or not wanted


@pytest.mark.parametrize("engine", ENGINES)
def test_no_option_is_filled_from_a_keyword_by_accident(engine: str) -> None:
    assert not {"timeout", "environment", "port", "vars"} & declared(engine).keys()


@pytest.mark.parametrize(
    ("engine", "option", "variable"),
    [
        (engine, option, variable)
        for engine, options in EXPECTED.items()
        for option, declaration in options.items()
        for variable in declaration.vars
    ],
)
def test_every_variable_sets_its_option(engine: str, option: str, variable: str) -> None:
    values = {"integer": 47, "float": 4.5, "boolean": True, "dict": {"A": "b"}}
    default = EXPECTED[engine][option].default
    value = values.get(EXPECTED[engine][option].type or "", "x")
    value = not default if isinstance(default, bool) else value
    value = "sudo" if default == "auto" else value
    variables: dict[str, Any] = {"inventory_hostname": None, "ansible_host": None}
    plugin = connection(engine, **{**variables, variable: value})
    assert plugin.get_option(option) == value


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("off", ["false", "False", "no", False])
def test_pipelining_is_on_and_can_be_put_off_by_any_false(engine: str, off: object) -> None:
    assert connection(engine).get_option("pipelining") is True
    assert connection(engine, ansible_pipelining=off).get_option("pipelining") is False


@pytest.mark.parametrize("engine", ENGINES)
def test_documentation_is_complete(engine: str) -> None:
    texts = literals(engine)
    documentation = yaml.safe_load(texts["DOCUMENTATION"])
    assert documentation["name"] == engine
    for key in ("short_description", "description", "author", "version_added", "requirements"):
        assert documentation[key]
    options = documented_options(texts["DOCUMENTATION"])
    assert all(option["description"] for option in options.values())
    plays = yaml.safe_load(texts["EXAMPLES"])
    assert all({"name", "hosts", "tasks"} <= play.keys() for play in plays)
    assert f"gangway.exec.{engine}" in texts["EXAMPLES"]
