"""WebSocket (RFC 6455) through the edge: whatever a client does, it sees what it would see at the echo server itself.

In the manner of the Autobahn test suite: every case runs twice, straight to an echo server (a process of its own, by
the `websockets` library) and through the edge, and what both ends saw must be equal. The frames are bytes of ours,
because a library refuses to send most of what is tried here.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websocket_frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Raw, close, frame, handshake
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol
from wire import Conversation, Starter, fields, get, lines, ok, until

from state.models import Endpoint

SIZES = [0, 1, 125, 126, 127, 65535, 65536, 1 << 20]


class Echo:
    """The echo server's process: its port, and what it said of each connection."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._said, self._heard = process.stdout, process.stdin
        self.port = int(self._said.readline())

    def forget(self) -> None:
        """Passes over what it said up to now: of connections that nobody asked about."""
        self._heard.write(b"forget\n")
        self._heard.flush()
        while self._said.readline() != b"forget\n":
            pass

    async def ended(self, path: str) -> dict[str, Any]:
        """What it saw of the connection to `path`, the next one that ends."""
        async with asyncio.timeout(30):
            told: dict[str, Any] = json.loads(await asyncio.to_thread(self._said.readline))
        assert told.pop("path") == path
        return told


@pytest.fixture(scope="module")
def server() -> Iterator[Echo]:
    program = str(Path(__file__).with_name("echo_server.py"))
    with subprocess.Popen([sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Echo(process)
        process.kill()


@pytest.fixture
def echo(server: Echo) -> Echo:
    server.forget()
    return server


@pytest.fixture
async def both(echo: Echo, conversation: Starter) -> Both:
    talk = await conversation()
    talk.serve(Endpoint("replica-1", "127.0.0.1", echo.port, True))
    return Both(echo, talk)


Case = Callable[[Raw], Awaitable[None]]


class Both:
    """The two ways to the echo server."""

    def __init__(self, echo: Echo, talk: Conversation) -> None:
        self.echo = echo
        self.talk = talk

    async def outcome(self, port: int, case: Case, path: str, early: bytes) -> tuple[list[object], dict[str, Any]]:
        """What the client and the server saw."""
        raw = await Raw.open(port, path, early)
        try:
            await case(raw)
            transcript = await raw.to_the_end()
        finally:
            raw.close()
        return transcript, await self.echo.ended(path)

    async def same(self, case: Case, path: str = "/", early: bytes = b"") -> tuple[list[object], dict[str, Any]]:
        """Run `case` both ways; what it is equal to."""
        alone = await self.outcome(self.echo.port, case, path, early)
        through = await self.outcome(self.talk.port, case, path, early)
        assert through == alone
        await until(lambda: self.talk.in_flight == 0)
        return alone


def sends(*pieces: bytes, then: bytes = b"") -> Case:
    """A client that sends these one after the other, and `then`, if anything, when an answer has come."""

    async def case(raw: Raw) -> None:
        for piece in pieces:
            await raw.send(piece)
        if then:
            await raw.frames(1)
            await raw.send(then)

    return case


def closed_with(transcript: list[object]) -> int | None:
    """The code in the Close frame that the client got, None if none was in it. Raises StopIteration without a frame."""
    size, payload = next(seen[4:] for seen in transcript if isinstance(seen, tuple) and seen[2] == CLOSE)
    return int.from_bytes(payload[:2], "big") if size else None


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
async def test_messages_of_all_sizes(both: Both, opcode: int) -> None:
    for size in SIZES:
        transcript, told = await both.same(sends(frame(opcode, b"*" * size), then=close()))
        assert transcript[0][:5] == (1, 0, opcode, 0, size)  # type: ignore[index]
        assert transcript[1:] == [(1, 0, CLOSE, 0, 2, b"\x03\xe8"), "end"]
        assert told == {"code": 1000, "reason": "", "messages": 1}


async def test_lengths_that_are_longer_than_needed(both: Both) -> None:
    for size, width in [(5, 2), (5, 8), (200, 8), (0, 2), (0, 8)]:
        await both.same(sends(frame(BINARY, b"*" * size, width=width), then=close()))


async def test_lengths_that_cannot_be(both: Both) -> None:
    async def case(raw: Raw) -> None:
        await raw.send(b"\x82\xff" + b"\xff" * 8 + b"mask")
        raw.half_close()

    await both.same(case)


async def test_ping_and_pong(both: Both) -> None:
    for size in (0, 1, 125):
        transcript, _ = await both.same(sends(frame(PING, b"p" * size), then=close()))
        assert transcript[0] == (1, 0, PONG, 0, size, b"p" * size)
    transcript, _ = await both.same(sends(*[frame(PING, b"%d" % n) for n in range(10)], close()))
    assert [seen[5] for seen in transcript[:10]] == [b"%d" % n for n in range(10)]  # type: ignore[index]
    await both.same(sends(frame(PONG), frame(PONG, b"unasked"), frame(TEXT, b"x"), then=close()))


async def test_control_frames_that_are_wrong(both: Both) -> None:
    for wrong in (
        frame(PING, b"p" * 126),
        frame(PONG, b"p" * 126),
        frame(PING, b"p", fin=False),
        frame(CLOSE, b"\x03\xe8", fin=False),
    ):
        await both.same(sends(wrong))
    await both.same(sends(frame(PING, b"p" * 125, width=2), then=close()))


FRAGMENTED = [
    [frame(TEXT, b"one ", fin=False), frame(CONTINUATION, b"two")],
    [frame(BINARY, b"\0", fin=False), frame(CONTINUATION, b"\1", fin=False), frame(CONTINUATION, b"\2")],
    [frame(TEXT, b"one ", fin=False), frame(PING, b"between"), frame(CONTINUATION, b"two")],
    [frame(TEXT, b"", fin=False), frame(CONTINUATION, b"", fin=False), frame(CONTINUATION, b"")],
    [frame(TEXT, b"x", fin=False), *[frame(CONTINUATION, b"y", fin=False)] * 98, frame(CONTINUATION, b"z")],
    [frame(BINARY, b"x" * 65536, fin=False), frame(PING), frame(CONTINUATION, b"x" * 65536)],
]


@pytest.mark.parametrize("pieces", FRAGMENTED)
async def test_fragments(both: Both, pieces: list[bytes]) -> None:
    pings = sum(piece[0] & 15 == PING for piece in pieces)

    async def case(raw: Raw) -> None:
        for piece in pieces:
            await raw.send(piece)
        await raw.frames(1 + pings)
        await raw.send(close())

    _, told = await both.same(case)
    assert told["messages"] == 1


async def test_a_close_between_fragments(both: Both) -> None:
    _, told = await both.same(sends(frame(TEXT, b"one ", fin=False), close(1001), frame(CONTINUATION, b"two")))
    assert told == {"code": 1001, "reason": "", "messages": 0}


async def test_fragments_that_are_wrong(both: Both) -> None:
    for wrong in (
        [frame(CONTINUATION, b"of nothing")],
        [frame(CONTINUATION, b"of nothing", fin=False)],
        [frame(TEXT, b"one", fin=False), frame(TEXT, b"two")],
        [frame(TEXT, b"one", fin=False), frame(BINARY, b"two", fin=False)],
    ):
        await both.same(sends(*wrong))
    await both.same(sends(frame(TEXT, b"one"), then=frame(CONTINUATION, b"two")))


async def test_frames_in_pieces_of_one_byte(both: Both) -> None:
    async def case(raw: Raw) -> None:
        for whole in (frame(TEXT, b"a message"), frame(PING, b"p")):
            for at in range(len(whole)):
                await raw.send(whole[at : at + 1])
            await raw.frames(1)
        await raw.send(close())

    _, told = await both.same(case)
    assert told["messages"] == 1


async def test_many_frames_in_one_piece(both: Both) -> None:
    async def case(raw: Raw) -> None:
        await raw.send(b"".join(frame(BINARY, b"%d" % number) for number in range(500)))
        await raw.frames(500)
        await raw.send(close())

    transcript, _ = await both.same(case)
    assert [seen[5] for seen in transcript[:500]] == [b"%d" % number for number in range(500)]  # type: ignore[index]


@pytest.mark.parametrize(
    "text",
    [
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5",
        b"\xf0\x9f\x98\x80",
        b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80edited",
        b"\xff",
        b"\xc0\xaf",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
        b"\x80",
    ],
)
async def test_utf_8_whole_and_split(both: Both, text: bytes) -> None:
    valid = text.decode("utf-8", "ignore").encode() == text
    for pieces in (
        [frame(TEXT, text)],
        [frame(TEXT, text[:1], fin=False), frame(CONTINUATION, text[1:])],
    ):
        transcript, _ = await both.same(sends(*pieces, then=close() if valid else b""))
        assert closed_with(transcript) == (1000 if valid else 1007)


@pytest.mark.parametrize("rsv", [1, 2, 3, 4, 5, 6, 7])
async def test_reserved_bits(both: Both, rsv: int) -> None:
    for opcode in (TEXT, BINARY, PING, CLOSE):
        transcript, _ = await both.same(sends(frame(opcode, b"", rsv=rsv)))
        assert closed_with(transcript) == 1002


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
async def test_reserved_opcodes(both: Both, opcode: int) -> None:
    for case in (sends(frame(opcode, b"x")), sends(frame(TEXT, b"x"), then=frame(opcode))):
        transcript, _ = await both.same(case)
        assert closed_with(transcript) == 1002


async def test_frames_without_a_mask(both: Both) -> None:
    for opcode in (TEXT, BINARY, PING, CLOSE):
        transcript, _ = await both.same(sends(frame(opcode, b"", masked=False)))
        assert closed_with(transcript) == 1002


CODES = [None, *range(999, 1017), 0, 1100, 2000, 2999, 3000, 3999, 4000, 4999, 5000, 65535]


async def test_every_close_code(both: Both) -> None:
    codes = {}
    for code in CODES:
        transcript, _ = await both.same(sends(close(code)))
        codes[code] = closed_with(transcript)
    assert codes[None] is None
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
        assert codes[code] == code
    for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000):
        assert codes[code] == 1002


async def test_close_with_a_reason(both: Both) -> None:
    _, told = await both.same(sends(close(3000, b"enough")))
    assert told == {"code": 3000, "reason": "enough", "messages": 0}
    await both.same(sends(close(1000, b"r" * 123)))
    await both.same(sends(close(1000, b"r" * 124)))
    await both.same(sends(close(1000, b"\xff")))
    await both.same(sends(frame(CLOSE, b"\x03")))


async def test_frames_behind_a_close(both: Both) -> None:
    for behind in (frame(TEXT, b"late"), frame(PING, b"late"), close(1001), b"no frame at all"):
        _, told = await both.same(sends(close() + behind))
        assert told == {"code": 1000, "reason": "", "messages": 0}


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 3000, 4999])
async def test_the_server_closes(both: Both, code: int) -> None:
    async def case(raw: Raw) -> None:
        await raw.frames(1)
        await raw.send(close(code))

    transcript, told = await both.same(case, f"/bye/{code}")
    assert transcript == [(1, 0, CLOSE, 0, 5, code.to_bytes(2, "big") + b"bye"), "end"]
    assert told["code"] == code


