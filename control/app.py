"""The API as an aiohttp application: its groups of paths (`control.handlers`) and what each of them needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata

from aiohttp import web

from control.contract import query
from control.contract.openapi import OPENAPI, serialized
from control.credentials.access import Access
from control.credentials.failures import LIMIT, Failures
from control.credentials.key_use import KeyUse
from control.credentials.keys import Keys
from control.door import Door
from control.handlers.analytics import AnalyticsHandlers, Readable
from control.handlers.deployments import DeploymentHandlers
from control.handlers.domains import DomainHandlers
from control.handlers.events import EventHandlers
from control.handlers.health import HealthHandlers
from control.handlers.hooks import HookHandlers
from control.handlers.keys import KeyHandlers
from control.handlers.logs import LogHandlers
from control.handlers.services import ServiceHandlers
from control.limits import rate_limit
from control.limits.idempotency import Idempotency
from control.limits.rate_limit import RateLimit
from control.ports import Logs, Objects
from control.pushes.hooks import HOOKS, Hooks
from control.services.catalogue import Catalogue
from control.services.writes import Services
from control.site import Site
from control.streaming.streams import Streams
from state.secrets import Vault
from state.store import Store


@dataclass(frozen=True, slots=True)
class Api:
    """What the handlers need. `metrics` gives the exposition's text; `unready` the reasons against readiness.

    `vault` seals answers that are kept; `rate`: requests a minute of one key, 0 = any number.
    """

    store: Store
    objects: Objects
    catalogue: Catalogue
    services: Services
    keys: Keys
    key_use: KeyUse
    logs: Logs
    analytics: Readable
    site: Site
    vault: Vault
    metrics: Callable[[], Awaitable[tuple[bytes, str]]]
    unready: Callable[[], Sequence[str]] = field(default=tuple)
    rate: int = rate_limit.DEFAULT
    streams: Streams = field(default_factory=Streams)

    def application(self) -> web.Application:
        access = Access(self.objects, self.catalogue, self.key_use)
        app = web.Application(client_max_size=query.BODY_LIMIT)
        limit, failures = RateLimit(self.store, self.objects, self.rate), Failures(self.rate or LIMIT)
        Door(access, limit, failures, Idempotency(self.store, self.vault)).open(app)
        app.on_shutdown.append(self._let_go)
        app[HOOKS] = hooks = Hooks(self.store, self.objects, self.catalogue, self.services)
        for group in (
            HealthHandlers(access, self.catalogue, self.site, self.metrics, self.unready),
            KeyHandlers(access, self.catalogue, self.keys, self.site),
            ServiceHandlers(access, self.catalogue, self.services, self.site),
            DeploymentHandlers(access, self.catalogue, self.services, self.site),
            DomainHandlers(access, self.catalogue, self.services.domains, self.site),
            LogHandlers(access, self.catalogue, self.logs, self.streams),
            EventHandlers(access, self.catalogue, self.store, self.streams),
            AnalyticsHandlers(access, self.analytics),
            HookHandlers(access, hooks, self.site),
        ):
            app.add_routes(group.routes())
        app[OPENAPI] = serialized(app.router.routes(), metadata.version("wakegate"))
        return app

    async def _let_go(self, _: web.Application) -> None:
        """Calls that wait answer with what there is, and streams end, before the server waits for them."""
        self.catalogue.waiting.close()
        self.streams.close()
