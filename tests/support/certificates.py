"""Certificates that no engine's authority has signed."""

from __future__ import annotations

import subprocess
from pathlib import Path


def self_signed(directory: Path) -> Path:
    """Write ca.pem, cert.pem and key.pem, of a server or client on 127.0.0.1; return `directory`.

    The certificate is its own authority.
    """
    directory.mkdir()
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    argv += ["-noenc", "-days", "2", "-subj", "/CN=gangway stranger"]
    argv += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    argv += ["-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem")]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    (directory / "ca.pem").write_bytes((directory / "cert.pem").read_bytes())
    return directory
