"""Certificates, keys and kubeconfigs of the Kubernetes bed: one CA, everything on 127.0.0.1."""

from __future__ import annotations

import base64
import json
import os
import secrets
from pathlib import Path

import _bed

DAYS = "3650"

# User name -> organizations (Kubernetes reads them as groups). Roles: see _k8s_objects.py.
CLIENTS = {
    "admin": ("system:masters",),
    "system:node:node1": ("system:nodes",),
    "exec": (),
    "create-only": (),
    "nobody": (),
}
TOKEN_USER = "token"


def create(pki: Path) -> None:
    """Write ca, apiserver, kubelet, service-account and one client pair per user into `pki`."""
    pki.mkdir(mode=0o700)
    _self_signed(pki, "ca", "gangway test bed")
    _signed(pki, "apiserver", "kube-apiserver", (), usage="serverAuth")
    _signed(pki, "kubelet", "system:node:node1", ("system:nodes",), usage="serverAuth")
    _signed(pki, "etcd", "etcd", (), usage="serverAuth,clientAuth")
    for user, groups in CLIENTS.items():
        _signed(pki, file_name(user), user, groups, usage="clientAuth")
    private, public = pki / "service-account.key", pki / "service-account.pub"
    _openssl("genpkey", *_KEY, "-out", private)
    _openssl("pkey", "-in", private, "-pubout", "-out", public)
    (pki / "token").write_text(secrets.token_hex(20) + "\n")
    (pki / "tokens.csv").write_text(f"{token(pki)},{TOKEN_USER},{TOKEN_USER}\n")


def token(pki: Path) -> str:
    return (pki / "token").read_text().strip()


def file_name(user: str) -> str:
    """`system:node:node1` -> `node1`: the stem of a user's .pem and .key."""
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


def _write_kubeconfig(path, pki, server, user, credentials, contexts) -> None:
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


_KEY = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")

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


def _config(pki: Path, stem: str, name: str, groups, usage: str) -> Path:
    path = pki / f"{stem}.cnf"
    organizations = "\n".join(f"{i}.O = {group}" for i, group in enumerate(groups))
    path.write_text(_CONFIG.format(organizations=organizations, name=name, usage=usage))
    return path


def _self_signed(pki: Path, stem: str, name: str) -> None:
    key = pki / f"{stem}.key"
    _openssl("genpkey", *_KEY, "-out", key)
    config = _config(pki, stem, name, (), "serverAuth")
    _openssl("req", "-x509", "-new", "-key", key, "-config", config, "-extensions", "ca",
             "-days", DAYS, "-out", pki / f"{stem}.pem")  # fmt: skip


def _signed(pki: Path, stem: str, name: str, groups, usage: str) -> None:
    key, request = pki / f"{stem}.key", pki / f"{stem}.csr"
    _openssl("genpkey", *_KEY, "-out", key)
    config = _config(pki, stem, name, groups, usage)
    _openssl("req", "-new", "-key", key, "-config", config, "-out", request)
    _openssl("x509", "-req", "-in", request, "-CA", pki / "ca.pem", "-CAkey", pki / "ca.key",
             "-CAcreateserial", "-extfile", config, "-extensions", "leaf",
             "-days", DAYS, "-out", pki / f"{stem}.pem")  # fmt: skip


def _openssl(*arguments: str | Path) -> None:
    _bed.run(["openssl", *arguments])
