"""Certificates for a TLS server on 127.0.0.1 that asks its clients for one too."""

from __future__ import annotations

from pathlib import Path

import _bed

# The machine's own openssl.cnf would add extensions, among them "is an authority" for everybody.
CONFIG = """\
[req]
distinguished_name = name
prompt = no
[name]
"""
AUTHORITY = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"]
SERVER = ["extendedKeyUsage=serverAuth", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
CLIENT = ["extendedKeyUsage=clientAuth"]


def create(directory: Path) -> None:
    """Write an authority, `server` and `client` (each ca.pem, cert.pem, key.pem) to `directory`."""
    _bed.require({"openssl": "openssl"})
    _bed.remove_tree(directory)
    directory.mkdir(mode=0o700)
    (directory / "openssl.cnf").write_text(CONFIG)
    authority = directory / "authority"
    certify(authority, AUTHORITY)
    for name, extensions in (("server", SERVER), ("client", CLIENT)):
        certify(directory / name, extensions, authority)
        (directory / name / "ca.pem").write_bytes((authority / "cert.pem").read_bytes())


def certify(directory: Path, extensions: list[str], authority: Path | None = None) -> None:
    """Write cert.pem and key.pem to `directory`, signed by `authority` or else by itself."""
    directory.mkdir()
    argv: list[str | Path] = [
        "openssl",
        "req",
        "-x509",
        "-config",
        directory.parent / "openssl.cnf",
    ]
    argv += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "3650"]
    argv += ["-subj", f"/CN=gangway test {directory.name}"]
    argv += ["-keyout", directory / "key.pem", "-out", directory / "cert.pem"]
    for extension in extensions:
        argv += ["-addext", extension]
    if authority:
        argv += ["-CA", authority / "cert.pem", "-CAkey", authority / "key.pem"]
    _bed.run(argv)
