"""From accept to the end of the handshake, over real sockets: what is refused, and with which bytes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import time

import pytest
from tls_parties import TlsConversation, TlsPeer, TlsStarter, client_hello, pair, trusting
from wire import get, ok, until

from gateway.tls.contexts import Material
from gateway.tls.handshakes import Handshakes


async def exchange(talk: TlsConversation, client: TlsPeer, body: bytes = b"hello") -> None:
    """One request and its answer through a replica."""
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    await client.send(get())
    peer = await origin.peer()
    head = await peer.head()
    assert b"\r\nX-Forwarded-Proto: https\r\n" in head
    await peer.send(ok(body))
    assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert await client.exactly(len(body)) == body


def limited(oldest: ssl.TLSVersion, newest: ssl.TLSVersion) -> ssl.SSLContext:
    context = trusting(pair())
    context.minimum_version, context.maximum_version = oldest, newest
    return context


@pytest.mark.parametrize(
    ("version", "called"), [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")]
)
async def test_a_request_over_each_version(talk: TlsConversation, version: ssl.TLSVersion, called: str) -> None:
    client = await talk.secure(context=limited(version, version))
    assert client.tls.version() == called
    await exchange(talk, client)
    assert talk.handshakes == {"handshakes": 1, "resumed": 0, "proved": 0, "failed": {}}


async def test_rsa_and_ecdsa(talk: TlsConversation) -> None:
    talk.shelf.put("rsa.test", pair("rsa.test", "rsa"))
    assert (await talk.secure("rsa.test", trusting(pair("rsa.test", "rsa")))).shown() == pair("rsa.test", "rsa").serial
    assert (await talk.secure()).shown() == pair().serial


async def test_alpn(talk: TlsConversation) -> None:
    client = await talk.secure(context=trusting(pair(), protocols=["h2", "http/1.1"]))
    assert client.tls.selected_alpn_protocol() == "http/1.1"
    assert (await talk.secure()).tls.selected_alpn_protocol() is None


async def test_a_hello_in_single_bytes(talk: TlsConversation) -> None:
    raw = await talk.raw()
    peer = TlsPeer(raw, trusting(pair()), "app.test", None)
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    for byte in peer.records():
        await raw.send(bytes((byte,)))
        await asyncio.sleep(0)
    await peer.handshake()
    await exchange(talk, peer)


async def refusal(talk: TlsConversation, hello: bytes) -> bytes:
    """What the edge answers, and that it ends by FIN, not by reset."""
    raw = await talk.raw()
    await raw.send(hello)
    return await raw.rest()


def alert(number: int) -> bytes:
    return bytes((21, 3, 3, 0, 2, 2, number))


@pytest.mark.parametrize(
    ("name", "reason"), [("other.test", "unknown_name"), ("127.0.0.1", "no_name"), (None, "no_name")]
)
async def test_unknown_names(talk: TlsConversation, name: str | None, reason: str) -> None:
    assert await refusal(talk, client_hello(name)) == alert(112)
    assert talk.failed(reason) == 1


async def test_no_protocol_in_common(talk: TlsConversation) -> None:
    context = trusting(pair(), protocols=["h2"])
    assert await refusal(talk, client_hello(context=context)) == alert(120)
    assert talk.failed("no_protocol") == 1


async def test_old_versions(talk: TlsConversation) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    assert await refusal(talk, client_hello(context=context)) == alert(70)
    assert talk.failed("version") == 1


async def test_malformed_hellos(talk: TlsConversation) -> None:
    hello = bytearray(client_hello())
    hello[43] = 33  # the length of the session id
    assert await refusal(talk, bytes(hello)) == alert(50)
    assert await refusal(talk, b"\x17\x03\x03\x00\x05hello") == alert(10)
    assert talk.failed("malformed") == 2


async def test_no_cipher_in_common(talk: TlsConversation) -> None:
    context = limited(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("AES256-SHA")
    raw = await talk.raw()
    await raw.send(client_hello(context=context))
    assert (await raw.rest())[-2:] == b"\x02\x28"  # handshake_failure, OpenSSL's own
    assert talk.failed("no_cipher") == 1


async def test_a_client_that_does_not_trust_us(talk: TlsConversation) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await talk.secure(context=trusting())
    raw = await talk.raw()
    peer = TlsPeer(raw, trusting(), "app.test", None)
    with pytest.raises(ssl.SSLCertVerificationError):
        await peer.handshake()
    await raw.send(peer.records())
    await until(lambda: talk.failed("alert") == 1)


async def test_plain_http_is_told_so(talk: TlsConversation) -> None:
    raw = await talk.raw()
    await raw.send(get())
    head = await raw.head()
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nConnection: close\r\n" in head
    assert b"HTTPS" in await raw.rest()
    assert talk.failed("plain_http") == 1


async def test_plain_http_with_a_body_gets_its_answer_before_any_reset(talk: TlsConversation) -> None:
    raw = await talk.raw()
    await raw.send(get("/", "Content-Length: 300000", method="POST") + bytes(300000))
    assert (await raw.head()).startswith(b"HTTP/1.1 400 ")
    assert await raw.rest()


async def test_a_slow_hello_has_the_time_of_a_head(secured: TlsStarter) -> None:
    talk = await secured(head_timeout=0.3)
    raw = await talk.raw()
    began = time.monotonic()
    await raw.send(client_hello()[:50])
    await raw.closed()
    assert time.monotonic() - began < 5
    assert talk.failed("timeout") == 1


async def test_silence_has_no_more_time(secured: TlsStarter) -> None:
    talk = await secured(head_timeout=0.3)
    await (await talk.raw()).closed()
    assert talk.failed("timeout") == 1


async def test_the_handshakes_deadline_ends_with_it(secured: TlsStarter) -> None:
    talk = await secured(head_timeout=0.3)
    client = await talk.secure()
    await asyncio.sleep(0.8)
    await exchange(talk, client)


async def test_leaving_in_the_middle(talk: TlsConversation) -> None:
    raw = await talk.raw()
    await raw.send(client_hello()[:100])
    raw.close()
    await until(lambda: talk.failed("left") == 1)
    raw = await talk.raw()
    await raw.send(client_hello())
    await raw.exactly(100)
    raw.reset()
    await until(lambda: talk.failed("left") == 2)
    await until(lambda: talk.edge.connections == 0)


async def test_leaving_while_the_context_is_built(talk: TlsConversation) -> None:
    """The task that waits is cancelled; the context is there for the next one."""
    stuck = asyncio.Event()
    loop = asyncio.get_running_loop()
    waited: asyncio.Future[None] = asyncio.run_coroutine_threadsafe(stuck.wait(), loop)  # type: ignore[assignment]

    def slow_key() -> bytes:
        waited.result()
        return pair().key

    talk.shelf.materials["app.test"] = Material("app.test", 1, pair().chain, slow_key)
    raw = await talk.raw()
    await raw.send(client_hello())
    await until(lambda: len(talk.edge._doors._handshakes._tasks) == 1)  # type: ignore[union-attr]
    raw.close()
    await until(lambda: talk.failed("left") == 1)
    await until(lambda: not talk.edge._doors._handshakes._tasks)  # type: ignore[union-attr]
    stuck.set()
    await talk.secure()


async def test_a_damaged_certificate_is_an_unknown_name_and_told_once(talk: TlsConversation) -> None:
    talk.shelf.materials["app.test"] = Material("app.test", 1, pair().chain, lambda: b"damaged")
    assert await refusal(talk, client_hello()) == alert(112)
    assert await refusal(talk, client_hello()) == alert(112)
    assert (talk.failed("unusable"), talk.failed("unknown_name")) == (1, 1)
    assert len(talk.said) == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_resumption_at_the_same_name_only(talk: TlsConversation, version: ssl.TLSVersion) -> None:
    talk.shelf.put("other.test", pair("other.test"))
    context = limited(version, version)
    context.load_verify_locations(cadata=pair("other.test").chain.decode())
    first = await talk.secure(context=context)
    await exchange(talk, first)  # TLS 1.3 sends its tickets behind the handshake
    again = await talk.secure(context=context, session=first.tls.session)
    assert again.tls.session_reused
    other = await talk.secure("other.test", context, first.tls.session)
    assert not other.tls.session_reused
    assert other.shown() == pair("other.test").serial
    assert talk.handshakes["resumed"] == 1


async def test_a_new_certificate_resumes_nothing_of_the_old(talk: TlsConversation) -> None:
    context = trusting(pair(), pair(number=1))
    first = await talk.secure(context=context)
    await exchange(talk, first)
    talk.shelf.put("app.test", pair(number=1), version=2)
    talk.edge.recertify("app.test")
    again = await talk.secure(context=context, session=first.tls.session)
    assert not again.tls.session_reused
    assert again.shown() == pair(number=1).serial
    assert first.shown() == pair().serial
    await exchange(talk, first, b"the connection that was open goes on")


async def test_a_certificate_that_is_removed(talk: TlsConversation) -> None:
    client = await talk.secure()
    del talk.shelf.materials["app.test"]
    talk.edge.recertify("app.test")
    assert await refusal(talk, client_hello()) == alert(112)
    await exchange(talk, client)


async def test_connections_count_from_accept_on(secured: TlsStarter) -> None:
    talk = await secured(address_limit=1)
    raw = await talk.raw()
    await until(lambda: talk.edge.connections == 1)
    second = await talk.raw()
    await second.closed()
    raw.close()
    await until(lambda: talk.edge.connections == 0)
    assert talk.edge.counters()["refused_address"] == 1
    await talk.secure()


def shared(talk: TlsConversation) -> Handshakes:
    handshakes = talk.edge._doors._handshakes
    assert handshakes is not None
    return handshakes


async def test_halves_of_hellos_are_bounded_in_all_and_the_oldest_ends(talk: TlsConversation) -> None:
    """A real client is done in a round trip or two, however many stand still."""
    await talk.secure()
    shared(talk).limit = 100_000
    stalled = []
    for _ in range(50):
        raw = await talk.raw()
        await raw.send(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + bytes(9_991))
        stalled.append(raw)
    await until(lambda: talk.failed("crowded") == 40)
    assert shared(talk).held == 100_000
    for raw in stalled[:40]:
        await raw.closed()
    await exchange(talk, await talk.secure())
    for raw in stalled[40:]:
        raw.close()
    await until(lambda: shared(talk).held == 0)


@pytest.mark.parametrize(("then", "each"), [(b"", 48), (b"\x17\x03\x03\x40\x00" + bytes(16_000), 80)])
async def test_handshakes_that_stand_still_are_bounded_in_all(talk: TlsConversation, then: bytes, each: int) -> None:
    """OpenSSL has begun: each costs what it keeps."""
    await talk.secure()
    shared(talk).limit = 5 * each * 1024
    stalled = []
    for _ in range(20):
        raw = await talk.raw()
        await raw.send(client_hello())
        await raw.exactly(100)
        await raw.send(then)
        stalled.append(raw)
    await until(lambda: talk.failed("crowded") == 15)
    await exchange(talk, await talk.secure())
    for raw in stalled:
        raw.close()
    await until(lambda: shared(talk).held == 0)
    assert shared(talk)._under_way == {}


async def test_nothing_is_held_for_handshakes_that_are_over(talk: TlsConversation) -> None:
    await talk.secure()
    assert await refusal(talk, client_hello("other.test")) == alert(112)
    for data in (client_hello()[:100], client_hello()):
        raw = await talk.raw()
        await raw.send(data)
        await until(lambda: shared(talk).held > 0)
        raw.close()
        await until(lambda: shared(talk).held == 0)
    assert shared(talk)._under_way == {}


async def test_a_handshake_that_has_just_begun_makes_no_room(secured: TlsStarter) -> None:
    talk = await secured(connection_limit=2)
    await talk.secure()
    raw = await talk.raw()
    await raw.send(client_hello()[:100])
    await until(lambda: talk.edge.connections == 2)
    await (await talk.raw()).closed()
    counters = talk.edge.counters()
    assert (counters["shed"], counters["refused_full"]) == (0, 1)


async def test_draining_lets_a_handshake_and_its_first_request_finish(talk: TlsConversation) -> None:
    raw = await talk.raw()
    await raw.send(client_hello()[:10])
    await until(lambda: talk.edge.connections == 1)
    draining = asyncio.ensure_future(talk.edge.drain(10))
    await asyncio.sleep(0)
    raw.close()
    client = await talk.secure()
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    await client.send(get())
    peer = await origin.peer()
    await peer.head()
    await peer.send(ok(b"last"))
    assert b"\r\nConnection: close\r\n" in await client.head()
    assert await client.rest() == b"last"
    client.raw.close()
    assert await draining


async def test_draining_does_not_wait_for_a_handshake_that_stands_still(secured: TlsStarter) -> None:
    talk = await secured(drain_grace=0.2)
    raw = await talk.raw()
    await raw.send(client_hello()[:10])
    await until(lambda: talk.edge.connections == 1)
    assert await talk.edge.drain(5)
    await raw.closed()


async def test_bytes_that_are_no_handshake_behind_the_hello(talk: TlsConversation) -> None:
    await refused_by_reset_or_end(talk, client_hello() + b"x" * 200_000)
    assert talk.failed("malformed") == 1, "more than a client can have to say while the context is built"
    await talk.secure()
    await refused_by_reset_or_end(talk, client_hello() + b"x" * 200_000)
    assert talk.failed("protocol") == 1


async def refused_by_reset_or_end(talk: TlsConversation, data: bytes) -> None:
    raw = await talk.raw()
    await raw.send(data)
    with contextlib.suppress(ConnectionError):
        await raw.rest()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
@pytest.mark.parametrize("more", [(), ("-tls1_2",), ("-no_ticket",), ("-groups", "P-384:X25519")])
async def test_with_openssl(talk: TlsConversation, more: tuple[str, ...]) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    process = await asyncio.create_subprocess_exec(
        "openssl",
        *("s_client", "-connect", f"127.0.0.1:{talk.tls_port}", "-servername", "app.test", "-quiet", *more),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(get("/", "Connection: close"))
    peer = await origin.peer()
    await peer.head()
    await peer.send(ok(b"hello"))
    async with asyncio.timeout(30):
        assert (await process.stdout.read()).endswith(b"\r\n\r\nhello")
        process.stdin.close()
        await process.wait()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
async def test_renegotiation_is_off(talk: TlsConversation) -> None:
    process = await asyncio.create_subprocess_exec(
        "openssl",
        *("s_client", "-connect", f"127.0.0.1:{talk.tls_port}", "-servername", "app.test", "-tls1_2"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    await until(lambda: talk.handshakes["handshakes"] == 1)
    process.stdin.write(b"R\n")
    async with asyncio.timeout(30):
        assert b"no renegotiation" in await process.stdout.read()
        await process.wait()
    assert talk.handshakes["handshakes"] == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
async def test_new_keys_on_the_way(talk: TlsConversation) -> None:
    """KeyUpdate, with an answer asked for (RFC 8446 4.6.3); `K` is s_client's command for it."""
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    process = await asyncio.create_subprocess_exec(
        "openssl",
        *("s_client", "-connect", f"127.0.0.1:{talk.tls_port}", "-servername", "app.test", "-tls1_3"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(30):
        process.stdin.write(b"GET / HTTP/1.1\r\n")
        await until(lambda: any(one._buffer for one in talk.edge._office.clients.all()))  # type: ignore[attr-defined]
        process.stdin.write(b"K\n")  # read by itself: in the middle of what it reads it would be text
        await process.stdout.readuntil(b"KEYUPDATE")
        process.stdin.write(b"Host: app.test\r\nConnection: close\r\n\r\n")
        peer = await origin.peer()
        await peer.head()
        await peer.send(ok(b"hello"))
        assert b"hello" in await process.stdout.read()
        process.stdin.close()
        await process.wait()
