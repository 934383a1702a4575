"""Servers on loopback that stand where no real engine can: what reaches them is what counts."""

from __future__ import annotations

import json
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Serve in the background for as long as the block runs."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# What kubectl asks before it asks for a pod.
DISCOVERY: dict[str, dict[str, Any]] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [{"name": "pods", "namespaced": True, "kind": "Pod", "verbs": ["get"]}],
    },
}


class ApiServer:
    """A Kubernetes API server over TLS that lets nobody in, and remembers how they asked.

    `code` is 401 (it knows nobody) or 403. `certificates` has cert.pem and key.pem.
    """

    def __init__(self, certificates: Path, code: int) -> None:
        self.authorizations: list[str | None] = []
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "code": code,
            "reason": {401: "Unauthorized", 403: "Forbidden"}[code],
            "message": {401: "Unauthorized", 403: 'pods "web" is forbidden: not for you'}[code],
        }
        seen = self.authorizations

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(self.headers["Authorization"])
                known = DISCOVERY.get(self.path.partition("?")[0]) if code == 403 else None
                body = json.dumps(known or status).encode()
                self.send_response(200 if known else code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}"


class Proxy:
    """An HTTP proxy that knows CONNECT only, and leads every name to one address."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.asked_for: list[str] = []
        asked_for = self.asked_for

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                method, name, _ = self.rfile.readline().decode().split()
                while self.rfile.readline().strip():
                    pass
                asked_for.append(name)
                if method != "CONNECT":
                    self.wfile.write(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n")
                    return
                with socket.create_connection(upstream, timeout=60) as server:
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                    relay(self.connection, server)

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


def relay(one: socket.socket, other: socket.socket) -> None:
    """Hand on what either says until one has said everything, or nobody speaks for a minute."""
    to = {one: other, other: one}
    while ready := select.select(list(to), [], [], 60)[0]:
        for source in ready:
            data = source.recv(1 << 16)
            if not data:
                return
            to[source].sendall(data)
