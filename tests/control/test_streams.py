"""Following logs and events over HTTP: what is sent, how it ends, how it resumes, and what bounds it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from activator.logs import LogLimits, Stream
from control import connection as connection_module
from control.limits.shares import Bounds
from control.streaming import sending as sending_module
from control.streaming import streams as streams_module
from state.ids import now_us
from state.kinds import Kind
from state.models import Event
from state.store import Change

LOGS = "/acme/service/api/logs?follow=true"
EVENTS = "/acme/service/api/events?follow=true"


@dataclass
class Following:
    """One client of a stream, reading as it comes."""

    response: aiohttp.ClientResponse
    kinds: list[str] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    last_id: str = ""

    async def message(self) -> Any:
        """The data of the next message. Raises EOFError at the end of the stream."""
        kind, data = "message", None
        async with asyncio.timeout(30):
            while line := (await self.response.content.readline()).decode():
                name, _, value = line.rstrip("\n").partition(": ")
                if line == "\n":
                    if data is not None:
                        self.kinds.append(kind)
                        return json.loads(data)
                    kind = "message"
                elif name == "data":
                    data = value
                elif name == "id":
                    self.last_id = value
                elif name == "event":
                    kind = value
                elif line.startswith(":"):
                    self.comments.append(line)
        raise EOFError

    async def lines(self, count: int) -> list[str]:
        return [(await self.message())["line"] for _ in range(count)]


@contextlib.asynccontextmanager
async def follow(rig: Any, path: str, last_id: str | None = None, token: str | None = None) -> AsyncIterator[Following]:
    headers = {"Authorization": f"Bearer {token or rig.token}"} | ({"Last-Event-ID": last_id} if last_id else {})
    async with rig.api.session.get(rig.url + path, headers=headers, timeout=None) as response:
        assert response.status == 200, await response.text()
        yield Following(response)


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def test_the_newest_lines_and_then_each_as_it_comes(rig):
    service = (await rig.create("api")).json["id"]
    rig.logs.append(service, "d1", [f"line {n}" for n in range(5)])
    async with follow(rig, LOGS + "&limit=2") as client:
        head = client.response.headers
        assert (head["Content-Type"], head["Cache-Control"]) == ("text/event-stream", "no-store")
        assert len(head["X-Request-Id"]) == 32
        assert await client.lines(2) == ["line 3", "line 4"]
        rig.logs.append(service, "d1", ["line 5"])
        assert (await client.message())["stream"] == "build"
        await asyncio.to_thread(rig.logs.append, service, "d1", ["line 6", "line 7"], Stream.STDOUT)
        assert await client.lines(2) == ["line 6", "line 7"]
        page = (await rig.api("GET", "/acme/service/api/logs")).json
        assert client.last_id == page["next"]
    await until(lambda: rig.streams.count == 0)
    assert len(rig.streams.feeds) == 0
    assert rig.logs._watchers == {}


async def test_filters_and_since_hold_for_what_comes_too(rig):
    service = (await rig.create("api")).json["id"]
    rig.logs.append(service, "d1", ["old"])
    last = (await rig.api("GET", "/acme/service/api/logs")).json["items"][-1]["time"]
    rig.logs.append(service, "d1", ["one"])
    async with follow(rig, f"{LOGS}&since={last}&deployment=d1&stream=build") as client:
        assert await client.lines(1) == ["one"]
        rig.logs.append(service, "d2", ["of another"])
        rig.logs.append(service, "d1", ["of another stream"], Stream.STDERR)
        rig.logs.append(service, "d1", ["two"])
        assert await client.lines(1) == ["two"]


async def test_a_stream_resumes_where_it_was_cut(rig):
    service = (await rig.create("api")).json["id"]
    seen: list[str] = []
    last_id = None
    for batch in range(6):
        rig.logs.append(service, "d", [f"{batch} {n}" for n in range(20)])
        async with follow(rig, LOGS + "&limit=1000", last_id) as client:
            seen += await client.lines(13)
            last_id = client.last_id
    async with follow(rig, LOGS, last_id) as client:
        seen += await client.lines(120 - len(seen))
    assert seen == [f"{batch} {n}" for batch in range(6) for n in range(20)]


async def test_many_who_follow_through_a_flood_see_every_line_once(rig):
    """Also those that are further behind than what is in memory, and across segments."""
    rig.logs.limits = LogLimits(segment=100_000)
    service = (await rig.create("api")).json["id"]
    total = 2100
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(follow(rig, f"{LOGS}&cursor=0")) for _ in range(4)]
        reading = [asyncio.create_task(client.lines(total)) for client in clients]
        for start in range(0, total, 300):
            lines = [f"{n} {'x' * 60}" for n in range(start, start + 300)]
            await asyncio.to_thread(rig.logs.append, service, "d", lines)
        expected = [f"{n} {'x' * 60}" for n in range(total)]
        for found in await asyncio.gather(*reading):
            assert found == expected
        assert len(rig.streams.feeds) == 1


async def test_lines_that_are_not_kept_any_more_are_a_gap(rig):
    service = (await rig.create("api")).json["id"]
    rig.logs.limits = LogLimits(segment=2000, total=8000)
    rig.logs.append(service, "d", ["first"])
    place = (await rig.api("GET", "/acme/service/api/logs")).json["next"]
    for n in range(300):
        rig.logs.append(service, "d", [f"line {n}"])
    left = (await rig.api("GET", "/acme/service/api/logs?limit=1000")).json["items"]
    async with follow(rig, LOGS, place) as client:
        assert "not kept" in (await client.message())["reason"]
        assert client.kinds == ["gap"]
        assert await client.lines(len(left)) == [line["line"] for line in left]
    page = (await rig.api("GET", f"/acme/service/api/logs?cursor={place}")).json
    assert (page["truncated"], page["items"][0]) == (True, left[0])


async def test_the_end_of_a_service_ends_its_streams(rig, monkeypatch):
    monkeypatch.setattr(streams_module, "LOOK", 0.1)
    monkeypatch.setattr(streams_module, "_LAST_WORDS", 0.5)
    service = (await rig.create("api")).json["id"]
    async with follow(rig, LOGS) as logs, follow(rig, EVENTS) as events:
        assert (await events.message())["kind"] == "service.created"
        await rig.delete("api")
        assert (await events.message())["kind"] == "service.deleted"
        record = await rig.store.get(Kind.SERVICE, service)
        await rig.store.commit([Change(Kind.SERVICE, service, None, record.version)])  # as the activator does at last
        rig.logs.append(service, "d", ["last words"])
        assert await logs.lines(1) == ["last words"]
        for client in (logs, events):
            assert await client.message() == {"reason": "the service was deleted"}
            assert client.kinds[-1] == "end"
            with pytest.raises(EOFError):
                await client.message()
    async with follow(rig, f"/acme/service/{service}/logs?follow=true") as gone:
        assert await gone.lines(1) == ["last words"]
        assert await gone.message() == {"reason": "the service was deleted"}


async def test_events_are_followed_and_resumed(rig, neighbour):
    service = (await rig.create("api")).json["id"]
    async with follow(rig, EVENTS) as here, follow(neighbour, EVENTS + "&kind=replica") as there:
        assert (await here.message())["kind"] == "service.created"
        await rig.store.append_event(service, Event(now_us(), "deployment.built", "commit abc", deployment="d1"))
        await neighbour.store.append_event(service, Event(now_us(), "replica.ready", "it is healthy", replica="r1"))
        assert (await here.message())["reason"] == "commit abc"
        place = here.last_id
        assert (await here.message())["replica"] == "r1"
        assert (await there.message())["kind"] == "replica.ready"
    async with follow(rig, EVENTS, place) as again:
        assert (await again.message())["kind"] == "replica.ready"
        assert (await rig.api("GET", "/acme/service/api/events")).json["next"] == again.last_id


async def test_events_outlive_the_store_and_so_does_who_follows_them(rig, valkey):
    service = (await rig.create("api")).json["id"]
    async with follow(rig, EVENTS) as client:
        assert (await client.message())["kind"] == "service.created"
        valkey.kill()
        valkey.start()
        for attempt in range(100):
            with contextlib.suppress(Exception):
                await rig.store.append_event(service, Event(1, "service.woke", "a request is waiting"))
                break
            await asyncio.sleep(0.05 * (attempt > 0))
        assert (await client.message())["kind"] == "service.woke"


async def test_lists_of_events(rig):
    service = (await rig.create("api")).json["id"]
    start = now_us()
    for n in range(30):
        kind = "replica.ready" if n % 3 else "deployment.active"
        await rig.store.append_event(service, Event(start + n, kind, f"{n}", deployment="d1", replica=f"r{n % 2}"))

    async def reasons(query: str) -> list[str]:
        answer = await rig.api("GET", f"/acme/service/api/events?{query}")
        assert answer.status == 200, answer.text
        return [item["reason"] for item in answer.json["items"]]

    assert await reasons("limit=2") == ["28", "29"]
    assert await reasons("limit=2&kind=deployment") == ["24", "27"]
    assert await reasons("kind=deployment.active&replica=r1") == ["3", "9", "15", "21", "27"]
    assert await reasons("kind=deploy") == []
    listed = (await rig.api("GET", "/acme/service/api/events?limit=30")).json
    assert listed["truncated"] is True
    assert (await rig.api("GET", "/acme/service/api/events")).json["truncated"] is False
    tenth = listed["items"][10]["time"]
    assert await reasons(f"since={tenth}&limit=100") == [str(n) for n in range(11, 30)]
    assert await reasons(f"until={tenth}&kind=replica") == [str(n) for n in range(11) if n % 3]
    seen, place = [], "0"
    while items := (page := (await rig.api("GET", f"/acme/service/api/events?cursor={place}&limit=7")).json)["items"]:
        seen += [item["reason"] for item in items]
        place = page["next"]
    assert seen[1:] == [str(n) for n in range(30)]
    assert place == listed["next"]
    later = (await rig.api("GET", f"/acme/service/api/events?cursor={place}&kind=none")).json
    assert (later["items"], later["next"]) == ([], place)


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("logs?limit=5&lines=5&tail=x&z=1&until=no", {"lines", "tail", "z", "until"}, 400),
        ("logs?follow=maybe&cursor=-1&stream=x", {"follow", "cursor", "stream"}, 400),
        ("logs?follow=true&until=2026-03-18T12:00:00Z", {"until"}, 422),
        ("events?follow=true&until=2026-03-18T12:00:00Z", {"until"}, 422),
        ("events?since=x&limit=0&cursor=a", {"since", "limit", "cursor"}, 400),
    ],
)
async def test_bad_parameters_are_named_together(rig, path, fields, status):
    await rig.create("api")
    answer = await rig.api("GET", f"/acme/service/api/{path}")
    assert (answer.status, answer.fields) == (status, fields)


@pytest.mark.parametrize("last_id", ["x", "-1", "1" * 19, "1.0"])
async def test_an_id_of_no_stream_is_named(rig, last_id):
    await rig.create("api")
    answer = await rig.api("GET", LOGS, headers={"Last-Event-ID": last_id})
    assert (answer.status, answer.fields) == (400, {"Last-Event-ID"})
    assert (await rig.api("GET", EVENTS, headers={"Last-Event-ID": last_id})).status == 400


async def test_who_may_not_read_may_not_follow(rig):
    await rig.create("api")
    assert (await rig.api("GET", LOGS, token="")).status == 401
    assert (await rig.api("GET", LOGS, token=await rig.key("other", "other", "admin"))).status == 403
    assert (await rig.api("GET", "/acme/service/none/logs?follow=true")).status == 404
    answer = await rig.api("HEAD", LOGS)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")


async def test_a_stream_ends_with_its_key(rig, monkeypatch):
    monkeypatch.setattr(streams_module, "LOOK", 0.1)
    monkeypatch.setattr(streams_module, "HEARTBEAT", 0.1)
    await rig.create("api")
    token = await rig.key("reader", "acme", "read")
    async with follow(rig, LOGS, token=token) as client:
        await until(lambda: rig.streams.count == 1)
        assert (await rig.api("DELETE", "/auth/v1/keys/reader?namespace=acme")).status == 204
        with pytest.raises(EOFError):
            await client.message()


async def test_signs_of_life(rig, monkeypatch):
    monkeypatch.setattr(streams_module, "HEARTBEAT", 0.05)
    monkeypatch.setattr(streams_module, "LOOK", 0.02)
    await rig.create("api")
    async with follow(rig, LOGS) as client:
        reading = asyncio.create_task(client.message())
        await until(lambda: len(client.comments) >= 3)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def test_a_stop_ends_streams_within_the_grace(rig):
    await rig.create("api")
    async with follow(rig, LOGS) as client, follow(rig, EVENTS) as other:
        await other.message()
        began = asyncio.get_running_loop().time()
        await rig.server.stop()
        assert asyncio.get_running_loop().time() - began < 0.9  # the grace is 1 s: it was not waited for
        for one in (client, other):
            with pytest.raises(EOFError):
                await one.message()


async def test_only_so_many_streams_of_one_key(rig):
    await rig.create("api")
    rig.streams.places.bounds = Bounds(key=2, namespace=2, node=3)
    key = await rig.key("reader", "acme", "read")
    async with follow(rig, LOGS), follow(rig, EVENTS):
        await until(lambda: rig.streams.count == 2)
        answer = await rig.api("GET", LOGS)
        assert (answer.status, answer.headers["Retry-After"]) == (429, "5")
        assert "share of streams" in answer.json["detail"]
        async with follow(rig, LOGS, token=key):
            await until(lambda: rig.streams.count == 3)
            full = await rig.api("GET", LOGS, token=key)
            assert (full.status, "too many streams" in full.json["detail"]) == (503, True)
    await until(lambda: rig.streams.count == 0)
    assert rig.streams.places.refused == 2
    async with follow(rig, LOGS):
        pass


async def test_who_takes_nothing_is_cut_and_counted(rig, monkeypatch):
    monkeypatch.setattr(streams_module, "STALL", 0.3)
    service = (await rig.create("api")).json["id"]
    host, port = rig.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(f"GET {LOGS}&cursor=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {rig.token}\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    line = "x" * 16_000
    for _ in range(60):
        await asyncio.to_thread(rig.logs.append, service, "d", [line] * 20)
    await until(lambda: rig.streams.dropped == 1)
    await until(lambda: rig.streams.count == 0)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_client_that_leaves_is_noticed_at_once(rig, monkeypatch):
    monkeypatch.setattr(streams_module, "LOOK", 60)
    await rig.create("api")
    async with follow(rig, LOGS) as client:
        await until(lambda: rig.streams.count == 1)
        client.response.close()
        await until(lambda: rig.streams.count == 0)


async def test_pages_after_a_cursor_are_those_that_follow_it_however_many_there_are(rig):
    service = (await rig.create("api")).json["id"]
    rig.logs.append(service, None, ["first"])
    place = (await rig.api("GET", "/acme/service/api/logs")).json["next"]
    for start in range(0, 12_000, 3000):
        rig.logs.append(service, None, [f"{n}" for n in range(start, start + 3000)])
    seen = []
    for _ in range(3):
        page = (await rig.api("GET", f"/acme/service/api/logs?limit=5000&cursor={place}")).json
        place = page["next"]
        seen += [item["line"] for item in page["items"]]
    assert seen == [str(n) for n in range(12_000)]
    assert page["truncated"] is False


async def test_a_long_line_says_that_it_goes_on_and_odd_bytes_are_told(rig):
    service = (await rig.create("api")).json["id"]
    rig.logs.append(service, "d", ["x" * 20_000, "a\0b\x1b[31m\u2028"])
    first, second, third = (await rig.api("GET", "/acme/service/api/logs")).json["items"]
    assert (len(first["line"]), first["partial"], "partial" in second) == (16_384, True, False)
    assert first["line"] + second["line"] == "x" * 20_000
    assert third["line"] == "a\0b\x1b[31m\u2028"
    async with follow(rig, LOGS + "&limit=1") as client:
        assert await client.lines(1) == ["a\0b\x1b[31m\u2028"]


async def test_large_answers_are_bounded_and_who_takes_nothing_is_cut(rig, monkeypatch):
    monkeypatch.setattr(sending_module, "STALL", 0.5)
    service = (await rig.create("api")).json["id"]
    for _ in range(10):
        await asyncio.to_thread(rig.logs.append, service, "d", ["x" * 16_000] * 50)
    path = "/acme/service/api/logs?limit=500"
    whole = await rig.api("GET", path)
    assert (len(whole.json["items"]), whole.headers["Content-Type"]) == (500, "application/json; charset=utf-8")
    assert int((await rig.api("HEAD", path)).headers["Content-Length"]) == len(whole.text.encode())
    host, port = rig.url.removeprefix("http://").split(":")
    sending = rig.streams.sending
    sending.bytes.bounds = Bounds(key=9_000_000, namespace=9_000_000, node=9_000_000)
    _, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {rig.token}\r\n\r\n".encode())
    await until(lambda: sending.bytes.total > 0)
    answer = await rig.api("GET", path)
    assert (answer.status, answer.headers["Retry-After"], sending.refused) == (429, "1", 1)
    assert (await rig.api("GET", "/acme/service/api/logs?limit=5")).status == 200
    await until(lambda: sending.cut == 1)
    assert sending.bytes.total == 0
    assert (await rig.api("GET", path)).status == 200
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_revoked_key_ends_its_streams_at_once(rig, neighbour):
    """Those of the other node, too; none of them waits for its next sign of life."""
    await rig.create("api")
    token = await rig.key("reader", "acme", "read")
    await neighbour.mirror.reached(await rig.store.revision())
    async with (
        follow(rig, LOGS, token=token) as here,
        follow(neighbour, EVENTS + "&since=2999-01-01T00:00:00Z", token=token) as there,
        follow(rig, LOGS),
    ):
        await until(lambda: rig.streams.count == 2)
        assert (await rig.api("DELETE", "/auth/v1/keys/reader?namespace=acme")).status == 204
        for client in (here, there):
            with pytest.raises(EOFError):
                await client.message()
        await until(lambda: rig.streams.count == 1)  # that of another key goes on


async def test_a_page_is_as_large_as_its_json(rig):
    """Control characters are six bytes each there: they don't make a page six times as large."""
    service = (await rig.create("api")).json["id"]
    for _ in range(10):
        await asyncio.to_thread(rig.logs.append, service, "d", ["\x01" * 16_000] * 20)
    page = await rig.api("GET", "/acme/service/api/logs?limit=10000")
    assert 7 << 20 < len(page.text) < 9 << 20
    assert page.json["truncated"]
    assert page.json["items"][-1]["line"] == "\x01" * 16_000
    place, found = "0", 0
    for _ in range(3):
        page = await rig.api("GET", f"/acme/service/api/logs?limit=10000&cursor={place}")
        assert len(page.text) < 9 << 20
        place, found = page.json["next"], found + len(page.json["items"])
    assert found == 200


async def test_who_takes_no_answer_is_cut(rig, monkeypatch):
    """Also of answers that are not large, asked for one after the other."""
    monkeypatch.setattr(connection_module, "STALL", 0.5)
    host, port = rig.url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.setblocking(False)
        await loop.sock_connect(plain, (host, int(port)))
        with pytest.raises(ConnectionError):
            await _ask_for_ever(plain)
    await until(lambda: rig.streams.sending.cut == 1)


async def _ask_for_ever(plain: socket.socket) -> None:
    async with asyncio.timeout(40):
        while True:
            await asyncio.get_running_loop().sock_sendall(plain, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
