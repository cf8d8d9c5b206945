"""Clients that go away after any number of bytes, in every way: nothing is left of them; each is counted, once."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import pytest
from tls_parties import TlsConversation, TlsPeer, pair, trusting
from wire import Origin, Peer, get, ok, until


class Cut(Exception):
    """All bytes that were allowed are sent."""


class Allowance(Peer):
    """Sends so many bytes."""

    left = 0

    async def send(self, data: bytes) -> None:
        await super().send(data[: self.left])
        self.left -= len(data)
        if self.left <= 0:
            raise Cut


async def serve(origin: Origin) -> None:
    """Answer whatever comes."""
    async with asyncio.TaskGroup() as tasks:
        while True:
            tasks.create_task(answer(await origin.peer()))


async def answer(peer: Peer) -> None:
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            await peer.head()
            await peer.send(ok(bytes(1000)))


async def go_away(talk: TlsConversation, context: ssl.SSLContext, after: int, how: str) -> None:
    raw = await talk.raw()
    client = TlsPeer(Allowance(raw.reader, raw.writer), context, "app.test", None)
    client.raw.left = after  # type: ignore[attr-defined]
    with contextlib.suppress(Cut):
        await client.handshake()
        await client.send(get() + get())
        await client.head()
        await client.end()
    if how == "fin":
        raw.end()
    elif how == "reset":
        raw.reset()
    else:
        raw.close()


@pytest.mark.parametrize("how", ["fin", "close", "reset"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_after_any_number_of_bytes(talk: TlsConversation, version: ssl.TLSVersion, how: str) -> None:
    context = trusting(pair())
    context.minimum_version = context.maximum_version = version
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    serving = asyncio.ensure_future(serve(origin))
    cuts = [1, 4, 5, 6, *range(20, 900, 37)]
    async with asyncio.TaskGroup() as tasks:
        for after in cuts:
            tasks.create_task(go_away(talk, context, after, how))
    await until(lambda: talk.edge.connections == 0)
    await until(lambda: talk.in_flight == 0)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    counted = talk.edge.counters()["tls"]
    assert counted["handshakes"] + sum(counted["failed"].values()) == len(cuts)
    assert set(counted["failed"]) <= {"left", "protocol"}
    assert not talk.edge._doors._handshakes._tasks  # type: ignore[union-attr]
