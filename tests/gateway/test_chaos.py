"""Many clients and replicas that misbehave at random (seeded): nothing leaks, nothing is answered twice, all ends."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest
from wire import Conversation, Peer, get, lines, ok, until

ANSWERS = [
    ok(b"x" * 10),
    ok(b"y" * 200_000),
    ok(b"", status="204 No Content").replace(b"Content-Length: 0\r\n", b""),
    lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n"),
    lines("HTTP/1.1 103 Early Hints", "X: y") + ok(b"z"),
    lines("HTTP/1.1 200 OK", "Connection: close", body=b"until the end"),
    ok(b"x", "Connection: close"),
    ok(b"x") + b"surplus",
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
    b"garbage\r\n\r\n",
    b"",
]


async def misbehave(replica: Peer, dice: random.Random) -> None:
    with contextlib.closing(replica), contextlib.suppress(EOFError, ConnectionError, TimeoutError):
        while True:
            await replica.head()
            if dice.random() < 0.1:
                replica.reset()
                return
            answer = dice.choice(ANSWERS)
            cut = dice.randrange(len(answer) + 1) if dice.random() < 0.2 else len(answer)
            await replica.send(answer[:cut])
            if cut < len(answer) or dice.random() < 0.2 or answer is ANSWERS[5] or len(answer) == 0:
                return


async def one_client(talk: Conversation, dice: random.Random) -> None:
    client = await talk.client()
    with contextlib.suppress(EOFError, ConnectionError, TimeoutError):
        for _ in range(dice.randrange(1, 4)):
            requests = [
                get("/"),
                get("/", method="HEAD"),
                get("/", "Content-Length: 7", method="POST") + b"abc\r\n\r\n",
            ]
            await client.send(dice.choice(requests) * dice.choice([1, 1, 3]))
            if dice.random() < 0.2:
                break
            async with asyncio.timeout(0.2):
                await client.head()
    if dice.random() < 0.5:
        client.reset()
    else:
        client.close()


@pytest.mark.parametrize("seed", range(6))
async def test_chaos(talk: Conversation, seed: int) -> None:
    dice = random.Random(seed)
    origins = [await talk.origin(f"replica-{at}") for at in range(3)]

    async with asyncio.TaskGroup() as tasks:

        async def accept(at: int) -> None:
            while True:
                replica = await origins[at]._arrived.get()
                tasks.create_task(misbehave(replica, dice))

        acceptors = [tasks.create_task(accept(at)) for at in range(3)]
        for _ in range(8):
            talk.serve(
                *(o.endpoint() for o in dice.sample(origins, dice.randrange(4))), concurrency=dice.choice([0, 2])
            )
            async with asyncio.TaskGroup() as clients:
                for _ in range(15):
                    clients.create_task(one_client(talk, dice))
        await until(lambda: talk.edge.connections == 0, "every client's connection is gone")
        await until(lambda: talk.edge.loads() == {}, "every slot is free")
        talk.serve()
        for origin in origins:
            await origin.close()
        for acceptor in acceptors:
            acceptor.cancel()
    numbers = talk.edge.counters()["services"]["service-app.test"]
    assert sum(numbers["requests"].values()) == sum(numbers["duration"].values())
    assert all(count > 0 for count in numbers["requests"].values())
