"""The API's HTTP server on listening sockets that somebody else opened.

Law 7: a connection that sends no request head within HEAD_TIMEOUT is closed; idle ones after KEEP_ALIVE. A stop lets
the requests in flight finish within the time given.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import RequestHandler

from control.connection import Connection
from control.contract.problem import guarded
from control.credentials.gateway import Gateway

HEAD_TIMEOUT: Final = 10.0  # seconds
KEEP_ALIVE: Final = 75.0
_LINGER: Final = 2.0  # seconds for the rest of a body that was not read


class ApiServer:
    """`await start()`, and `await stop()` once; `grace` in seconds is what a stop gives to requests in flight.

    `on_cut` is called for each connection that was cut since its client took no answer. `gateway`: that of the node, if
    it brings requests.
    """

    def __init__(
        self,
        app: web.Application,
        sockets: Sequence[socket.socket],
        *,
        grace: float = 10.0,
        on_cut: Callable[[], None] = lambda: None,
        gateway: Gateway | None = None,
    ) -> None:
        self._gateway = gateway
        self._app = app
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=grace)
        self._sockets = sockets
        self._on_cut = on_cut
        self._servers: list[asyncio.Server] = []
        self._silent: dict[RequestHandler, asyncio.TimerHandle] = {}

    async def start(self) -> None:
        await self._runner.setup()
        handlers = self._runner.server
        if handlers is None:
            raise RuntimeError("the runner has no server after its setup")
        # an application's server only ever makes requests that have a route, which aiohttp's types don't say
        handlers.request_handler = self._noting_heads(guarded(handlers.request_handler))  # type: ignore[assignment]
        if self._gateway is not None:
            handlers.request_factory = self._gateway.recognizing(handlers.request_factory)  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()

        def connection() -> Connection:
            protocol = Connection(
                handlers,
                self._app.router,
                self._on_cut,
                access_log=None,
                keepalive_timeout=KEEP_ALIVE,
                lingering_time=_LINGER,
            )
            self._silent[protocol] = loop.call_later(HEAD_TIMEOUT, self._give_up, protocol)
            return protocol

        for sock in self._sockets:
            sock.setblocking(False)
            self._servers.append(await loop.create_server(connection, sock=sock, backlog=1024))

    async def stop(self) -> None:
        """Take no more connections, let requests in flight finish, close the rest."""
        for server in self._servers:
            server.close()
        for timer in self._silent.values():
            timer.cancel()
        await self._runner.cleanup()

    def _give_up(self, protocol: RequestHandler) -> None:
        del self._silent[protocol]
        protocol.force_close()

    def _noting_heads(self, handler: Handler) -> Handler:
        """Learns that a connection has sent a whole head."""

        async def arrived(request: web.Request) -> web.StreamResponse:
            if timer := self._silent.pop(request.protocol, None):
                timer.cancel()
            return await handler(request)

        return arrived
