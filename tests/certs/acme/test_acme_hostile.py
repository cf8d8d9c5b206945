"""A server that is not one: bytes on a plain socket. Whatever they are, an AcmeError or a value comes of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from acme_parties import new_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certs.acme.client import AcmeClient
from certs.acme.errors import AcmeError, BadAnswer, Unreachable
from certs.acme.problem import Problem
from certs.acme.transport import BODY

KEY = new_key()
OK = b"HTTP/1.1 200 OK\r\n"
URL = "http://127.0.0.1:1/x"
DIRECTORY = f'{{"newNonce":"{URL}","newAccount":"{URL}","newOrder":"{URL}"}}'.encode()


def said(body: bytes, *fields: bytes, head: bytes = OK) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return head + length + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


@contextlib.asynccontextmanager
async def saying(said: bytes, *, hold: bool = False) -> AsyncIterator[str]:
    """A URL where everybody is told this; then the connection is closed, or held."""
    over = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            await writer.drain()
            if hold:
                await over.wait()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        over.set()
        server.close()


async def told(answer: bytes, *, hold: bool = False, timeout: float = 20.0) -> object:
    async with saying(answer, hold=hold) as url, aiohttp.ClientSession() as http:
        return await AcmeClient(http, url + "dir", KEY, timeout=timeout).directory()


async def test_a_directory_over_plain_http():
    assert await told(said(DIRECTORY, b"Replay-Nonce: abc")) is not None


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", Unreachable),
        (b"SSH-2.0-OpenSSH_9.2\r\n", AcmeError),
        (b"\x15\x03\x01\x00\x02\x02\x0a", AcmeError),
        (b"HTTP/1.1 OK\r\n\r\n", AcmeError),
        (OK + b"Content-Length: -1\r\n\r\n", AcmeError),
        (OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", AcmeError),
        (OK + b"Content-Length: 100\r\n\r\n{", Unreachable),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", AcmeError),
        (OK + b"X: " + b"x" * 100_000 + b"\r\n\r\n", AcmeError),
        (OK + b"X: y\r\n" * 10_000 + b"\r\n", AcmeError),
        (OK + b"Set-Cookie: \xff\xfe=\x01\r\nLocation: \xff\r\nLink: \xff\r\nRetry-After: \xff\r\n\r\n", AcmeError),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", AcmeError),
        (b"HTTP/1.1 204 No Content\r\n\r\n", BadAnswer),
        (b"HTTP/1.1 301 Moved\r\nLocation: /dir\r\nContent-Length: 0\r\n\r\n", BadAnswer),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", BadAnswer),
        (b"HTTP/1.1 999 ?\r\nContent-Length: 0\r\n\r\n", Problem),
        (said(b"x" * (BODY + 1)), BadAnswer),
        (said(b"x" * (BODY + 1), head=b"HTTP/1.1 500 Oops\r\n"), Problem),
        (said(zlib.compress(b"0" * 10_000_000), b"Content-Encoding: deflate"), BadAnswer),
        (said(b"\x1f\x8b", b"Content-Encoding: gzip"), BadAnswer),
    ],
)
async def test_what_is_not_an_answer(answer, error):
    with pytest.raises(error) as caught:
        await told(answer)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("part", [b"", OK, said(b"{}")[:-1]])
async def test_a_server_that_stops_speaking(part):
    with pytest.raises(Unreachable, match="in time"):
        await told(part, hold=True, timeout=0.2)


async def test_a_body_without_end_is_not_read_to_its_end():
    endless = OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"4000\r\n%s\r\n" % (b"x" * 0x4000) * 64
    with pytest.raises(BadAnswer, match="more than"):
        await told(endless, hold=True)


@pytest.mark.parametrize(
    "url", ["", "ftp://ca.test/", "https://", "not a url", "https://ca.test:99999/", "https://" + "a" * 300, "http:x"]
)
async def test_a_directory_that_has_no_url(url):
    async with aiohttp.ClientSession() as http:
        with pytest.raises(BadAnswer):
            await AcmeClient(http, url, KEY).directory()


async def test_names_that_do_not_resolve():
    async with aiohttp.ClientSession() as http:
        with pytest.raises(Unreachable):
            await AcmeClient(http, "https://ca.invalid/dir", KEY).directory()


class Host:
    """Its directory and its nonces are in order; everything else is answered with `answer`."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self.asked.append((await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0])
            writer.write(self._said(self.asked[-1]))
            await writer.drain()
        writer.close()

    def _said(self, request: bytes) -> bytes:
        if request.startswith(b"GET /dir "):
            names = ("newNonce", "newAccount", "newOrder", "revokeCert", "renewalInfo")
            return said(json.dumps(dict.fromkeys(names, self.url)).encode(), b"Connection: close")
        if request.startswith(b"HEAD "):
            return OK + b"Replay-Nonce: abc\r\nConnection: close\r\n\r\n"
        return self.answer


