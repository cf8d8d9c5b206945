"""How clients come in: plain or over TLS, with or without a trusted proxy in front. One per worker.

What costs nothing where it isn't used: without trusted proxies no preface is looked for, and plain connections never
meet TLS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from gateway.dispatch import Dispatcher
from gateway.http1.server import ServerConnection
from gateway.prefaced import Prefaced, Prefaces
from gateway.secure import Moves, Redirects
from gateway.table import Table
from gateway.tls.contexts import Certificates
from gateway.tls.handshakes import Handshakes
from gateway.tls.opening import Opening


class Doors:
    """`plain` and `tls` make the protocol of one accepted connection. `say` gets lines for the operator."""

    def __init__(
        self, office: Dispatcher, table: Table, certificates: Certificates | None, say: Callable[[str], None]
    ) -> None:
        self._office = office
        self._table = table
        self._prefaces = Prefaces()
        self._expects_prefaces = bool(office.settings.trusted_proxies)
        self._handshakes = (
            None if certificates is None else Handshakes(certificates, say, self._routed, office.challenges.digest)
        )
        if self._handshakes is not None:
            office.moves = Moves(office.settings, self._handshakes.contexts)
        if self._handshakes is not None and office.settings.https_redirect != "off":
            office.redirects = Redirects(office.settings, self._handshakes.contexts)

    def plain(self) -> asyncio.BaseProtocol:
        connection = ServerConnection(self._office, False)
        return self._accept(connection, connection)

    def tls(self) -> asyncio.BaseProtocol:
        if self._handshakes is None:
            raise RuntimeError("a TLS listener without certificates")
        opening = Opening(self._office, self._handshakes)
        return self._accept(opening, opening.inner)

    def _routed(self, name: str) -> bool:
        return self._table.route(name) is not None or self._table.reserved(name)

    def _accept(self, connection: object, down: ServerConnection) -> asyncio.BaseProtocol:
        """Protocols by their methods, not their base class, so that they compile."""
        protocol = cast("asyncio.Protocol", connection)
        if self._expects_prefaces:
            return cast("asyncio.BaseProtocol", Prefaced(self._office, protocol, down, self._prefaces))
        return protocol

    def recertify(self, record: str) -> None:
        """The certificate of this id was added, changed or removed. Handshakes from now on see it."""
        if self._handshakes is not None:
            self._handshakes.contexts.forget(record)
        if self._office.redirects is not None:
            self._office.redirects.forget()

    def challenge(self, domain: str) -> None:
        """What certificate authorities are shown of this name is another, or nothing any more."""
        if self._handshakes is not None:
            self._handshakes.proofs.forget(domain)

    def counters(self) -> dict[str, Any]:
        """Cumulative: {"tls": …, "proxy_protocol": {"read": n, "malformed": n}}, each only where it is in use."""
        counted: dict[str, Any] = {}
        if self._handshakes is not None:
            counted["tls"] = self._handshakes.counters()
        if self._expects_prefaces:
            counted["proxy_protocol"] = self._prefaces.counters()
        return counted

    def close(self) -> None:
        if self._handshakes is not None:
            self._handshakes.close()
