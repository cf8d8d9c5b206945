"""Real parts of a data plane, without a loop and without sockets: for tests of what decides over them."""

from __future__ import annotations

import asyncio

from gateway.access_log import AccessLog
from gateway.dispatch import Dispatcher
from gateway.exchange import Exchange
from gateway.http1.server import ServerConnection
from gateway.http1.upstream import UpstreamConnection
from gateway.messages import Request
from gateway.replica import Replica
from gateway.settings import GatewaySettings
from gateway.sweep import Sweep
from gateway.table import Table
from state.models import Backend, Route


class Nobody:
    """A source that knows no service, a demand that tells nobody."""

    def route(self, host: str) -> Route | None:
        return None

    def backend(self, service_id: str) -> Backend | None:
        return None

    def wake(self, service_id: str) -> None: ...

    def changed(self, service_id: str) -> None: ...

    def answered(self, replica_id: str, first_byte: int) -> None: ...


class Line(asyncio.Transport):
    """A connection that stays open until it is aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


def an_office() -> Dispatcher:
    return Dispatcher(GatewaySettings(), Table(Nobody()), AccessLog(None), Nobody(), Sweep(0.0))


def an_exchange() -> Exchange:
    office = an_office()
    return Exchange(Request(b"GET", b"/", False), ServerConnection(office, False), office, office.limits, 0.0)


def a_connection(replica: Replica) -> tuple[UpstreamConnection, Line]:
    """Idle, to `replica`."""
    up, line = UpstreamConnection(an_office(), replica), Line()
    up.connection_made(line)
    return up, line
