"""A client's end of one connection: bytes out, whole responses in. What is cut is told apart from what never began."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from dataclasses import dataclass, field

PATIENCE = 40.0  # seconds for anything that must happen


class Cut(Exception):
    """The connection ended before the response was complete. `begun`: some of it had come."""

    def __init__(self, begun: bool) -> None:
        super().__init__("cut within a response" if begun else "closed without a response")
        self.begun = begun


@dataclass
class Reply:
    """Names of fields in lower case; `interim`: the codes of 1xx that came before."""

    status: int
    fields: dict[str, str]
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    interim: list[int] = field(default_factory=list)


class Connection:
    """`await open(…)`, `send`, `reply`; then `close` or `reset`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext | None = None, name: str | None = None) -> Connection:
        async with asyncio.timeout(PATIENCE):
            return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name))

    async def send(self, data: bytes) -> None:
        """Raises ConnectionError."""
        async with asyncio.timeout(PATIENCE):
            self.writer.write(data)
            await self.writer.drain()

    async def reply(self, method: str = "GET", patience: float = PATIENCE) -> Reply:
        """The next response. Raises Cut, TimeoutError."""
        begun = False
        try:
            async with asyncio.timeout(patience):
                interim: list[int] = []
                while True:
                    first = await self.reader.readexactly(1)
                    begun = True
                    reply = _head(first + await self.reader.readuntil(b"\r\n\r\n"))
                    if reply.status >= 200:
                        reply.interim = interim
                        await self._body(reply, method)
                        return reply
                    if reply.status == 101:
                        return reply
                    interim.append(reply.status)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError) as error:
            raise Cut(begun) from error

    async def _body(self, reply: Reply, method: str) -> None:
        if method == "HEAD" or reply.status in (204, 304):
            return
        if reply.fields.get("transfer-encoding") == "chunked":
            pieces = []
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                pieces.append((await self.reader.readexactly(size + 2))[:-2])
            reply.body = b"".join(pieces)
            while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
                name, _, value = line.decode("latin-1").partition(":")
                reply.trailers[name.lower()] = value.strip()
        elif "content-length" in reply.fields:
            reply.body = await self.reader.readexactly(int(reply.fields["content-length"]))
        else:
            reply.body = await self.reader.read()

    async def ended(self) -> bytes:
        """What still comes until the other side closes."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.reader.read()
        except (ConnectionError, ssl.SSLError):
            return b""

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None and not self.writer.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def _head(data: bytes) -> Reply:
    lines = data.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    return Reply(int(lines[0].split(" ")[1]), fields)


def request(target: str, host: str, *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A head without a body."""
    return "\r\n".join([f"{method} {target} HTTP/{version}", f"Host: {host}", *lines, "", ""]).encode()
