"""Tunnels and streams through a node: a service that echoes, and clients that hold on to it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from e2e_node import Node, eventually
from scenes import Notes, host

ECHO = (Path(__file__).parent / "tunnel_replica.py").read_text()


def deploy_echo(node: Node, name: str = "echo", **fields: Any) -> Notes:
    """Create the service acme/`name` and wait until it was ready (idle, it may sleep by now); its notes."""
    node.commit("acme/tunnels", {"Procfile": "web: exec python3 server.py\n", "server.py": ECHO})
    notes = Notes(node, f"acme-{name}")
    node.create("acme", name, repo="acme/tunnels", env={"OUT": str(notes.path)}, **fields)
    eventually(lambda: node.service("acme", name)["deployment"]["state"] == "active", 60, f"{name} is deployed")
    return notes


class Tunnel:
    """One open tunnel to acme/`name`."""

    def __init__(self, node: Node, name: str = "echo") -> None:
        self._sock = socket.create_connection(("127.0.0.1", node.http_port), 30)
        self._sock.settimeout(30)
        head = f"GET /ws HTTP/1.1\r\nHost: {host('acme', name)}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        self._sock.sendall(head.encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            piece = self._sock.recv(65536)
            assert piece, answer
            answer += piece
        assert answer.startswith(b"HTTP/1.1 101 "), answer

    def echoes(self, data: bytes) -> bool:
        """Whether it is alive: what is sent comes back. False: it was cut."""
        try:
            self._sock.sendall(data)
            back = b""
            while len(back) < len(data):
                piece = self._sock.recv(65536)
                if not piece:
                    return False
                back += piece
        except ConnectionError:
            return False
        assert back == data
        return True

    def is_cut(self) -> bool:
        """Wait for its end (30 s at most, else TimeoutError)."""
        try:
            return self._sock.recv(65536) == b""
        except ConnectionError:
            return True
        finally:
            self.close()

    def close(self) -> None:
        self._sock.close()


class Stream:
    """One open stream of server-sent events of acme/`name`, that says nothing any more."""

    def __init__(self, node: Node, name: str) -> None:
        self._sock = socket.create_connection(("127.0.0.1", node.http_port), 30)
        self._sock.sendall(f"GET /events HTTP/1.1\r\nHost: {host('acme', name)}\r\n\r\n".encode())
        answer = b""
        while b"data: 1\n\n" not in answer:
            piece = self._sock.recv(65536)
            assert piece, answer
            answer += piece

    def close(self) -> None:
        self._sock.close()
