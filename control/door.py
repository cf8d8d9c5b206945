"""The door of the API, which every request passes: request id, key, quota, idempotency, then the handler.

`control.contract.operations` says which requests need a key; whether that key may do what it asks for, the handler
decides by `control.credentials.access`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from control.contract.conditions import unless_known
from control.contract.operations import declared
from control.contract.problem import REQUEST_ID, Problem
from control.credentials.access import Access
from control.credentials.failures import Failures
from control.limits.idempotency import HEADER, Idempotency
from control.limits.rate_limit import Quota, RateLimit
from state.models import ApiKey
from state.store import StoreError

QUOTA: Final = web.RequestKey("quota", Quota)


@dataclass(frozen=True, slots=True)
class Door:
    """Its parts count what they refuse and what they drop."""

    access: Access
    limit: RateLimit
    failures: Failures
    idempotency: Idempotency

    def open(self, app: web.Application) -> None:
        """Put it before the application's handlers."""
        app[DOOR] = self
        app.middlewares.append(self.pass_through)
        app.on_response_prepare.append(finish)

    @web.middleware
    async def pass_through(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        operation = declared(request.match_info.handler)
        if operation is None or operation.needs is None:
            return unless_known(request, await handler(request))
        key = self._known(request)
        if quota := await self.limit.spend(key):
            request[QUOTA] = quota
        if operation.asks_store and self.limit.silent:
            raise StoreError("it does not answer")  # as its reads would find out, some seconds later
        if request.method == "POST" and HEADER in request.headers:
            return await self.idempotency.once(request, key, handler)
        return unless_known(request, await handler(request))

    def _known(self, request: web.Request) -> ApiKey:
        """Raises Problem 401, 429, 503."""
        try:
            return self.access.caller(request)
        except Problem as problem:
            if problem.status == 401 and (wait := self.failures.note(request.remote, time.monotonic())):
                detail = "Too many requests without a valid key came from this address."
                raise Problem(429, detail, headers={"Retry-After": str(int(wait) + 1)}) from None
            raise


DOOR: Final = web.AppKey("door", Door)


async def finish(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """A signal before each answer, streams among them: what all of them say, and what none does."""
    response.headers["X-Request-Id"] = request[REQUEST_ID]
    if quota := request.get(QUOTA):
        for name, value in quota.headers.items():
            response.headers.setdefault(name, value)
    response.headers.popall("Server", None)  # what this is made of is nobody's business
