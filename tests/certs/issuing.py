"""What a control has around the duty that orders certificates, and a node that answers the CA: for tests of both.

Real parts: the store, pebble behind the counting proxy, HTTP and TLS on the ports that pebble looks at.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from certs.acme.challenge import HTTP_01, TLS_ALPN_01, tls_alpn01_digest
from certs.acme.client import AcmeClient
from certs.due import Ca
from certs.internal_leaves import InternalLeaves
from certs.issuer import Issuer
from certs.issuer_account import Accounts
from certs.issuer_desk import Desk, Patience
from certs.issuer_proofs import TxtRecords
from certs.issuer_records import Records
from certs.spending import of_name
from certs.wanted import Platform
from state.certificates import AcmeAccount, Certificate, Challenge, Domain, Issuance, Proof, Spent
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.leases import Lease
from state.mirror import Mirror
from state.models import Event, Route
from state.secret_key import ACME, CERTIFICATES, derive
from state.secrets import Vault
from state.store import Change, Store
from tests.acme_proxy import AcmeProxy
from tests.certs.acme.acme_parties import challenge_certificate
from tests.pebble import Pebble

KEY = bytes(range(32))
NAMESPACE, SERVICE = "acme", "service-1"
DEADLINE = 120.0
QUICK = Patience(acknowledged=5.0, validated=20.0, issued=20.0, first_look=0.05, longest_pause=1.0)
KINDS = [
    *(Kind.DOMAIN, Kind.ROUTE, Kind.CERTIFICATE, Kind.ISSUANCE, Kind.BUDGET, Kind.CHALLENGE, Kind.ACCOUNT, Kind.META)
]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)


async def acknowledged(revision: int, timeout: float) -> bool:
    """Where there are no workers."""
    return True


async def settled(control: Control) -> None:
    """Once it has looked at everything and does nothing more: a further look is waited for, and what it begins."""
    for _ in range(2):
        control.duty.hurry()
        await until(lambda: not control.duty.busy)


class Edge:
    """A node: answers challenges from the records of the store, on the ports that pebble looks at."""

    def __init__(self, store: Store, pebble: Pebble, place: Path) -> None:
        self.mirror = Mirror(store, [Kind.CHALLENGE])
        self.asked: list[str] = []  # types of challenges that the CA looked for
        self.silent: set[str] = set()  # types that are not answered
        self._pebble = pebble
        self._place = place

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Edge]:
        runner = web.ServerRunner(web.Server(self._http), shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._pebble.http_port).start()
        context = self._pebble.minica.server()
        context.set_alpn_protocols(["acme-tls/1"])
        context.sni_callback = self._choose  # type: ignore[assignment]
        server = await asyncio.start_server(self._closed, "127.0.0.1", self._pebble.tls_port, ssl=context)
        following = asyncio.create_task(self.mirror.run())
        try:
            yield self
        finally:
            following.cancel()
            server.close()
            await runner.cleanup()

    async def has(self, revision: int, timeout: float) -> bool:
        """Its acknowledgement."""
        async with asyncio.timeout(timeout):
            await self.mirror.reached(revision)
        return True

    async def _http(self, request: web.BaseRequest) -> web.Response:
        host = request.host.partition(":")[0]
        for answer in self._answers(host, HTTP_01):
            if request.path == f"/.well-known/acme-challenge/{answer.token}":
                self.asked.append(HTTP_01)
                return web.Response(text=answer.key_authorization)
        return web.Response(status=404)

    def _choose(self, tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        for answer in self._answers(name or "", TLS_ALPN_01):
            self.asked.append(TLS_ALPN_01)
            file = self._place / f"{name}.pem"
            file.write_bytes(challenge_certificate(name or "", tls_alpn01_digest(answer.key_authorization)))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(file)
            context.set_alpn_protocols(["acme-tls/1"])
            tls.context = context

    def _answers(self, name: str, kind: str) -> list[Any]:
        challenge = self.mirror.decoded(Kind.CHALLENGE, name, Challenge)
        if challenge is None or kind in self.silent:
            return []
        return [answer for answer in challenge.answers if answer.type == kind]

    async def _closed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()


@dataclass
class Options:
    """Of a control."""

    reach: tuple[str, ...] = (HTTP_01, TLS_ALPN_01)
    platform: Platform = field(default_factory=lambda: Platform("apps.test"))
    fallback: str | None = None
    eab: tuple[str, str] | None = None
    profile: str | None = None
    txt: TxtRecords | None = None
    acme: bool = True


class Control:
    """The duty with a mirror, a try for the lease, and a clock that can be set ahead."""

    def __init__(
        self,
        store: Store,
        directory: str,
        acknowledged: Callable[[int, float], Awaitable[bool]],
        session: aiohttp.ClientSession | None,
        name: str,
        o: Options,
    ) -> None:
        self.store = store
        self.name = name
        self.ahead = 0
        self.events: list[Event] = []
        self.forbidden: Callable[[str], Exception | None] = lambda name: None
        self.vault = Vault(derive(KEY, CERTIFICATES))
        self.mirror = Mirror(store, KINDS, lambda touched: self.duty.changed(touched))
        self.lease = Lease(store, "leader", holder=name, owner=name)
        records = Records(store, self.lease)
        keys = Vault(derive(KEY, ACME))

        def connect(url: str, key: Any, account: str | None) -> AcmeClient:
            return AcmeClient(session, url, key, account, now=self.now)

        cas = [Ca(directory, o.eab)] if o.acme else []
        self.desk = Desk(
            records,
            Accounts(store, self.lease, keys, connect, "ops@example.com", self.now),
            (*cas, *([Ca(o.fallback)] if o.fallback else [])),
            keys,
            self.vault,
            self._allowed,
            acknowledged,
            lambda service, event: self.events.append(event),
            self.now,
            o.reach,
            o.txt,
            o.profile,
            QUICK,
        )
        leaves = InternalLeaves(store, records, self.vault, self.now)
        self.duty = Issuer(store, self.mirror, self.desk, leaves, o.platform)

    def now(self) -> int:
        return now_us() + self.ahead

    async def _allowed(self, name: str, identities: Sequence[str], kind: str, account: str | None) -> None:
        await asyncio.sleep(0)
        if (error := self.forbidden(name)) is not None:
            raise error

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Control]:
        hurry = self.duty.hurry
        async with asyncio.TaskGroup() as tasks:
            life = [
                tasks.create_task(self.mirror.run()),
                tasks.create_task(self.lease.run(lambda _: hurry(), hurry)),
                tasks.create_task(self.duty.run()),
            ]
            yield self
            for task in life:
                task.cancel()
        with contextlib.suppress(Exception):
            await self.lease.release()

    def at(self, time: int) -> None:
        """Set the clock ahead, so that it is `time` now."""
        self.ahead = time - now_us()
        self.duty.hurry()

    def certificate(self, name: str) -> Certificate | None:
        return self.mirror.decoded(Kind.CERTIFICATE, name, Certificate)

    def issuance(self, name: str) -> Issuance | None:
        return self.mirror.decoded(Kind.ISSUANCE, name, Issuance)

    def spent(self, name: str) -> Spent:
        """Of its budgets."""
        return self.mirror.decoded(Kind.BUDGET, of_name(name), Spent) or Spent()

    def account(self) -> AcmeAccount | None:
        return self.mirror.decoded(Kind.ACCOUNT, self.desk.cas[0].directory, AcmeAccount)

    async def served(self, name: str, but: Certificate | None = None) -> Certificate:
        """Once there is a certificate for it, another than `but`."""
        await until(lambda: self.certificate(name) not in (None, but))
        found = self.certificate(name)
        assert found is not None
        return found

    async def failed(self, name: str, reason: str) -> Issuance:
        await until(lambda: (found := self.issuance(name)) and found.reason == reason)
        found = self.issuance(name)
        assert found is not None
        return found

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


class Bare:
    """A store, and controls that ask no CA."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def control(self, name: str = "one", **options: Any) -> Control:
        return Control(self.store, "https://ca.test/dir", acknowledged, None, name, Options(**options))

    async def hold(self, name: str, namespace: str = NAMESPACE, **changes: Any) -> None:
        """As the verifier writes it once a claim is proved."""
        claim = Domain(namespace, name, SERVICE, now_us(), proof=Proof.VERIFIED, held=True, pointing=True)
        claim = replace(claim, verified_at=now_us(), checked_at=now_us(), check_at=now_us() + 3_600_000_000)
        route = Route(SERVICE, namespace, "api")
        await self.store.commit(
            [
                Change(Kind.DOMAIN, f"{namespace}/{name}", encode(replace(claim, **changes))),
                Change(Kind.ROUTE, name, encode(route)),
            ]
        )

    async def remove(self, name: str, namespace: str = NAMESPACE) -> None:
        """As the API does it."""
        kinds = (Kind.ROUTE, Kind.CERTIFICATE, Kind.ISSUANCE, Kind.CHALLENGE)
        gone = [Change(kind, name, None) for kind in kinds]
        await self.store.commit([Change(Kind.DOMAIN, f"{namespace}/{name}", None), *gone])


class World(Bare):
    """One CA, one node that answers it, and as many controls as a test wants."""

    def __init__(
        self,
        store: Store,
        pebble: Pebble,
        proxy: AcmeProxy,
        edge: Edge,
        session: aiohttp.ClientSession,
        tls: ssl.SSLContext,
    ) -> None:
        super().__init__(store)
        self.pebble = pebble
        self.proxy = proxy
        self.edge = edge
        self.session = session
        self.tls = tls

    def trust(self, other: Pebble) -> None:
        """Its TLS, too."""
        self.tls.load_verify_locations(other.ca)

    def control(self, name: str = "one", **options: Any) -> Control:
        return Control(self.store, self.proxy.directory, self.edge.has, self.session, name, Options(**options))

    @property
    def orders(self) -> int:
        return self.proxy.counts["newOrder"]


@contextlib.asynccontextmanager
async def world(store: Store, pebble: Pebble, place: Path) -> AsyncIterator[World]:
    tls = pebble.minica.client()
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session,
        AcmeProxy(pebble) as proxy,
        Edge(store, pebble, place).running() as edge,
    ):
        yield World(store, pebble, proxy, edge, session, tls)