async def test_a_client_that_does_not_answer_a_close(both: Both) -> None:
    await both.same(sends(), "/bye/1000")


async def test_a_client_that_half_closes(both: Both) -> None:
    async def case(raw: Raw) -> None:
        await raw.send(frame(TEXT, b"x"))
        await raw.frames(1)
        raw.half_close()

    transcript, told = await both.same(case)
    assert transcript[-1] == "end"
    assert told == {"code": 1006, "reason": "", "messages": 1}


async def test_a_client_that_ends_inside_a_frame(both: Both) -> None:
    async def case(raw: Raw) -> None:
        await raw.send(frame(BINARY, b"x" * 1000)[:500])
        raw.half_close()

    _, told = await both.same(case)
    assert told == {"code": 1006, "reason": "", "messages": 0}


async def test_a_client_that_breaks_off(both: Both) -> None:
    """Its own end is no answer to compare; the server sees the same."""

    async def seen(port: int) -> dict[str, Any]:
        raw = await Raw.open(port, "/")
        await raw.send(frame(TEXT, b"x"))
        await raw.frames(1)
        raw.reset()
        return await both.echo.ended("/")

    assert await seen(both.talk.port) == await seen(both.echo.port)


async def test_a_server_that_breaks_off(both: Both) -> None:
    transcript, _ = await both.same(sends(frame(TEXT, b"x")), "/drop")
    assert transcript == ["end"]


