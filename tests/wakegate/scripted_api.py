"""A peer on a real socket that answers as it is told, and breaks off where it is told: what a real API does rarely."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CUT = b""  # the connection ends without an answer


def deployment(number: int, state: str = "active", **more: object) -> dict[str, object]:
    return {"id": f"d{number}", "state": state, "commit": None, "digest": None, "reason": None, **more}


SERVICE = {
    "namespace": "acme",
    "name": "web",
    "id": "1",
    "status": "running",
    "endpoint": "http://x",
    "env": {"KEY": "***"},
    "repo": "acme/web",
    "branch": "main",
    "image": None,
    "gpu": "L4",
    "gpu_count": 2,
    "cpu": 2,
    "memory": 4,
    "limits": "none",
    "min_replicas": 0,
    "max_replicas": 3,
    "target_gpu_utilization": 70,
    "port": 8080,
    "health_check_path": "/",
    "region": "us-east-1",
    "scaling": {"concurrency": 0},
    "created_at": "c",
    "replicas": {"desired": 1, "ready": 1},
    "deployment": deployment(1),
    "rollout": None,
    "updated_at": "u",
    "domain": {
        "name": "www.acme.com",
        "status": "pending_dns",
        "reason": "nxdomain",
        "records": [{"type": "CNAME", "name": "www.acme.com", "value": "web-acme.apps.localhost", "observed": None}],
    },
    "webhook": {"url": "http://x/hooks/git/acme/web", "secret": "s3"},
}


def answer(status: int, body: Any = None, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole answer; the body as JSON, or as it is."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    fields = {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode() + content


def chunks(*parts: str, ended: bool = True) -> bytes:
    """A stream of server-sent events; `ended` cleanly, or broken off."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"".join(f"{len(part.encode()):x}\r\n{part}\r\n".encode() for part in parts)
    return head + body + (b"0\r\n\r\n" if ended else b"")


@dataclass
class Asked:
    method: str
    target: str
    headers: Mapping[str, str]  # names in lower case
    body: str


@dataclass
class ScriptedApi:
    """One answer per connection, in order; the last one again and again."""

    script: Sequence[bytes]
    tls: ssl.SSLContext | None = None
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> ScriptedApi:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):  # the client may have left
                self._answer(connection if self.tls is None else self.tls.wrap_socket(connection, server_side=True))

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            self.asked.append(_read(reader))
            connection.sendall(self.script[min(len(self.asked), len(self.script)) - 1])
            if self.tls is None:
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)


def _read(reader: Any) -> Asked:
    method, target, _ = reader.readline().decode().split()
    headers = {}
    while line := reader.readline().decode().strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Asked(method, target, headers, reader.read(int(headers.get("content-length", "0"))).decode())
