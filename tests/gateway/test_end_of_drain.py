"""The end of the time to drain: who is still held has an answer before the connection ends."""

from __future__ import annotations

import asyncio
import socket

from wire import Conversation, Starter, fields, get, until

from state.models import Endpoint

MANY = 100  # more than two turns of the loop answer


async def test_who_is_held_when_the_time_to_drain_is_over_is_told_so(
    conversation: Starter, unanswered: tuple[Endpoint, socket.socket]
) -> None:
    talk = await conversation(hold_limit=MANY)
    talk.serve()
    clients = [await talk.client() for _ in range(MANY)]
    for client in clients:
        await client.send(get())
    talk.serve(unanswered[0], host="connecting.test")
    clients.append(await talk.client())
    await clients[-1].send(get("/", "Content-Length: 9", host="connecting.test", method="POST") + b"ab")
    silent = await talk.client()
    await until(lambda: talk.held == MANY and talk.in_flight == 1 and talk.edge.connections == MANY + 2)
    dismissed = asyncio.get_running_loop().create_task(talk.edge.dismiss(20.0))
    await asyncio.sleep(0)
    assert 0 < talk.held < MANY, "the others have their turn"
    await silent.closed()
    for client in clients:
        head = await client.head()
        told = fields(head)
        assert head.startswith(b"HTTP/1.1 503 ")
        assert (told[b"retry-after"], told[b"connection"]) == ([b"1"], [b"close"])
        assert b'details="no replica was ready before the gateway stopped"' in told[b"proxy-status"][0]
        assert (await client.rest()).endswith(b"}\n")
        client.close()
    await dismissed
    assert talk.edge.connections == 0


async def test_who_is_in_flight_when_the_time_to_drain_is_over_is_cut_and_nobody_takes_his_place(
    talk: Conversation,
) -> None:
    origin, busy, waiting = await talk.origin(), await talk.client(), await talk.client()
    talk.serve(origin.endpoint(), concurrency=1)
    await busy.send(get())
    replica = await origin.peer()
    await replica.head()
    await waiting.send(get())
    await until(lambda: talk.held == 1)
    dismissed = asyncio.get_running_loop().create_task(talk.edge.dismiss(20.0))
    assert (await waiting.head()).startswith(b"HTTP/1.1 503 ")
    waiting.close()
    await busy.closed()
    await dismissed
    replica.close()  # it keeps its slot until then
    await until(lambda: talk.in_flight == 0)
    assert talk.count() == {"499": 1, "503": 1}
