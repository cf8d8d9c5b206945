"""Ejection in bytes: which failures count, what the others get meanwhile, probation; nobody is refused for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from wire import Conversation, Origin, Peer, Starter, get, lines, ok, until

from gateway.health import DOWN, EJECTED, GOOD, IN_A_ROW
from gateway.replica import Replica

Answer = Callable[[Peer], Awaitable[None]]


async def answer_well(replica: Peer) -> None:
    await replica.send(ok(b"", "Connection: close"))


async def answer_500(replica: Peer) -> None:
    await replica.send(ok(b"", "Connection: close", status="500 Internal Server Error"))


async def answer_503(replica: Peer) -> None:
    await replica.send(ok(b"", "Connection: close", status="503 Service Unavailable"))


async def close(replica: Peer) -> None:
    replica.close()


async def reset(replica: Peer) -> None:
    replica.reset()


async def half_a_head(replica: Peer) -> None:
    await replica.send(b"HTTP/1.1 200 OK\r\nContent-")
    replica.close()


async def nonsense(replica: Peer) -> None:
    await replica.send(b"SSH-2.0-OpenSSH\r\n\r\n")


async def silence(replica: Peer) -> None:
    """Until the gateway has had enough of it."""
    await replica.closed()


class Replies:
    """What a replica does with every request, to be changed at any time."""

    def __init__(self, origin: Origin, answer: Answer) -> None:
        self.origin = origin
        self.answer = answer
        self.requests = 0

    async def serve(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task(self.converse(await self.origin.peer()))

    async def converse(self, replica: Peer) -> None:
        await replica.head()
        self.requests += 1
        await self.answer(replica)


@asynccontextmanager
async def serving(*replies: Replies) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one.serve()) for one in replies]
        yield
        for task in running:
            task.cancel()


async def ask(talk: Conversation, request: bytes = b"") -> int:
    """The status of one request over a connection of its own."""
    client = await talk.client()
    await client.send(request or get())
    status = int((await client.head())[9:12])
    client.close()
    return status


async def begin(talk: Conversation, request: bytes) -> Peer:
    """A request that is in flight, held or over when this returns."""
    before = known(talk)
    client = await talk.client()
    await client.send(request)
    await until(lambda: known(talk) > before)
    return client


def known(talk: Conversation) -> int:
    return sum(talk.count().values()) + talk.in_flight + talk.held


def replica_of(talk: Conversation, origin: Origin) -> Replica:
    return talk.edge._table.services["service-app.test"].replicas[origin.id]


def ejections(talk: Conversation) -> int:
    count: int = talk.edge.counters()["services"]["service-app.test"]["ejections"]
    return count


async def two(talk: Conversation, bad: Answer, good: Answer = answer_well) -> tuple[Replies, Replies]:
    failing, well = Replies(await talk.origin("bad"), bad), Replies(await talk.origin("good"), good)
    talk.serve(failing.origin.endpoint(), well.origin.endpoint())
    await ask_unserved(talk)
    return failing, well


async def ask_unserved(talk: Conversation) -> None:
    """Have the worker build the service, without a request to a replica."""
    assert await ask(talk, get("/", "Max-Forwards: 0", method="OPTIONS")) == 200


POST = get("/", "Content-Length: 0", method="POST")


async def until_ejected(talk: Conversation, failing: Replies) -> int:
    """How many requests that took."""
    asked = 0
    while replica_of(talk, failing.origin).health != EJECTED:
        assert asked < 60
        await ask(talk, POST)
        asked += 1
    return asked


@pytest.mark.parametrize("failure", [close, reset, half_a_head, nonsense])
async def test_five_failures_in_a_row_eject(talk: Conversation, failure: Answer) -> None:
    failing, well = await two(talk, failure)
    async with serving(failing, well):
        await until_ejected(talk, failing)
        assert failing.requests == IN_A_ROW
        replica_of(talk, failing.origin).until += 3600.0  # so that the rest doesn't depend on this machine's speed
        for _ in range(20):
            assert await ask(talk, POST) == 200
        assert failing.requests == IN_A_ROW
        assert ejections(talk) == 1


async def test_no_head_in_time_is_a_failure_too(conversation: Starter) -> None:
    talk = await conversation(response_timeout=0.3)
    failing, well = await two(talk, silence)
    async with serving(failing, well):
        while failing.requests < IN_A_ROW:
            statuses = await asyncio.gather(*[ask(talk, POST) for _ in range(8)])
            assert set(statuses) <= {200, 504}
        await until(lambda: talk.in_flight == 0)
        assert replica_of(talk, failing.origin).health == EJECTED


@pytest.mark.parametrize("failure", [answer_500, answer_503])
async def test_what_the_application_answers_is_no_failure(talk: Conversation, failure: Answer) -> None:
    """A client with a bad request can't take a replica from the others."""
    failing, well = await two(talk, failure)
    async with serving(failing, well):
        while failing.requests < 3 * IN_A_ROW:
            await ask(talk, POST)
        assert replica_of(talk, failing.origin).health == GOOD
        assert ejections(talk) == 0


