"""Many plain client connections, held open by this process."""

import resource
import select
import socket
import time

from bench.process import BenchError


def raise_file_limit() -> int:
    """Take the hard limit of open files; returns it."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def request(host: str, target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n".encode()


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def answer(connection: socket.socket) -> int:
    """Read one answer with a Content-Length; its status."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    while len(body) < length:
        body += _some(connection)
    return int(head.split()[1])


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise BenchError("the proxy closed a connection before its answer was whole")
    return data


def first_readable(connections: list[socket.socket], timeout: float) -> int:
    """Monotonic nanoseconds when the first byte of an answer was there on any of `connections`."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    if not poll.poll(timeout * 1000):
        raise BenchError(f"no answer within {timeout} s")
    return time.monotonic_ns()
