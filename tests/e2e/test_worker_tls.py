"""Certificates and names in the real worker process: swapped under load, taken away, and asked for by strangers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from nursery import CERTIFICATES_KEY, Nursery, ReplicaServer, Reports, WorkerProcess, ask, publish, until
from redis import asyncio as aioredis

from certs.authority import LEAF_LIFETIME, ROOT_LIFETIME, Pair, make_leaf, make_root
from state.certificates import Certificate, Challenge, ChallengeAnswer
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.models import Route
from state.secrets import Vault
from state.store import Change, Store

pytestmark = pytest.mark.e2e

HOST = "www.acme.test"
SWAPS = 20
STRANGERS = 10_000
UNRECOGNIZED_NAME = r"UNRECOGNIZED_NAME|unrecognized name"  # 112


class Shop:
    """Where certificates are bought: a CA that the clients trust, and what it signed."""

    def __init__(self, store: Store) -> None:
        self.root = make_root(now_us(), ROOT_LIFETIME)
        self.store = store

    def change(self, namespace: str = "acme") -> tuple[Change, int]:
        """A new certificate of the host, and its serial number."""
        leaf: Pair = make_leaf(self.root, (HOST,), now_us(), LEAF_LIFETIME)
        key = Vault(CERTIFICATES_KEY).seal("", HOST, "key", leaf.key)
        until = now_us() + LEAF_LIFETIME
        record = Certificate((HOST,), leaf.certificate, key, "uploaded", False, now_us(), until, namespace)
        serial = x509.load_pem_x509_certificate(leaf.certificate.encode()).serial_number
        return Change(Kind.CERTIFICATE, HOST, encode(record)), serial

    async def put(self) -> int:
        change, serial = self.change()
        await self.store.commit([change])
        return serial

    def trusting(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.root.certificate)
        context.minimum_version = context.maximum_version = version
        return context


@pytest.fixture
def shop(store: Store) -> Shop:
    return Shop(store)


@contextlib.asynccontextmanager
async def secure(
    nursery: Nursery, context: ssl.SSLContext, name: str = HOST
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", nursery.secure_port, ssl=context, server_hostname=name
        )
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def shown(writer: asyncio.StreamWriter) -> int:
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(der).serial_number


async def serial(nursery: Nursery, shop: Shop) -> int:
    async with secure(nursery, shop.trusting()) as (_, writer):
        return shown(writer)


async def test_a_certificate_is_swapped_twenty_times_under_load(
    make_nursery: Any, store: Store, replica: ReplicaServer, reports: Reports, shop: Shop
) -> None:
    """Not a handshake fails and not a request, on connections that are kept or new, in either version."""
    await publish(store, replica.endpoint(), host=HOST)
    await shop.put()
    nursery = make_nursery(2)
    workers = [await (await nursery.spawn(number)).ready() for number in (1, 2)]
    stop, answered, seen = asyncio.Event(), [0, 0], set[int]()

    async def keep(version: ssl.TLSVersion) -> None:
        async with secure(nursery, shop.trusting(version)) as streams:
            while not stop.is_set():
                assert await ask(*streams, HOST) == (200, b"r1")
                answered[0] += 1

    async def come_anew(version: ssl.TLSVersion) -> None:
        context = shop.trusting(version)
        while not stop.is_set():
            async with secure(nursery, context) as (reader, writer):
                seen.add(shown(writer))
                assert await ask(reader, writer, HOST) == (200, b"r1")
                answered[1] += 1

    async with asyncio.TaskGroup() as tasks:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            tasks.create_task(keep(version))
            tasks.create_task(come_anew(version))
            tasks.create_task(come_anew(version))
        try:
            for _ in range(SWAPS):
                change, number = shop.change()
                revision = await store.commit([change])
                for worker in workers:
                    await reports.acknowledged(worker, revision)
                before = answered[1]
                await until(lambda: number in seen and answered[1] > before + 4, "it is served")  # noqa: B023
        finally:
            stop.set()
    assert len(seen) >= SWAPS
    assert min(answered) > SWAPS


async def one_worker(make_nursery: Any) -> tuple[Nursery, WorkerProcess]:
    nursery = make_nursery(1)
    return nursery, await (await nursery.spawn()).ready()


class Visitor:
    """A client that comes back with the session of the time before."""

    def __init__(self, nursery: Nursery, context: ssl.SSLContext) -> None:
        self.nursery = nursery
        self.context = context
        self.session: ssl.SSLSession | None = None

    def visit(self) -> tuple[bool, int]:
        """Blocking. Whether the session was resumed, and the status of the answer."""
        raw = socket.create_connection(("127.0.0.1", self.nursery.secure_port), timeout=30)
        with raw, self.context.wrap_socket(raw, server_hostname=HOST, session=self.session) as tls:
            tls.sendall(f"GET /x HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: tls.recv(65536), b""))
            self.session = tls.session
            return bool(tls.session_reused), int(answer.split()[1])


@pytest.mark.parametrize(
    ("version", "tickets"),
    [(ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_2, False), (ssl.TLSVersion.TLSv1_3, True)],
)
async def test_no_session_outlives_the_certificate_that_it_began_under(
    make_nursery: Any,
    store: Store,
    replica: ReplicaServer,
    reports: Reports,
    shop: Shop,
    version: ssl.TLSVersion,
    tickets: bool,
) -> None:
    """Replaced, removed, or given to another tenant with the domain: whoever comes back makes a whole handshake."""
    await publish(store, replica.endpoint(), host=HOST)
    await shop.put()
    nursery, worker = await one_worker(make_nursery)
    context = shop.trusting(version)
    if not tickets:
        context.options |= ssl.OP_NO_TICKET
    visitor = Visitor(nursery, context)

    async def resumed() -> bool:
        reused, status = await asyncio.to_thread(visitor.visit)
        assert status == 200
        return reused

    async def commit(*changes: Change) -> None:
        await reports.acknowledged(worker, await store.commit(changes))

    assert not await resumed()
    assert await resumed()
    await commit(shop.change()[0])
    assert not await resumed()

    old = visitor.session
    async with ReplicaServer("of the other tenant").serving() as other:
        change, serial_of_other = shop.change("beta")
        await publish(store, other.endpoint(), service="s2", host="web-beta.apps.localhost")
        await commit(change, Change(Kind.ROUTE, HOST, encode(Route("s2", "beta", "web"))))
        assert not await resumed()
        assert await serial(nursery, shop) == serial_of_other
        visitor.session = old
        await commit(Change(Kind.CERTIFICATE, HOST, None))
        with pytest.raises(ssl.SSLError, match=UNRECOGNIZED_NAME):
            await resumed()
        await commit(shop.change("beta")[0])
        assert not await resumed()


async def test_a_removed_domain_is_served_nowhere(
    make_nursery: Any, store: Store, replica: ReplicaServer, reports: Reports, shop: Shop
) -> None:
    """404 at the next request of a connection that is open, alert 112 to a new one, in every worker at once."""
    await publish(store, replica.endpoint(), host=HOST)
    await shop.put()
    nursery = make_nursery(2)
    workers = [await (await nursery.spawn(number)).ready() for number in (1, 2)]
    async with contextlib.AsyncExitStack() as opened:
        kept = [await opened.enter_async_context(secure(nursery, shop.trusting())) for _ in range(8)]
        plain = [await asyncio.open_connection("127.0.0.1", nursery.port) for _ in range(8)]
        for streams in (*kept, *plain):
            assert (await ask(*streams, HOST))[0] == 200
        revision = await store.commit([Change(Kind.ROUTE, HOST, None), Change(Kind.CERTIFICATE, HOST, None)])
        for worker in workers:
            await reports.acknowledged(worker, revision)
        for streams in (*kept, *plain):
            assert (await ask(*streams, HOST))[0] == 404
        for _ in range(8):
            with pytest.raises(ssl.SSLError, match=UNRECOGNIZED_NAME):
                await serial(nursery, shop)
        for _, writer in plain:
            writer.close()


async def test_a_certificate_authority_looks_by_tls_alpn(
    make_nursery: Any, store: Store, reports: Reports, shop: Shop
) -> None:
    nursery, worker = await one_worker(make_nursery)
    answer = ChallengeAnswer("tls-alpn-01", "token", "token.thumbprint")
    challenge = Change(Kind.CHALLENGE, HOST, encode(Challenge((answer,), 0)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["acme-tls/1"])
    with pytest.raises(ssl.SSLError, match=r"NO_APPLICATION_PROTOCOL|no application protocol"):
        await asyncio.open_connection("127.0.0.1", nursery.secure_port, ssl=context, server_hostname=HOST)
    await reports.acknowledged(worker, await store.commit([challenge]))
    async with secure(nursery, context) as (reader, writer):
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert await reader.read() == b""
    extensions = x509.load_der_x509_certificate(der).extensions
    (identifier,) = (one for one in extensions if one.oid.dotted_string == "1.3.6.1.5.5.7.1.31")
    assert identifier.critical
    assert identifier.value.value == b"\x04\x20" + hashlib.sha256(b"token.thumbprint").digest()  # type: ignore[attr-defined]


def resident(worker: WorkerProcess) -> int:
    """KiB in memory."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


