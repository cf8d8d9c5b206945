"""Answers of many megabytes on their way to clients that may be slow.

Law 7: only so many bytes of them at once, of one key, one namespace (429 beyond) and all (503); a client that takes
nothing for a while is cut, and counted.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from control.limits.shares import Bounds, Shares
from state.models import ApiKey

LARGE: Final = 256 * 1024  # bytes from which an answer counts
BOUNDS: Final = Bounds(key=32 << 20, namespace=64 << 20, node=128 << 20)
STALL: Final = 30.0  # seconds that a client may take for a piece
SLOWEST: Final = 32 * 1024  # bytes a second, of a whole answer
_PIECE: Final = 64 * 1024


class Sending:
    """The large answers of the process."""

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self.bytes = Shares("large answers on their way", bounds, seconds=1)
        self.cut = 0
        """Answers, also smaller ones, that a client did not take."""

    @property
    def refused(self) -> int:
        return self.bytes.refused

    def note_cut(self) -> None:
        """An answer was not taken."""
        self.cut += 1

    async def json(self, request: web.Request, caller: ApiKey, body: bytes) -> web.StreamResponse:
        """Answer with a JSON text. Raises Problem 429, 503 if too much is on its way already."""
        if len(body) < LARGE or request.method == "HEAD":
            return web.Response(body=body, content_type="application/json", charset="utf-8")
        with self.bytes.held(caller, len(body)):
            return await self._send(request, body)

    async def _send(self, request: web.Request, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type, response.charset = "application/json", "utf-8"
        response.content_length = len(body)
        try:
            await response.prepare(request)
            async with asyncio.timeout(STALL + len(body) / SLOWEST):
                for start in range(0, len(body), _PIECE):
                    async with asyncio.timeout(STALL):
                        await response.write(body[start : start + _PIECE])
        except ConnectionError:
            pass  # the client has left
        except TimeoutError:
            self.note_cut()
            if request.transport is not None:
                request.transport.abort()
        return response
