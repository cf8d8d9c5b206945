"""The API as an aiohttp application: its groups of paths (`control.handlers`) and what each of them needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from control import query
from control.access import Access
from control.catalogue import Catalogue
from control.handlers.events import EventHandlers
from control.handlers.health import HealthHandlers
from control.handlers.keys import KeyHandlers
from control.handlers.logs import LogHandlers
from control.handlers.services import ServiceHandlers
from control.key_use import KeyUse
from control.keys import Keys
from control.ports import Logs, Objects
from control.problem import without_banner
from control.services import Services
from control.site import Site
from state.store import Store


@dataclass(frozen=True, slots=True)
class Api:
    """What the handlers need. `metrics` gives the exposition's text; `unready` the reasons against readiness."""

    store: Store
    objects: Objects
    catalogue: Catalogue
    services: Services
    keys: Keys
    key_use: KeyUse
    logs: Logs
    site: Site
    metrics: Callable[[], Awaitable[tuple[bytes, str]]]
    unready: Callable[[], Sequence[str]] = field(default=tuple)

    def application(self) -> web.Application:
        access = Access(self.objects, self.catalogue, self.key_use)
        app = web.Application(client_max_size=query.BODY_LIMIT)
        app.on_response_prepare.append(without_banner)
        for group in (
            HealthHandlers(access, self.catalogue, self.site, self.metrics, self.unready),
            KeyHandlers(access, self.catalogue, self.keys),
            ServiceHandlers(access, self.catalogue, self.services, self.site),
            LogHandlers(access, self.logs),
            EventHandlers(access, self.store),
        ):
            app.add_routes(group.routes())
        return app