async def test_ten_thousand_unknown_names_cost_nothing(
    make_nursery: Any, store: Store, store_url: str, replica: ReplicaServer, shop: Shop
) -> None:
    """No question to the store, none to DNS (a worker has no resolver), no memory, and nobody else's handshake."""
    await publish(store, replica.endpoint(), host=HOST)
    await shop.put()
    nursery, worker = await one_worker(make_nursery)
    assert await serial(nursery, shop)
    asking = aioredis.Redis.from_url(store_url, single_connection_client=True)

    async def asked() -> dict[str, int]:
        """Commands so far that can look for a name; reports, the feed and the revision's GET go on by themselves."""
        stats = await asking.info("commandstats")
        looks = ("hget", "hmget", "hgetall", "hexists", "hscan", "scan", "mget", "exists", "hset", "evalsha")
        return {name: stats[f"cmdstat_{name}"]["calls"] for name in looks if f"cmdstat_{name}" in stats}

    def strangers(parent: str, count: int) -> None:
        known = f"{0:016x}.{parent}"
        data = hello(known)
        for _ in range(count):
            with socket.create_connection(("127.0.0.1", nursery.secure_port), timeout=30) as one:
                one.sendall(data.replace(known.encode(), f"{random.getrandbits(64):016x}.{parent}".encode()))
                assert b"".join(iter(lambda: one.recv(100), b"")) == b"\x15\x03\x03\x00\x02\x02\x70"

    async def come(count: int) -> None:
        parents = ("test", "acme.test", "apps.localhost", HOST)
        await asyncio.gather(*(asyncio.to_thread(strangers, parent, count // len(parents)) for parent in parents))

    await come(STRANGERS // 10)
    before, memory = await asked(), resident(worker)
    await come(STRANGERS)
    after = await asked()  # a worker looks now and then whether the store knows it still, and its slots
    assert max(after[name] - before.get(name, 0) for name in after) < STRANGERS // 100
    assert resident(worker) - memory < 4096
    async with secure(nursery, shop.trusting()) as streams:
        assert await ask(*streams, HOST) == (200, b"r1")
    await asking.aclose()


def hello(name: str) -> bytes:
    """A ClientHello as OpenSSL makes it."""
    outgoing = ssl.MemoryBIO()
    tls = STRANGER.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


STRANGER = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
