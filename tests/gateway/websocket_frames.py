"""WebSocket frames in bytes (RFC 6455 5.2), also those that no library sends; what came back as a transcript."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import struct

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = base64.b64encode(hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
SILENCE = 3.0  # seconds after which nothing more is expected


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True, width: int = 0
) -> bytes:
    """One frame of a client. `width`: 2 or 8 bytes for the length although fewer would do."""
    size = len(payload)
    mark = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if width == 8 or size > 0xFFFF:
        head += bytes([mark | 127]) + struct.pack("!Q", size)
    elif width == 2 or size > 125:
        head += bytes([mark | 126]) + struct.pack("!H", size)
    else:
        head += bytes([mark | size])
    if not masked:
        return head + payload
    key = os.urandom(4)
    stretched = (key * (size // 4 + 1))[:size]
    return head + key + (int.from_bytes(payload, "big") ^ int.from_bytes(stretched, "big")).to_bytes(size, "big")


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def handshake(path: str, *more: str, host: str = "app.test") -> bytes:
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Connection: keep-alive, Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Key: {KEY.decode()}",
        "Sec-WebSocket-Version: 13",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


class Raw:
    """A client that sends what it is told and writes down every frame that comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.transcript: list[object] = []

    @classmethod
    async def open(cls, port: int, path: str, early: bytes = b"") -> Raw:
        """`early`: sent in one go with the handshake."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
        raw = cls(reader, writer)
        writer.write(handshake(path) + early)
        async with asyncio.timeout(SILENCE):
            head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            writer.close()
        assert head.startswith(b"HTTP/1.1 101 "), head
        assert b"\r\nSec-WebSocket-Accept: " + ACCEPT + b"\r\n" in head
        return raw

    async def send(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError:
            pass  # the transcript tells how it ended

    async def frames(self, count: int) -> None:
        """Write down the next `count` frames, or the end."""
        for _ in range(count):
            if not await self._frame():
                return

    async def to_the_end(self) -> list[object]:
        """Write down all that comes until the other side ends; then the transcript."""
        while await self._frame():
            pass
        return self.transcript

    async def _frame(self) -> bool:
        try:
            async with asyncio.timeout(SILENCE):
                first, second = await self._reader.readexactly(2)
                size = second & 0x7F
                if size == 126:
                    (size,) = struct.unpack("!H", await self._reader.readexactly(2))
                elif size == 127:
                    (size,) = struct.unpack("!Q", await self._reader.readexactly(8))
                payload = await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.transcript.append("end")
            return False
        except TimeoutError:
            self.transcript.append("silence")
            return False
        shown = payload if size <= 200 else hashlib.sha256(payload).hexdigest()
        self.transcript.append((first >> 7, first >> 4 & 7, first & 15, second >> 7, size, shown))
        return True

    def half_close(self) -> None:
        self._writer.write_eof()

    def reset(self) -> None:
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER
        self._writer.transport.abort()

    def close(self) -> None:
        self._writer.close()
