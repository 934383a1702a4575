"""Answer HTTP on 127.0.0.1:8099 and on a unix socket of the container in which it runs."""

import base64
import json
import os
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DIRECTORY = "/srv/start/served"
SOCKET = "/run/serve.sock"
PORT = 8099


class Handler(BaseHTTPRequestHandler):
    """Files of DIRECTORY, and a few paths that do what they are called."""

    protocol_version = "HTTP/1.1"

    def address_string(self):
        """Return a name for the log; a unix socket has no address."""
        return "client"

    def log_message(self, *args):
        """Say nothing."""

    def date_time_string(self, timestamp=None):
        """Return a fixed time."""
        return "Wed, 01 Jan 2020 00:00:00 GMT"

    def answer(self, status, body=b"", **headers):
        """Send one whole answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do(self):
        """Answer any method."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        expected = "Basic " + base64.b64encode(b"user:secret").decode()
        if path.startswith("/status/"):
            self.answer(int(path[8:]), b"as asked\n", X_Two="a, b", Content_Type="text/plain")
        elif path == "/redirect":
            self.answer(302, Location="/file.txt")
        elif path == "/slow":
            time.sleep(3)
            self.answer(200, b"late\n")
        elif path == "/private" and self.headers.get("Authorization") != expected:
            self.answer(401, WWW_Authenticate='Basic realm="here"')
        elif path in ("/echo", "/private"):
            told = {key: value for key, value in self.headers.items() if "Boundary" not in key}
            answer = {"method": self.command, "path": self.path, "headers": told}
            if "multipart" not in told.get("Content-Type", ""):
                answer["body"] = body.decode("latin-1")
            else:
                del told["Content-Type"]
            self.answer(200, json.dumps(answer).encode(), Content_Type="application/json")
        elif os.path.isfile(DIRECTORY + path):
            with open(DIRECTORY + path, "rb") as file:
                self.answer(200, file.read(), Last_Modified=self.date_time_string())
        else:
            self.answer(404, b"no such file\n")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The same on a unix socket."""

    daemon_threads = True


threading.Thread(target=UnixServer(SOCKET, Handler).serve_forever, daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
