"""Errors of the API as problem documents (RFC 9457), and the one place where exceptions become them.

Laws kept here: every answer carries a request id; bad input names every bad field at once; a 500 tells its request id
and nothing else (the trace goes to the log); a store that can't be reached is 503, never 500.
"""

from __future__ import annotations

import http
import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from state.store import StoreError

CONTENT_TYPE: Final = "application/problem+json"
REQUEST_ID: Final = web.RequestKey("request_id", str)

_RETRY_AFTER: Final = "1"  # seconds until a store that is gone is asked again

_log = logging.getLogger("wakegate.api")


@dataclass(frozen=True, slots=True)
class FieldError:
    """One bad field; `field` is its path with dots, such as `scaling.concurrency` or `env.KEY`."""

    field: str
    message: str


class Problem(Exception):
    """An answer that is not a success: `status`, a sentence for people, and the bad fields if there are any."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})

    def document(self, request_id: str) -> dict[str, Any]:
        """RFC 9457 section 3.1; `type` is `about:blank`, which is left out, and `title` the status phrase."""
        document: dict[str, Any] = {
            "title": http.HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
        }
        if self.errors:
            document["errors"] = [{"field": e.field, "message": e.message} for e in self.errors]
        return document


def bad_request(errors: Sequence[FieldError]) -> Problem:
    """400 for fields that are malformed, of the wrong type, out of range or unknown."""
    return Problem(400, _summary(errors), errors)


def unprocessable(errors: Sequence[FieldError]) -> Problem:
    """422 for fields that are valid each, but not together or not here."""
    return Problem(422, _summary(errors), errors)


def not_found(what: str = "There is nothing at this path.") -> Problem:
    return Problem(404, what)


def _summary(errors: Sequence[FieldError]) -> str:
    fields = dict.fromkeys(error.field for error in errors)
    if len(fields) == 1:
        return f"{errors[0].field}: {'; '.join(error.message for error in errors)}"
    return f"{len(fields)} fields are wrong: {', '.join(fields)}"


class ProblemResponse(web.Response):
    """A problem document as an answer, also where no route is known: then nothing else takes the banner off."""

    def __init__(self, problem: Problem, request_id: str) -> None:
        super().__init__(
            status=problem.status,
            text=json.dumps(problem.document(request_id)),
            content_type=CONTENT_TYPE,
            headers={**problem.headers, "X-Request-Id": request_id},
        )

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.popall("Server", None)


def guarded(handler: Handler) -> Handler:
    """The boundary: gives the request its id, unless it has one, and turns whatever is raised into a problem document.

    It stands around the router, too, so that what that raises is nothing special.
    """

    async def answered(request: web.Request) -> web.StreamResponse:
        request_id = request[REQUEST_ID] = request.get(REQUEST_ID) or new_request_id()
        try:
            response = await handler(request)
        except Exception as error:
            return ProblemResponse(translated(error, request), request_id)
        if not response.prepared:
            response.headers["X-Request-Id"] = request_id
        return response

    return answered


def new_request_id() -> str:
    return secrets.token_hex(16)


def translated(error: Exception, request: web.Request) -> Problem:
    """What the caller is told of an exception; what he is not told is logged."""
    match error:
        case Problem():
            return error
        case StoreError():
            _log.warning("%s %s: %s", request.method, request.path, error)
            return Problem(503, "The store can't be reached; try again.", headers={"Retry-After": _RETRY_AFTER})
        case web.HTTPMethodNotAllowed():
            allow = ", ".join(sorted(error.allowed_methods))
            return Problem(405, f"{request.method} is not allowed here. Allowed: {allow}.", headers={"Allow": allow})
        case web.HTTPNotFound():
            return not_found()
        case web.HTTPRequestEntityTooLarge():
            return Problem(413, "The body is larger than 1 MiB.", headers={"Connection": "close"})
        case web.HTTPException():
            return Problem(error.status, error.reason)
        case _:
            _log.exception("request %s: %s %s", request[REQUEST_ID], request.method, request.path)
            return Problem(500, "Something went wrong on our side; the request id finds it in the log.")
