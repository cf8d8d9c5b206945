"""The API on a real socket over a real store. Workers and replicas are not part of these tests."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from domain_parts import CERTIFICATE_VAULT, TOKEN_KEY

from activator.logs import LogStore
from control.analytics.collector import Analytics
from control.app import Api
from control.claims.claimant import Claimant
from control.credentials.gateway import Gateway
from control.credentials.key_use import KeyUse
from control.credentials.keys import Keys, make_first_key
from control.domains import Platform
from control.server import ApiServer
from control.services.catalogue import Catalogue
from control.services.writes import Services
from control.site import Site
from control.streaming.streams import Streams
from state.codec import encode
from state.kinds import Kind
from state.mirror import Mirror
from state.models import ApiKey, Node, Offer
from state.secret_key import ENVIRONMENT, derive
from state.secrets import Vault
from state.store import Change, Store


class Workers:
    """Stands for the gateway's workers, which have tests of their own: says when they have applied a revision."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, float | None]] = []
        self.acknowledge = asyncio.Event()
        self.acknowledge.set()

    async def wait(self, revision: int, timeout: float | None) -> bool:
        self.asked.append((revision, timeout))
        try:
            async with asyncio.timeout(timeout):
                await self.acknowledge.wait()
        except TimeoutError:
            return False
        return True


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def fields(self) -> set[str]:
        """The fields that a problem names."""
        return {error["field"] for error in self.json.get("errors", ())}


