"""Answers of many megabytes on their way to clients that may be slow.

Law 7: only so many bytes of them at once, the others are refused (503); a client that takes nothing for a while is cut,
and counted.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from control.problem import Problem

LARGE: Final = 256 * 1024  # bytes from which an answer counts
AT_ONCE: Final = 128 << 20
STALL: Final = 30.0  # seconds that a client may take for a piece
_PIECE: Final = 64 * 1024


class Sending:
    """The large answers of the process."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self.bytes = 0
        self.refused = 0
        self.cut = 0
        self._at_once = at_once

    async def json(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """Answer with a JSON text. Raises Problem 503 if too much is on its way already."""
        if len(body) < LARGE or request.method == "HEAD":
            return web.Response(body=body, content_type="application/json", charset="utf-8")
        if self.bytes and self.bytes + len(body) > self._at_once:
            self.refused += 1
            raise Problem(503, "Too many large answers are on their way; try again.", headers={"Retry-After": "1"})
        self.bytes += len(body)
        try:
            return await self._send(request, body)
        finally:
            self.bytes -= len(body)

    async def _send(self, request: web.Request, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type, response.charset = "application/json", "utf-8"
        response.content_length = len(body)
        try:
            await response.prepare(request)
            for start in range(0, len(body), _PIECE):
                async with asyncio.timeout(STALL):
                    await response.write(body[start : start + _PIECE])
        except ConnectionError:
            pass  # the client has left
        except TimeoutError:
            self.cut += 1
            if request.transport is not None:
                request.transport.abort()
        return response