async def test_early_bytes_of_either_side(both: Both) -> None:
    """Frames right behind the request that asks for the upgrade, and right behind the 101."""
    for path in ("/", "/greet"):

        async def case(raw: Raw, path: str = path) -> None:
            await raw.frames(2 if path == "/greet" else 1)
            await raw.send(close())

        transcript, told = await both.same(case, path, early=frame(TEXT, b"early"))
        assert (1, 0, TEXT, 0, 5, b"early") in transcript
        assert told["messages"] == 1


# With the library itself


@pytest.fixture
async def urls(both: Both) -> list[str]:
    """Straight, and through the edge."""
    return [f"ws://127.0.0.1:{both.echo.port}", f"ws://app.test:{both.talk.port}"]


def at(url: str, path: str = "/", **options: Any) -> connect:
    """A connect to `url`, whatever name is in it."""
    port = int(url.rpartition(":")[2])
    return connect(url + path, host="127.0.0.1", port=port, proxy=None, **options)


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_the_library_talks_compressed_or_not(both: Both, urls: list[str], compression: str | None) -> None:
    negotiated = []
    for url in urls:
        async with at(url, compression=compression, max_size=None) as client:
            assert client.response is not None
            negotiated.append(client.response.headers.get("Sec-WebSocket-Extensions"))
            for message in ["", "x" * 100_000, b"", bytes(range(256)) * 4096, "\u03ba\U0001f600"]:
                await client.send(message)
                assert await client.recv() == message
            await client.send(["in ", "three ", "parts"])
            assert await client.recv() == "in three parts"
            pong = await client.ping(b"here?")
            async with asyncio.timeout(30):
                await pong
        assert (await both.echo.ended("/"))["code"] == 1000
    assert negotiated[0] == negotiated[1]
    assert (negotiated[0] is None) is (compression is None)


