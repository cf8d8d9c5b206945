"""A plain reverse proxy as one writes it with aiohttp: server + client, the comparison in the same language.

Usage: aiohttp_proxy.py PORT BACKEND_PORT LOG
"""

import asyncio
import json
import logging
import logging.handlers
import sys
import time
import uuid

import aiohttp
import uvloop
from aiohttp import web

HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
CHUNK = 256 * 1024


class Proxy:
    def __init__(self, backend: str, log: logging.Logger) -> None:
        self.backend = backend
        self.log = log
        self.session: aiohttp.ClientSession

    async def client(self, _app: web.Application):
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3600)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as self.session:
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        started = time.monotonic()
        request_id = uuid.uuid4().hex
        answer, size = await self._forward(request, request_id)
        self.log.info(
            json.dumps(
                {
                    "time": time.time(),
                    "client": request.remote,
                    "method": request.method,
                    "host": request.host,
                    "target": request.raw_path,
                    "status": answer.status,
                    "bytes_in": request.content_length or 0,
                    "bytes_out": size,
                    "seconds": time.monotonic() - started,
                    "upstream": self.backend,
                    "request_id": request_id,
                    "user_agent": request.headers.get("User-Agent"),
                }
            )
        )
        return answer

    async def _forward(self, request: web.Request, request_id: str) -> tuple[web.StreamResponse, int]:
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
        headers += [
            ("X-Forwarded-For", request.remote or ""),
            ("X-Forwarded-Proto", request.scheme),
            ("X-Forwarded-Host", request.host),
            ("X-Request-Id", request_id),
            ("Via", "1.1 aiohttp"),
        ]
        body = request.content if request.body_exists else None
        size = 0
        async with self.session.request(
            request.method, self.backend + request.raw_path, headers=headers, data=body, allow_redirects=False
        ) as upstream:
            kept = [(name, value) for name, value in upstream.headers.items() if name.lower() not in HOP_BY_HOP]
            answer = web.StreamResponse(status=upstream.status, headers=dict(kept))
            await answer.prepare(request)
            async for chunk in upstream.content.iter_chunked(CHUNK):
                size += len(chunk)
                await answer.write(chunk)
            await answer.write_eof()
        return answer, size


def access_log(path: str) -> logging.Logger:
    log = logging.getLogger("access")
    log.setLevel(logging.INFO)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    return log


async def main() -> None:
    port, backend, log = sys.argv[1:4]
    proxy = Proxy(f"http://127.0.0.1:{backend}", access_log(log))
    app = web.Application()
    app.cleanup_ctx.append(proxy.client)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=3600)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(port), backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