async def test_a_client_that_owes_its_body_ejects_nobody(talk: Conversation) -> None:
    """Replicas rightly give up on it."""
    origins = [await talk.origin(f"replica-{n}") for n in (1, 2)]
    replies = [Replies(origin, close) for origin in origins]
    async with serving(*replies):
        talk.serve(*(origin.endpoint() for origin in origins))
        asked = 0
        while min(one.requests for one in replies) <= IN_A_ROW:
            asked += 1
            assert asked < 200
            client = await talk.client()
            await client.send(get("/", "Content-Length: 100", method="POST") + b"x")
            assert b" 502 " in await client.head()
            client.close()
    assert all(replica.health == GOOD for replica in talk.edge._table.services["service-app.test"].ready)


async def test_an_answer_between_failures_begins_the_count_anew(talk: Conversation) -> None:
    failing, well = await two(talk, close)
    async with serving(failing, well):
        for _ in range(3):
            while replica_of(talk, failing.origin).failures < IN_A_ROW - 1:
                await ask(talk, POST)
            failing.answer = answer_well
            while replica_of(talk, failing.origin).failures:
                await ask(talk, POST)
            failing.answer = close
        assert ejections(talk) == 0


async def test_one_on_probation_lets_it_back_with_a_slow_start(talk: Conversation) -> None:
    failing, well = await two(talk, close)
    async with serving(failing, well):
        await until_ejected(talk, failing)
        replica = replica_of(talk, failing.origin)
        failing.answer = answer_well
        while replica.health == EJECTED:
            assert await ask(talk) == 200
        assert failing.requests == IN_A_ROW + 1
        assert replica.warm_at > replica.returned
        for _ in range(20):
            assert await ask(talk) == 200
        assert failing.requests < IN_A_ROW + 15, "a tenth of its half"


async def test_exactly_one_is_on_probation_and_one_that_fails_makes_it_longer(talk: Conversation) -> None:
    failing, well = await two(talk, close)
    async with serving(failing, well):
        await until_ejected(talk, failing)
        replica = replica_of(talk, failing.origin)
        failing.answer = silence
        trial = await begin(talk, get())
        while replica.probe is None:
            await trial.head()
            trial = await begin(talk, get())
        await until(lambda: failing.requests == IN_A_ROW + 1)
        for _ in range(20):
            assert await ask(talk) == 200
        assert failing.requests == IN_A_ROW + 1
        trial.close()  # it says nothing, and the next may try
        await until(lambda: talk.in_flight == 0)
        assert (replica.health, replica.probe) == (EJECTED, None)
        failing.answer = close
        doublings = replica.doublings
        while replica.doublings == doublings:
            assert await ask(talk) == 200, "sent again to the other"
        assert failing.requests == IN_A_ROW + 2
        assert ejections(talk) == 2


async def test_the_only_replica_is_never_ejected(talk: Conversation) -> None:
    only = Replies(await talk.origin(), close)
    talk.serve(only.origin.endpoint())
    async with serving(only):
        for _ in range(3 * IN_A_ROW):
            assert await ask(talk, POST) == 502
        only.answer = answer_well
        assert await ask(talk, POST) == 200
        assert ejections(talk) == 0


