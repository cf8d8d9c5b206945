"""One query to one DNS server and its response, as bytes: by UDP, and by TCP if that was truncated (RFC 7766).

The socket is connected, its port is the kernel's choice and the id of the query random (RFC 5452); what comes from
elsewhere or with another id is passed over. Law 7: no queue, one response, `LARGEST` bytes of it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from certs.dns_answer import head

LARGEST: Final = 16_384  # bytes of a response

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
    except EOFError as error:
        raise BadResponse("its response is cut short") from error
    except OSError as error:
        raise NoResponse(f"it can't be reached: {error.strerror or 'no way there'}") from error


class _Ear(asyncio.DatagramProtocol):
    """Takes the first response with the query's id, or why there is none."""

    def __init__(self, query: bytes) -> None:
        self.heard: asyncio.Future[bytes | Exception] = asyncio.get_running_loop().create_future()
        self._id = query[:2]

    def datagram_received(self, data: bytes, addr: object) -> None:
        found = head(data)
        if data[:2] == self._id and (found is None or found.response):
            self._hear(data)

    def error_received(self, exc: Exception) -> None:
        self._hear(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._hear(exc or OSError("closed"))

    def _hear(self, what: bytes | Exception) -> None:
        if not self.heard.done():
            self.heard.set_result(what)


async def _by_udp(server: Server, query: bytes) -> bytes:
    """Raises OSError."""
    loop = asyncio.get_running_loop()
    transport, ear = await loop.create_datagram_endpoint(lambda: _Ear(query), remote_addr=server)
    try:
        transport.sendto(query)
        heard = await ear.heard
    finally:
        transport.close()
    if isinstance(heard, Exception):
        raise heard
    return heard


async def _by_tcp(server: Server, query: bytes) -> bytes:
    """Raises BadResponse, OSError, EOFError."""
    reader, writer = await asyncio.open_connection(*server, limit=LARGEST)
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        length = int.from_bytes(await reader.readexactly(2), "big")
        if length > LARGEST:
            raise BadResponse(f"its response has {length} bytes, more than {LARGEST}")
        wire = await reader.readexactly(length)
        if wire[:2] != query[:2]:
            raise BadResponse("its response has another id")
        return wire
    finally:
        writer.transport.abort()
