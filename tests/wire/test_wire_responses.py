"""responses.toml: a replica's bytes in, a client's bytes out; whole and in pieces; and what the next request meets.

The next request is always asked for. Whatever stood behind the response must not be in its answer, which comes over the
same connection to the replica only if the case says so.
"""

from __future__ import annotations

import h11
import pytest
from corpus import HOST, ResponseCase, responses
from pieces import received, send, turns
from readers import messages, told
from wire import Conversation, Origin, Peer, Starter

NEXT = f"GET /next HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
NEXT_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nnext!"
NEXT_SEEN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n{date}{own}\r\nnext!"

RESPONSES = responses()


def test_sizes() -> None:
    assert len(RESPONSES) >= 60


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: case.name)
async def test_a_case(conversation: Starter, case: ResponseCase) -> None:
    for way in case.ways:
        got, following = await converse(await conversation(), case, way)
        method = case.request.split(b" ")[0]
        seen = b"".join(told(message) for message in messages(got, [method]))
        assert seen == case.client or (case.ends == "reset" and case.client.startswith(seen)), way
        assert following == NEXT_SEEN, way
        assert complete(got, method) is (case.ends in ("open", "closed")), way


async def converse(talk: Conversation, case: ResponseCase, way: str) -> tuple[bytes, bytes]:
    """What the client has got, and then in canonical form for another request."""
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(case.request)
    for _ in range(case.times):
        replica = await origin.peer()
        await asked(replica)
        for piece in case.origin:
            await send(replica, piece, way, case.name)
        if case.then == "fin":
            replica.close()
        elif case.then == "rst":
            await turns(50)
            replica.reset()
    if case.ends == "open":
        await client.send(NEXT)
        await answer_next(origin, replica, case.reuse)
        data = await client.through(b"next!")
        end = data.rindex(b"HTTP/1.1 ")
        return data[:end], b"".join(messages(data[end:], [b"GET"]))
    got = b""
    try:
        got = await client.rest()
        assert case.ends != "reset"
    except ConnectionError:
        assert case.ends == "reset"
        got = received(client)
    other = await talk.client()
    await other.send(NEXT)
    await answer_next(origin, replica, case.reuse)
    return got, b"".join(messages(await other.through(b"next!"), [b"GET"]))


async def asked(replica: Peer) -> None:
    """Read a request with its body, which has a known length or none."""
    head = (await replica.head()).lower()
    _, found, length = head.partition(b"\r\ncontent-length: ")
    if found:
        await replica.exactly(int(length.partition(b"\r\n")[0]))


async def answer_next(origin: Origin, replica: Peer, reuse: bool) -> None:
    following = replica if reuse else await origin.peer()
    assert (await following.head()).startswith(b"GET /next ")
    await following.send(NEXT_ANSWER)


def complete(data: bytes, method: bytes) -> bool:
    """Whether h11, as a client, takes `data` and then the end of the connection for a complete response."""
    peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    peer.send(h11.Request(method=method, target="/", headers=[("Host", HOST)]))
    peer.send(h11.EndOfMessage())
    peer.receive_data(data)
    peer.receive_data(b"")
    try:
        while True:
            event = peer.next_event()
            if isinstance(event, h11.EndOfMessage) or event is h11.PAUSED:
                return True
            if isinstance(event, h11.ConnectionClosed) or event is h11.NEED_DATA:
                return False
    except h11.RemoteProtocolError:
        return False