@pytest.mark.parametrize(
    ("asked", "chosen"), [(None, None), (["chat.v1"], "chat.v1"), (["other", "chat.v2"], "chat.v2")]
)
async def test_subprotocols(both: Both, urls: list[str], asked: list[Subprotocol] | None, chosen: str | None) -> None:
    for url in urls:
        async with at(url, subprotocols=asked) as client:
            assert client.subprotocol == chosen
        await both.echo.ended("/")


async def test_a_refused_handshake_is_an_answer(both: Both, urls: list[str]) -> None:
    for url in urls:
        with pytest.raises(InvalidStatus) as refusal:
            await at(url, "/refuse")
        assert refusal.value.response.status_code == 403
        assert refusal.value.response.body == b"not for you\n"
    assert both.talk.count() == {"403": 1}


async def test_closing_from_the_server_as_the_library_sees_it(both: Both, urls: list[str]) -> None:
    seen = []
    for url in urls:
        async with at(url, "/bye/4001") as client:
            with pytest.raises(ConnectionClosed):
                await client.recv()
            seen.append((client.close_code, client.close_reason))
        await both.echo.ended("/bye/4001")
    assert seen == [(4001, "bye")] * 2


async def test_a_hundred_tunnels_at_once(both: Both, urls: list[str]) -> None:
    async def one(number: int) -> None:
        async with at(urls[1]) as client:
            for turn in range(5):
                await client.send(f"{number} {turn}")
                assert await client.recv() == f"{number} {turn}"

    await asyncio.gather(*(one(number) for number in range(100)))
    assert both.talk.count() == {"101": 100}
    for _ in range(100):
        assert (await both.echo.ended("/"))["messages"] == 5


# What is no WebSocket


UPGRADED = lines("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: websocket")


