"""Bytes sent in pieces, and what has come back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import zlib

from wire import Peer

_SMALL = 2000  # bytes: more than that is not sent one by one


async def send(peer: Peer, data: bytes, way: str, seed: str) -> None:
    """`data`, whole, byte by byte, or in pieces of random size; each is most likely read alone."""
    dice = random.Random(zlib.crc32(seed.encode()))
    most = max(60, len(data) // 50)
    at = 0
    while at < len(data) and not peer.writer.transport.is_closing():
        size = 1 if way == "bytes" and len(data) < _SMALL else dice.randrange(1, most) if way == "pieces" else len(data)
        with contextlib.suppress(ConnectionError):
            peer.writer.write(data[at : at + size])
        at += size
        await turns(3)
    await turns(20)


async def turns(number: int) -> None:
    """Let everybody read what has come."""
    for _ in range(number):
        await asyncio.sleep(0)


def received(peer: Peer) -> bytes:
    """What has come so far and nobody has asked for."""
    return peer.seen + bytes(peer.reader._buffer)  # type: ignore[attr-defined]
