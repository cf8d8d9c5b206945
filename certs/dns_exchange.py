"""One query to one DNS server and its response, as bytes: by UDP, and by TCP if that was truncated (RFC 7766).

The socket is connected, its port is the kernel's choice and the id of the query random (RFC 5452); what comes from
elsewhere or with another id is passed over. Law 7: no queue, one response, `LARGEST` bytes of it.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from certs.dns_answer import head

LARGEST: Final = 16_384  # bytes of a response
_STRAYS: Final = 100  # datagrams that are passed over

Server = tuple[str, int]  # IP address, port


class NoResponse(Exception):
    """Nobody answered in time, or nobody is there. The text says which."""


class BadResponse(Exception):
    """What came is no response to this."""


async def exchange(server: Server, query: bytes, timeout: float) -> bytes:
    """`timeout`: seconds for all of it. Raises NoResponse, BadResponse."""
    try:
        async with asyncio.timeout(timeout):
            wire = await _by_udp(server, query)
            found = head(wire)
            return await _by_tcp(server, query) if found is not None and found.truncated else wire
    except TimeoutError as error:
        raise NoResponse("it does not answer in time") from error
    except OSError as error:
        raise NoResponse(f"it can't be reached: {error.strerror or 'no way there'}") from error


async def _by_udp(server: Server, query: bytes) -> bytes:
    """The first response with the query's id. Raises BadResponse, OSError."""
    loop = asyncio.get_running_loop()
    with _socket(server, socket.SOCK_DGRAM) as sock:
        sock.connect(server)
        await loop.sock_sendall(sock, query)
        for _ in range(_STRAYS):
            data = await loop.sock_recv(sock, LARGEST)
            found = head(data)
            if data[:2] == query[:2] and (found is None or found.response):
                return data
    raise BadResponse("what it sends has other ids")


async def _by_tcp(server: Server, query: bytes) -> bytes:
    """Raises BadResponse, OSError."""
    loop = asyncio.get_running_loop()
    with _socket(server, socket.SOCK_STREAM) as sock:
        await loop.sock_connect(sock, server)
        await loop.sock_sendall(sock, len(query).to_bytes(2, "big") + query)
        length = int.from_bytes(await _exactly(sock, 2), "big")
        if length > LARGEST:
            raise BadResponse(f"its response has {length} bytes, more than {LARGEST}")
        wire = await _exactly(sock, length)
    if wire[:2] != query[:2]:
        raise BadResponse("its response has another id")
    return wire


async def _exactly(sock: socket.socket, count: int) -> bytes:
    """Raises BadResponse if the stream ends before, OSError."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < count:
        part = await loop.sock_recv(sock, count - len(data))
        if not part:
            raise BadResponse("its response is cut short")
        data += part
    return bytes(data)


def _socket(server: Server, kind: socket.SocketKind) -> socket.socket:
    """Not a transport: uvloop leaves one open whose making is cancelled."""
    sock = socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, kind)
    sock.setblocking(False)
    return sock