@contextlib.asynccontextmanager
async def hosting(answer: bytes) -> AsyncIterator[tuple[Host, AcmeClient]]:
    host = Host(answer)
    server = await asyncio.start_server(host.handle, "127.0.0.1", 0)
    host.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
    try:
        async with aiohttp.ClientSession() as http:
            yield host, AcmeClient(http, host.url.replace("/x", "/dir"), KEY, host.url, timeout=20.0)
    finally:
        server.close()


@pytest.mark.parametrize("path", ["/", "/a/../b/./c", "/%2e%2E/%7e~", "/a?b=%20c&d='e'", "//double//", "/a;b=c@d:e"])
async def test_a_url_is_asked_for_as_it_was_given(path):
    """What is signed and what is sent have to be equal (RFC 8555 6.4.1)."""
    async with hosting(said(b"{}", b"Connection: close")) as (host, client):
        with pytest.raises(BadAnswer):
            await client.order(host.url.removesuffix("/x") + path)
    assert host.asked[-1] == b"POST %s HTTP/1.1" % path.encode()


VALUES = st.binary(max_size=40).map(lambda value: value.translate(None, b"\r\n\0"))
FIELDS = st.sampled_from([b"Location", b"Link", b"Retry-After", b"Replay-Nonce", b"Content-Type", b"Content-Encoding"])
MEMBERS = st.sampled_from(
    [
        "type",
        "url",
        "token",
        "status",
        "identifier",
        "identifiers",
        "value",
        "challenges",
        "authorizations",
        "finalize",
        "certificate",
        "expires",
        "error",
        "detail",
        "subproblems",
        "suggestedWindow",
        "start",
        "end",
        "wildcard",
        "contact",
    ]
)
SCALARS = st.sampled_from(
    [URL, "dns", "pending", "valid", "http-01", "2026-01-01T00:00:00Z", "", "\ud800", 0, 1e300, None, True]
)
DOCUMENTS = st.dictionaries(
    MEMBERS,
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner, max_size=4)),
    max_size=8,
).map(lambda document: json.dumps(document).encode())
PEM = st.binary(max_size=60).map(
    lambda der: b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n" % base64.encodebytes(der)
)
CALLS: tuple[Callable[[AcmeClient, str], Awaitable[object]], ...] = (
    lambda client, url: client.register("a@b.test", None),
    lambda client, url: client.new_order(["a.test"]),
    lambda client, url: client.order(url),
    lambda client, url: client.authorization(url),
    lambda client, url: client.respond(url),
    lambda client, url: client.certificate(url),
    lambda client, url: client.renewal_info("AAAA.AAAA"),
    lambda client, url: client.revoke(b"der", 4),
    lambda client, url: client.deactivate_authorization(url),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    status=st.sampled_from([200, 201, 204, 301, 400, 404, 429, 500, 503]),
    fields=st.lists(st.tuples(FIELDS, VALUES), max_size=4),
    body=DOCUMENTS | PEM | st.binary(max_size=200),
    noise=st.just(b"") | st.binary(max_size=20),
)
def test_any_answer_to_any_call(status, fields, body, noise):
    lines = [name + b": " + value for name, value in [*fields, (b"Connection", b"close")]]
    answer = said(body, *lines, head=b"HTTP/1.1 %d X\r\n" % status) + noise

    async def ask() -> None:
        async with hosting(answer) as (host, client):
            for call in CALLS:
                with contextlib.suppress(AcmeError):
                    await call(client, host.url)

    asyncio.run(ask())