@pytest.mark.parametrize("protocol", ["h2c", "TLS/1.0", "foo", "websocket, h2c", "h2c, websocket", "websocket/13", ""])
async def test_other_protocols_are_asked_for_in_vain(talk: Conversation, protocol: str) -> None:
    """The request goes on without its Upgrade; and no 101 is believed then."""
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(
        get("/", "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABk")
    )
    replica = await origin.peer()
    seen = fields(await replica.head())
    assert b"upgrade" not in seen
    assert b"http2-settings" not in seen
    assert b"upgrade" not in b",".join(seen.get(b"connection", []))
    await replica.send(UPGRADED)
    assert (await client.head()).startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize(
    "framing", [("Content-Length: 3", b"abc"), ("Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n")]
)
async def test_a_request_with_a_body_is_no_upgrade(talk: Conversation, framing: tuple[str, bytes]) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    line, body = framing
    await client.send(get("/", "Connection: Upgrade", "Upgrade: websocket", line, method="POST") + body)
    replica = await origin.peer()
    assert b"upgrade" not in fields(await replica.head())
    await replica.through(b"abc")
    await replica.send(ok(b"as ever"))
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    await client.expect(b"as ever")


async def test_without_connection_upgrade_or_in_http_1_0_it_is_none(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    for request in (
        get("/", "Upgrade: websocket"),
        lines("GET / HTTP/1.0", "Host: app.test", "Connection: Upgrade", "Upgrade: websocket"),
    ):
        client = await talk.client()
        await client.send(request)
        replica = await origin.peer()
        assert b"upgrade" not in fields(await replica.head())
        await replica.send(UPGRADED)
        assert b" 502 " in await client.head()


@pytest.mark.parametrize("other", ["h2c", "websocket2", ""])
async def test_a_101_to_something_else_is_502(talk: Conversation, other: str) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(handshake("/"))
    replica = await origin.peer()
    await replica.head()
    await replica.send(lines("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", f"Upgrade: {other}"))
    assert (await client.head()).startswith(b"HTTP/1.1 502 ")
    await replica.closed()


@pytest.mark.parametrize("status", ["200 OK", "403 Forbidden", "404 Not Found", "503 Service Unavailable"])
async def test_a_refusal_leaves_the_connection_usable(talk: Conversation, status: str) -> None:
    """And what came early belongs to the next request then."""
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(handshake("/") + get("/next"))
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok(b"no", status=status))
    assert (await client.head()).startswith(f"HTTP/1.1 {status[:3]} ".encode())
    await client.expect(b"no")
    assert (await replica.head()).startswith(b"GET /next ")
    await replica.send(ok(b"yes"))
    await client.head()
    await client.expect(b"yes")


# Events


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "X-Framing: end of connection"])
@pytest.mark.parametrize("held", [False, True], ids=["warm", "held"])
async def test_each_event_passes_at_once(talk: Conversation, framing: str, held: bool) -> None:
    """An event is written only when the one before it has arrived."""
    origin = await talk.origin()
    talk.serve(*([] if held else [origin.endpoint()]))
    client = await talk.client()
    await client.send(get("/events", "Accept: text/event-stream"))
    if held:
        await until(lambda: talk.held == 1)
        talk.serve(origin.endpoint())
    replica = await origin.peer()
    await replica.head()
    await replica.send(lines("HTTP/1.1 200 OK", "Content-Type: text/event-stream", framing))
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 200 ")
    assert (b"\r\nServer-Timing: wake;dur=" in head) is held
    for number in range(20):
        event = b"data: %d\n\n" % number
        coded = b"%x\r\n%b\r\n" % (len(event), event)
        await replica.send(coded if "chunked" in framing else event)
        await client.expect(coded)
    if "chunked" in framing:
        await replica.send(b"0\r\n\r\n")
    else:
        replica.close()
    await client.expect(b"0\r\n\r\n")


async def test_events_pass_at_once_to_an_http_1_0_client(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(lines("GET /events HTTP/1.0", "Host: app.test"))
    replica = await origin.peer()
    await replica.head()
    await replica.send(lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"))
    await client.head()
    for number in range(5):
        await replica.send(b"3\r\n%d\n\n\r\n" % number)
        await client.expect(b"%d\n\n" % number)
    await replica.send(b"0\r\n\r\n")
    await client.closed()