async def test_all_fail_and_all_are_tried(talk: Conversation) -> None:
    """At most half are out; and when those that are left leave, the ejected ones serve rather than nobody."""
    replies = [Replies(await talk.origin(f"r{at}"), close) for at in range(4)]
    talk.serve(*[one.origin.endpoint() for one in replies])
    await ask_unserved(talk)
    async with serving(*replies):
        for _ in range(200):
            assert await ask(talk, POST) == 502, "never 503, never held"
            out = [one for one in replies if replica_of(talk, one.origin).health == EJECTED]
            assert len(out) <= 2
        assert out
        for one in out:
            one.answer = answer_well
            replica_of(talk, one.origin).until += 3600.0
        talk.serve(*[one.origin.endpoint() for one in out])
        assert [await ask(talk, POST) for _ in range(4)] == [200] * 4
        replica = replica_of(talk, out[0].origin)
        assert GOOD in [replica_of(talk, one.origin).health for one in out], "one of them was on probation"
        assert replica.probe is None


async def test_held_ones_go_to_the_ejected_when_nobody_else_is_left(talk: Conversation) -> None:
    failing, well = await two(talk, close)
    async with serving(failing, well):
        await until_ejected(talk, failing)
        replica_of(talk, failing.origin).until += 3600.0
        failing.answer, well.answer = answer_well, silence
        talk.serve(failing.origin.endpoint(), well.origin.endpoint(), concurrency=1)
        busy = await begin(talk, POST)
        waiting = await begin(talk, POST)
        assert (talk.in_flight, talk.held) == (1, 1)
        talk.serve(failing.origin.endpoint(), well.origin.endpoint(ready=False), concurrency=1)
        assert (await waiting.head()).startswith(b"HTTP/1.1 200 ")
        busy.close()
        await until(lambda: talk.in_flight == 0)


async def test_a_replica_that_is_down_comes_back_with_its_first_connect(talk: Conversation) -> None:
    """However busy it still is with what it had before."""
    failing, well = await two(talk, silence, silence)
    async with serving(failing, well):
        old = [await begin(talk, POST), await begin(talk, POST)]
        await until(lambda: (failing.requests, well.requests) == (1, 1))
        well.answer = answer_well
        port = failing.origin.port
        await failing.origin.stop()
        replica = replica_of(talk, failing.origin)
        while replica.health != DOWN:
            assert await ask(talk, POST) == 200
        failing.answer = answer_well
        await failing.origin.start()
        assert failing.origin.port == port
        while replica.health != GOOD:
            assert await ask(talk, POST) == 200
        for client in old:
            client.close()
        await until(lambda: talk.in_flight == 0)


async def test_a_head_that_comes_is_an_answer_whatever_follows(talk: Conversation) -> None:
    async def cut(replica: Peer) -> None:
        await replica.send(lines("HTTP/1.1 200 OK", "Content-Length: 5", body=b"ab"))
        replica.close()

    failing, well = await two(talk, cut)
    async with serving(failing, well):
        while failing.requests < 2 * IN_A_ROW:
            await ask(talk, POST)
        await until(lambda: talk.in_flight == 0)
        assert ejections(talk) == 0


async def test_what_is_tried_is_the_replica_not_a_kept_connection(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get())
    kept = await origin.peer()
    await kept.head()
    await kept.send(ok())
    await client.head()
    for out in (Replica.unreached, eject):
        out(replica_of(talk, origin), time.monotonic() - 1.0)
        await client.send(get())
        replica = await origin.peer()
        await replica.head()
        await replica.send(ok(b"", "Connection: close"))
        await client.head()
        assert replica_of(talk, origin).health == GOOD
    await client.send(get("/kept"))
    assert (await kept.head()).startswith(b"GET /kept ")
    await kept.send(ok())
    await client.head()


def eject(replica: Replica, now: float) -> None:
    for _ in range(IN_A_ROW):
        replica.failed(now, True, False)