class Client:
    """Asks the API with a key, or with none."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self.session = session
        self.url = url
        self.token = token

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        data: Any = None,
    ) -> Answer:
        key = self.token if token is None else token
        sent = {**({"Authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
        more: dict[str, Any] = {}
        if data is not None:
            more["data"] = io.BytesIO(data) if isinstance(data, bytes) else data
        if body is not None:
            more["json"] = body
        async with self.session.request(method, self.url + path, headers=sent, **more) as response:
            return Answer(response.status, response.headers, await response.text())


@dataclass
class Rig:
    store: Store
    mirror: Mirror
    catalogue: Catalogue
    services: Services
    vault: Vault
    workers: Workers
    logs: LogStore
    analytics: Analytics
    log_directory: Path
    site: Site
    api: Client
    url: str
    token: str
    server: ApiServer
    streams: Streams

    async def create(self, name: str, namespace: str = "acme", **fields: Any) -> Answer:
        body = {"name": name, "repo": "acme/app", "gpu": "none", **fields}
        return await self.api("POST", f"/auth/v1/seed/{namespace}/services", body)

    async def delete(self, name: str, namespace: str = "acme") -> Answer:
        return await self.api("DELETE", f"/auth/v1/seed/{namespace}/services/{name}")

    async def key(self, name: str, namespace: str, scope: str, **fields: Any) -> str:
        answer = await self.api(
            "POST", "/auth/v1/keys", {"name": name, "namespace": namespace, "scope": scope, **fields}
        )
        assert answer.status == 201, answer.text
        return str(answer.json["key"])

    async def contents(self) -> dict[str, set[str]]:
        """Every object of the store by kind, but for what there was at the start."""
        found = {kind.value: {i async for i, _ in self.store.scan(kind)} for kind in Kind}
        return {kind: ids for kind, ids in found.items() if ids and kind not in ("key", "node")}


SITE = Site(
    platform=Platform("apps.localhost", "api.example.com"),
    http_port=8080,
    region="us-east-1",
    api="https://api.example.com",
)
GATEWAY_TOKEN = "what the workers and the API were given"
PROXIES = (ip_network("10.0.0.0/8"),)


@pytest.fixture
def site() -> Site:
    return SITE


@pytest.fixture
def offers() -> Mapping[str, Offer]:
    """What each node of the store offers."""
    return {region: Offer("process", region, {"T4": 2}) for region in ("us-east-1", "eu-west-1")}


async def listed(store: Store, offers: Mapping[str, Offer]) -> None:
    """What the control of each node writes."""
    await store.commit([Change(Kind.NODE, f"of-{name}", encode(Node(offer))) for name, offer in offers.items()])


async def _metrics() -> tuple[bytes, str]:
    return b"wakegate_up 1\n", "text/plain; version=0.0.4; charset=utf-8"


async def _use(mirror: Mirror, key_use: KeyUse, identity: str) -> None:
    """The first use of a key is a commit; here it has happened already, so that revisions are those of the test."""
    key = mirror.decoded(Kind.KEY, identity, ApiKey)
    assert key is not None
    key_use.note(key)
    async with asyncio.timeout(30):
        while (key := mirror.decoded(Kind.KEY, identity, ApiKey)) is None or key.used_at is None:
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def opened(
    store: Store,
    site: Site,
    directory: Path,
    vault: Vault,
    token: str | None = None,
    rate: int = 0,
    asked: Store | None = None,
) -> AsyncIterator[Rig]:
    """An API process on the store; the first one makes the admin key, whose `token` another one is given.

    `rate`: requests a minute of one key, 0 = any number. `asked`: a client of its own for all that requests ask for, so
    that faults of it are theirs alone.
    """
    changed: list[Callable[[Any], None]] = []
    mirror = Mirror(store, list(Kind), lambda touched: changed[0](touched))
    streams = Streams()
    catalogue = Catalogue(mirror, streams.keys_revoked)
    changed.append(catalogue.changed)
    workers, logs = Workers(), LogStore(directory / "logs")
    analytics = Analytics(store, mirror, lambda: None)
    asked = asked or store
    services = Services(asked, mirror, catalogue, vault, workers, Claimant(site, TOKEN_KEY), CERTIFICATE_VAULT)
    key_use = KeyUse(store, mirror)
    tasks = [asyncio.create_task(work) for work in (mirror.run(), key_use.run(), streams.listen(store))]
    await mirror.synced()
    if token is None:
        token = await make_first_key(store, mirror, directory / "admin.key")
        assert token is not None
        await _use(mirror, key_use, "*/admin")
    api = Api(
        store=asked,
        objects=mirror,
        catalogue=catalogue,
        services=services,
        keys=Keys(asked, mirror, catalogue),
        key_use=key_use,
        logs=logs,
        analytics=analytics,
        site=site,
        vault=vault,
        metrics=_metrics,
        unready=lambda: () if mirror.connected else ("the store can't be reached",),
        rate=rate,
        streams=streams,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    gateway = Gateway(GATEWAY_TOKEN, PROXIES)
    server = ApiServer(api.application(), [listener], grace=1.0, on_cut=streams.sending.note_cut, gateway=gateway)
    await server.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with aiohttp.ClientSession() as session:
        yield Rig(
            store,
            mirror,
            catalogue,
            services,
            vault,
            workers,
            logs,
            analytics,
            directory / "logs",
            site,
            Client(session, url, token),
            url,
            token,
            server,
            streams,
        )
    await server.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def rig(store: Store, site: Site, offers: Mapping[str, Offer], tmp_path: Path) -> AsyncIterator[Rig]:
    await listed(store, offers)
    vault = Vault(derive(secrets.token_bytes(32), ENVIRONMENT))
    async with opened(store, site, tmp_path, vault) as made:
        yield made


@pytest.fixture
def limited_to(rig: Rig) -> Callable[[int], contextlib.AbstractAsyncContextManager[Rig]]:
    """Opens another API process on the same store, where each key may make so many requests a minute."""
    return lambda rate: opened(rig.store, rig.site, rig.log_directory.parent, rig.vault, rig.token, rate)


@pytest.fixture
async def neighbour(rig: Rig, store_url: str) -> AsyncIterator[Rig]:
    """The API of another node: the same store, a client and a mirror of its own."""
    store = Store(store_url)
    async with opened(store, rig.site, rig.log_directory.parent, rig.vault, rig.token) as made:
        yield made
    await store.close()
