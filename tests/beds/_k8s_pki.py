"""Certificates, keys and kubeconfigs of the Kubernetes bed: one CA, everything on 127.0.0.1."""

from __future__ import annotations

import base64
import json
import os
import secrets
from pathlib import Path

import _bed

DAYS = "3650"

# Who has a client certificate, and its organizations, which Kubernetes takes for groups. What
# exec, create-only and the token's user may do is in _k8s_objects.py; `nobody` has no rights.
CLIENTS: dict[str, tuple[str, ...]] = {
    "admin": ("system:masters",),
    "system:node:node1": ("system:nodes",),
    "exec": (),
    "create-only": (),
    "nobody": (),
}
TOKEN_USER = "token"


def create(pki: Path) -> None:
    """Write all keys, certificates and tokens into the new directory `pki`."""
    pki.mkdir(mode=0o700)
    _self_signed(pki, "ca", "gangway test bed")
    _signed(pki, "apiserver", "kube-apiserver", (), usage="serverAuth")
    _signed(pki, "kubelet", "system:node:node1", ("system:nodes",), usage="serverAuth")
    _signed(pki, "etcd", "etcd", (), usage="serverAuth,clientAuth")
    for user, groups in CLIENTS.items():
        _signed(pki, file_name(user), user, groups, usage="clientAuth")
    _new_key(pki, "service-account")
    _openssl(pki, "pkey", "-in", "service-account.key", "-pubout", "-out", "service-account.pub")
    (pki / "token").write_text(secrets.token_hex(20) + "\n")
    (pki / "tokens.csv").write_text(f"{token(pki)},{TOKEN_USER},{TOKEN_USER}\n")


def token(pki: Path) -> str:
    """Return the static token of the user TOKEN_USER."""
    return (pki / "token").read_text().strip()


def file_name(user: str) -> str:
    """Return the stem of a user's .pem, .key and .kubeconfig: `node1` for `system:node:node1`."""
    return user.rpartition(":")[2]


def write_kubeconfigs(state: Path, server: str) -> None:
    """One `<user>.kubeconfig` per user below `state`, credentials inside.

    They are JSON, which every YAML reader takes and the standard library can load.
    """
    pki = state / "pki"
    for user in CLIENTS:
        contexts = {"gangway": "default"}
        if user == "admin":
            contexts["other"] = "other"
        stem = file_name(user)
        credentials = {
            "client-certificate-data": _base64(pki / f"{stem}.pem"),
            "client-key-data": _base64(pki / f"{stem}.key"),
        }
        _write_kubeconfig(state / f"{stem}.kubeconfig", pki, server, user, credentials, contexts)
    _write_kubeconfig(
        state / "token.kubeconfig",
        pki,
        server,
        TOKEN_USER,
        {"token": token(pki)},
        {"gangway": "default"},
    )


def _write_kubeconfig(
    path: Path,
    pki: Path,
    server: str,
    user: str,
    credentials: dict[str, str],
    contexts: dict[str, str],
) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "gangway",
        "clusters": [
            {
                "name": "gangway",
                "cluster": {
                    "server": server,
                    "certificate-authority-data": _base64(pki / "ca.pem"),
                },
            }
        ],
        "users": [{"name": user, "user": credentials}],
        "contexts": [
            {
                "name": name,
                "context": {"cluster": "gangway", "user": user, "namespace": namespace},
            }
            for name, namespace in contexts.items()
        ],
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(config, file, indent=1)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


# An own configuration per certificate: the machine's openssl.cnf must not add anything.
# The key identifiers are what Python 3.13's strict verification asks for.
_CONFIG = """\
[req]
prompt = no
distinguished_name = name
[name]
{organizations}
CN = {name}
[ca]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = {usage}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:localhost,IP:127.0.0.1
"""


def _self_signed(pki: Path, stem: str, name: str) -> None:
    _write_config(pki, stem, name, (), "serverAuth")
    _new_key(pki, stem)
    argv = ["req", "-x509", "-new", "-key", f"{stem}.key", "-config", f"{stem}.cnf"]
    _openssl(pki, *argv, "-extensions", "ca", "-days", DAYS, "-out", f"{stem}.pem")


def _signed(pki: Path, stem: str, name: str, groups: tuple[str, ...], usage: str) -> None:
    _write_config(pki, stem, name, groups, usage)
    _new_key(pki, stem)
    argv = ["req", "-new", "-key", f"{stem}.key", "-config", f"{stem}.cnf"]
    _openssl(pki, *argv, "-out", f"{stem}.csr")
    argv = ["x509", "-req", "-in", f"{stem}.csr", "-extfile", f"{stem}.cnf", "-extensions", "leaf"]
    argv += ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
    _openssl(pki, *argv, "-days", DAYS, "-out", f"{stem}.pem")


def _write_config(pki: Path, stem: str, name: str, groups: tuple[str, ...], usage: str) -> None:
    organizations = "\n".join(f"{i}.O = {group}" for i, group in enumerate(groups))
    text = _CONFIG.format(organizations=organizations, name=name, usage=usage)
    (pki / f"{stem}.cnf").write_text(text)


def _new_key(pki: Path, stem: str) -> None:
    argv = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    _openssl(pki, *argv, "-out", f"{stem}.key")


def _openssl(pki: Path, *arguments: str) -> None:
    _bed.run(["openssl", *arguments], cwd=pki)
