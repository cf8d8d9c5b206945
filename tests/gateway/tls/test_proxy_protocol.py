"""The PROXY protocol: the reader alone, and in front of plain HTTP and of TLS."""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tls_parties import TlsConversation, TlsPeer, TlsStarter, client_hello
from wire import Peer, fields, get, log_pipe, ok, until

from gateway.proxy_protocol import BadPreface, read

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
TRUSTED = (ip_network("127.0.0.0/8"), ip_network("198.51.100.0/24"))


def block(source: str = "192.0.2.7", vectors: bytes = b"", command: int = 0x21, transport: int = 1) -> bytes:
    """Version 2, as a proxy in front would write it."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    destination = "2001:db8::2" if ":" in source else "192.0.2.1"
    addresses = socket.inet_pton(family, source) + socket.inet_pton(family, destination) + struct.pack("!HH", 5555, 443)
    kind = (2 if ":" in source else 1) << 4 | transport
    return header(command, kind, addresses + vectors)


def header(command: int, kind: int, body: bytes) -> bytes:
    return SIGNATURE + bytes((command, kind)) + struct.pack("!H", len(body)) + body


LINE = b"PROXY TCP4 192.0.2.7 192.0.2.1 5555 443\r\n"

GOOD = [
    (LINE, "192.0.2.7"),
    (b"PROXY TCP6 2001:DB8::0007 2001:db8::1 0 65535\r\n", "2001:db8::7"),
    (b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n", "ffff" + ":ffff" * 7),
    (b"PROXY UNKNOWN\r\n", ""),
    (b"PROXY UNKNOWN " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n", ""),
    (block(), "192.0.2.7"),
    (block("2001:db8::7"), "2001:db8::7"),
    (block(vectors=b"\x20\x00\x05\x01\0\0\0\0" + b"\x04\x03\xe8" + bytes(1000)), "192.0.2.7"),
    (header(0x21, 0x00, b""), ""),
    (header(0x21, 0x31, bytes(216)), ""),
    (block(transport=2), ""),
    (block(transport=0), ""),
]
LOCAL = [block(command=0x20), header(0x20, 0x00, b""), header(0x20, 0xFF, b"ignored")]
NAMELESS = [data for data, address in GOOD if not address]

BAD = [
    b"PROXY \r\n",
    b"PROXY  TCP4 192.0.2.7 192.0.2.1 5555 443\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 5555 443 \r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 5555\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 05555 443\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 65536 443\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 -1 443\r\n",
    b"PROXY TCP4 192.0.2.07 192.0.2.1 1 443\r\n",
    b"PROXY TCP4 192.0.2 192.0.2.1 1 443\r\n",
    b"PROXY TCP4 2001:db8::7 192.0.2.1 1 443\r\n",
    b"PROXY TCP6 192.0.2.7 192.0.2.1 1 443\r\n",
    b"PROXY TCP4 192.0.2.7\xb2 192.0.2.1 1 443\r\n",
    b"PROXY TCP4 192.0.2.7\0 192.0.2.1 1 443\r\n",
    b"PROXY tcp4 192.0.2.7 192.0.2.1 1 443\r\n",
    b"PROXY TCP5 192.0.2.7 192.0.2.1 1 443\r\n",
    b"PROXY UNKNOWN" + b" " * 93 + b"\r\n",
    b"PROXY TCP4 " + b"1" * 100,
    header(0x11, 0x11, bytes(12)),
    header(0x22, 0x11, bytes(12)),
    header(0x21, 0x41, bytes(12)),
    header(0x21, 0x13, bytes(12)),
    header(0x21, 0x11, bytes(11)),
    header(0x21, 0x21, bytes(35)),
    header(0x21, 0x31, bytes(215)),
    header(0x21, 0x11, bytes(16 * 1024 + 1)),
    SIGNATURE + b"\x31",
]


@pytest.mark.parametrize(("data", "address"), [*GOOD, *((data, "") for data in LOCAL)])
def test_prefaces_split_at_every_byte(data: bytes, address: str) -> None:
    for end in range(1, len(data)):
        assert read(data[:end]) is None
    for rest in (b"", b"GET / HTTP/1.1\r\n", LINE):
        found = read(data + rest)
        assert found is not None
        assert (found.found, found.address, found.rest) == (True, address, rest)
        assert found.relayed is (data not in LOCAL)


@pytest.mark.parametrize("data", BAD)
def test_what_is_no_preface_although_it_began_as_one(data: bytes) -> None:
    with pytest.raises(BadPreface):
        read(data)


@pytest.mark.parametrize("data", [get(), b"PROXYS", b"P", b"\r\n\r\nGET", b"\x16\x03\x01", b"\r\n\r\n\0\r\nQUIX"])
def test_what_never_began_as_one(data: bytes) -> None:
    found = read(data)
    if data == b"P":
        assert found is None
    else:
        assert found is not None
        assert (found.found, found.relayed, found.rest) == (False, False, data)


@given(st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]), st.binary(max_size=200))
def test_any_bytes(start: bytes, data: bytes) -> None:
    if not start + data:
        return
    try:
        found = read(start + data)
    except BadPreface:
        return
    if found is not None:
        assert (start + data).endswith(found.rest)


async def answered_as(talk: TlsConversation, client: Peer, data: bytes) -> list[bytes]:
    """X-Forwarded-For as the replica gets it."""
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    await client.send(data)
    peer = await origin.peer()
    head = await peer.head()
    await peer.send(ok(b"ok"))
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    return fields(head)[b"x-forwarded-for"]


@pytest.mark.parametrize(
    ("preface", "address"),
    [
        (LINE, b"192.0.2.7"),
        (block(), b"192.0.2.7"),
        (block("2001:db8::7"), b"2001:db8::7"),
        (block("::ffff:192.0.2.7"), b"192.0.2.7"),
        (b"PROXY UNKNOWN\r\n", b"127.0.0.1"),
        (block(command=0x20), b"127.0.0.1"),
        (b"", b"127.0.0.1"),
    ],
)
async def test_before_plain_http_and_before_tls(secured: TlsStarter, preface: bytes, address: bytes) -> None:
    talk = await secured(trusted_proxies=TRUSTED)
    assert await answered_as(talk, await talk.client(), preface + get()) == [address]
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.secure(preface=preface)
    await client.send(get())
    peer = await origin.peer()
    head = await peer.head()
    assert fields(head)[b"x-forwarded-for"] == [address]
    assert fields(head)[b"x-forwarded-proto"] == [b"https"]
    await peer.send(ok(b"ok"))
    await client.head()
    assert talk.edge.counters()["proxy_protocol"] == {"read": 2 if preface else 0, "malformed": 0}


async def test_in_single_bytes(secured: TlsStarter) -> None:
    talk = await secured(trusted_proxies=TRUSTED)
    client = await talk.client()
    for byte in block() + get()[:-1]:
        await client.send(bytes((byte,)))
    assert await answered_as(talk, client, b"\n") == [b"192.0.2.7"]
    raw = await talk.raw()
    for byte in LINE + client_hello():
        await raw.send(bytes((byte,)))
    assert (await raw.exactly(1)) == b"\x16"


async def test_who_is_told_of_is_believed_only_if_trusted_himself(secured: TlsStarter) -> None:
    talk = await secured(trusted_proxies=TRUSTED)
    named = get("/", "X-Forwarded-For: 203.0.113.1")
    assert await answered_as(talk, await talk.client(), LINE + named) == [b"192.0.2.7"]
    trusted = b"PROXY TCP4 198.51.100.9 192.0.2.1 5555 443\r\n"
    assert await answered_as(talk, await talk.client(), trusted + named) == [b"203.0.113.1, 198.51.100.9"]


FORWARDED = (
    "X-Forwarded-For: 203.0.113.1",
    "X-Forwarded-Proto: gopher",
    "X-Forwarded-Host: elsewhere.test",
    "X-Request-Id: chosen-by-the-client",
)


async def seen_behind(talk: TlsConversation, client: Peer | TlsPeer) -> dict[bytes, list[bytes]]:
    """What the replica gets of two requests that claim to be forwarded: of both the same, but for the id."""
    found = []
    for _ in range(2):
        origin = await talk.origin()
        talk.serve(origin.endpoint())
        await client.send(get("/", *FORWARDED))
        peer = await origin.peer()
        found.append(fields(await peer.head()))
        await peer.send(ok(b"ok"))
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        await client.exactly(2)
    first, second = found
    for name in (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"):
        assert first[name] == second[name]
    return second


@pytest.mark.parametrize("preface", NAMELESS)
async def test_a_client_without_a_name_is_not_believed(secured: TlsStarter, preface: bytes) -> None:
    talk = await secured(trusted_proxies=TRUSTED, address_limit=1)
    plain = await talk.client()
    await plain.send(preface)
    for client, scheme in ((plain, b"http"), (await talk.secure(preface=preface), b"https")):
        seen = await seen_behind(talk, client)
        assert seen[b"x-forwarded-for"] == [b"127.0.0.1"]
        assert seen[b"x-forwarded-proto"] == [scheme]
        assert seen[b"x-forwarded-host"] == [b"app.test"]
        assert seen[b"x-request-id"] != [b"chosen-by-the-client"]


@pytest.mark.parametrize("preface", [b"", *LOCAL])
async def test_the_proxys_own_connection_is_believed(secured: TlsStarter, preface: bytes) -> None:
    talk = await secured(trusted_proxies=TRUSTED)
    plain = await talk.client()
    await plain.send(preface)
    for client in (plain, await talk.secure(preface=preface)):
        seen = await seen_behind(talk, client)
        assert seen[b"x-forwarded-for"] == [b"203.0.113.1, 127.0.0.1"]
        assert seen[b"x-request-id"] == [b"chosen-by-the-client"]


async def test_one_preface_only(secured: TlsStarter) -> None:
    talk = await secured(trusted_proxies=TRUSTED)
    client = await talk.client()
    await client.send(LINE + LINE + get())
    assert (await client.head()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("preface", [LINE, block(), b"PROXY UNKNOWN\r\n"])
@pytest.mark.parametrize("proxies", [(), (ip_network("198.51.100.0/24"),)])
async def test_from_others_it_is_a_malformed_request(secured: TlsStarter, preface: bytes, proxies: object) -> None:
    talk = await secured(trusted_proxies=proxies)
    talk.serve()
    client = await talk.client()
    await client.send(preface + get())
    assert (await client.head()).startswith(b"HTTP/1.1 400 ")
    raw = await talk.raw()
    await raw.send(preface + client_hello())
    answer = await raw.rest()
    assert answer.startswith(b"HTTP/1.1 400 " if preface[:1] == b"P" else b"\x15\x03\x03\x00\x02\x02\x0a")


async def test_malformed_closes_counts_and_is_logged(secured: TlsStarter) -> None:
    reading, writing = log_pipe()
    talk = await secured(log_fd=writing, trusted_proxies=TRUSTED)
    for connect in (talk.client, talk.raw):
        client = await connect()
        await client.send(b"PROXY TCP4 nonsense\r\n")
        await client.closed()
    assert talk.edge.counters()["proxy_protocol"] == {"read": 0, "malformed": 2}
    talk.log.flush()
    line = os.read(reading, 65536).decode()
    assert "PROXY protocol" in line
    assert '"client":"127.0.0.1"' in line


async def test_half_a_preface_has_the_time_of_a_head(secured: TlsStarter) -> None:
    talk = await secured(trusted_proxies=TRUSTED, head_timeout=0.3)
    client = await talk.client()
    await client.send(b"PROXY TCP4 ")
    await client.closed()


async def test_the_client_counts_not_the_proxy(secured: TlsStarter) -> None:
    talk = await secured(trusted_proxies=TRUSTED, address_limit=1)
    first = await talk.client()
    await answered_as(talk, first, LINE + get())
    second = await talk.client()
    await second.send(LINE + get())
    await second.closed()
    third = await talk.client()
    await answered_as(talk, third, LINE.replace(b".7 ", b".8 ") + get())
    assert talk.edge.counters()["refused_address"] == 1


async def test_leaving_in_the_middle(secured: TlsStarter) -> None:
    talk = await secured(trusted_proxies=TRUSTED)
    for connect in (talk.client, talk.raw):
        client = await connect()
        await client.send(b"PROXY ")
        client.close()
    await until(lambda: talk.edge.connections == 0)
