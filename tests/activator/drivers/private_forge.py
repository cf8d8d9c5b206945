"""A forge that shows its repositories to one user alone: HTTP with Basic authentication before git's own server."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

USER, TOKEN = "bot", "t0ken/of the@node"
WRITTEN = "bot:t0ken%2Fof%20the%40node"
"""As it stands in an address."""


class PrivateForge(ThreadingHTTPServer):
    """`seen` is called while git waits for the answer to a request that carried the right credentials."""

    daemon_threads = True

    def __init__(self, repositories: Path, seen: Callable[[], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.seen = seen
        self.refused = 0

    def url(self, userinfo: str = WRITTEN) -> str:
        return f"http://{userinfo}@127.0.0.1:{self.server_address[1]}/{{repo}}"


class _Handler(BaseHTTPRequestHandler):
    server: PrivateForge

    def do_GET(self) -> None:
        expected = "Basic " + base64.b64encode(f"{USER}:{TOKEN}".encode()).decode()
        if self.headers["Authorization"] != expected:
            self.server.refused += 1
            self._answer(401, [("WWW-Authenticate", 'Basic realm="forge"')], b"")
            return
        self.server.seen()
        head, _, body = self._git().partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().splitlines()]
        status = next((int(value.split()[0]) for name, value in fields if name == "Status"), 200)
        self._answer(status, [(name, value) for name, value in fields if name != "Status"], body)

    def do_POST(self) -> None:
        self.do_GET()

    def _answer(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in (*fields, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _git(self) -> bytes:
        path, _, query = self.path.partition("?")
        env = {
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_PROJECT_ROOT": str(self.server.repositories),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return subprocess.run(["git", "http-backend"], env=env, input=sent, check=True, capture_output=True).stdout

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(forge: PrivateForge) -> Iterator[PrivateForge]:
    thread = threading.Thread(target=forge.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield forge
    finally:
        forge.shutdown()
        thread.join()
        forge.server_close()
