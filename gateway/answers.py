"""The gateway's own answers: a status, `Proxy-Status` (RFC 9209) and a short body, JSON or HTML by `Accept`.

The JSON is a problem document (RFC 9457), and is called so where `Accept` names that.
"""

from __future__ import annotations

import html
import json
import random
from typing import Final

from gateway.errors import Failure, Waiting
from gateway.messages import Request, Response
from gateway.negotiation import prefers_html
from gateway.waiting_page import navigates, waiting_page

REASONS: Final = {
    100: b"Continue",
    200: b"OK",
    308: b"Permanent Redirect",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    417: b"Expectation Failed",
    421: b"Misdirected Request",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}
ALLOWED: Final = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"
_HTML: Final = b"text/html; charset=utf-8"
_PROBLEM: Final = b"application/problem+json"  # RFC 9457
_SECRET: Final = (b"authorization:", b"cookie:", b"proxy-authorization:")


def answer(failure: Failure, request: Request | None, unread: bytes = b"") -> tuple[Response, bytes]:
    """What the client is told. If no request could be read it is None, and `unread` the id of what came instead."""
    request_id = (unread if request is None else request.request_id).decode("ascii")
    reason = REASONS.get(failure.status, b"Error")
    more: list[bytes] = []
    if request is not None and isinstance(failure, Waiting) and navigates(request):
        kind = _HTML
        body, more = waiting_page(failure, request)
    elif request is not None and prefers_html(request.accept):
        kind = _HTML
        body = _page(failure, reason.decode(), request_id)
    else:
        kind = _PROBLEM if request is not None and _PROBLEM in request.accept else b"application/json"
        body = _document(failure, reason.decode(), request_id)
    response = _response(failure.status, reason, kind, body, request)
    response.lines += more
    response.lines.append(proxy_status(failure))
    if failure.location:
        response.lines.append(b"Location: " + failure.location)
    if failure.retry_after:
        response.lines.append(b"Retry-After: %d" % failure.retry_after)
    if failure.status == 405:
        response.lines.append(ALLOWED)
    return response, b"" if response.bodiless else body


def fresh_id() -> bytes:
    """A request id: 32 hexadecimal digits."""
    return b"%032x" % random.getrandbits(128)


def options_answer() -> tuple[Response, bytes]:
    """OPTIONS with Max-Forwards 0."""
    response = Response(200, REASONS[200])
    response.length = 0
    response.lines = [ALLOWED, b"Content-Length: 0"]
    return response, b""


def proof_answer(request: Request, key_authorization: bytes) -> tuple[Response, bytes]:
    """What a certificate authority looks for (RFC 8555 8.3)."""
    response = _response(200, REASONS[200], b"application/octet-stream", key_authorization, request)
    response.lines.append(b'Proxy-Status: wakegate; details="an ACME challenge"')
    return response, b"" if response.bodiless else key_authorization


def trace_answer(request: Request) -> tuple[Response, bytes]:
    """TRACE with Max-Forwards 0: the request as we got it, less credentials (RFC 9110 9.3.8)."""
    lines = [b"TRACE %b HTTP/1.1" % request.target, b"Host: %b" % request.host]
    lines += [line for line in request.lines if not line.lower().startswith(_SECRET)]
    body = b"\r\n".join(lines) + b"\r\n\r\n"
    return _response(200, REASONS[200], b"message/http", body, request), body


def proxy_status(failure: Failure) -> bytes:
    """RFC 9209 2: `wakegate; error=…; details="…"`; details are our own words, made safe for a quoted string."""
    details = failure.details.replace("…", "...")
    details = "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in details)
    error = f" error={failure.error};" if failure.error else ""
    return f'Proxy-Status: wakegate;{error} details="{details}"'.encode("ascii")


def _response(status: int, reason: bytes, kind: bytes, body: bytes, request: Request | None) -> Response:
    response = Response(status, reason)
    response.length = len(body)
    response.bodiless = request is not None and request.method == b"HEAD"
    response.lines = [b"Content-Type: " + kind, b"Content-Length: %d" % len(body), b"Cache-Control: no-store"]
    return response


def _document(failure: Failure, reason: str, request_id: str) -> bytes:
    document = {
        "status": failure.status,
        "title": reason,
        "error": failure.error,
        "detail": failure.details,
        "request_id": request_id,
    }
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _page(failure: Failure, reason: str, request_id: str) -> bytes:
    title = f"{failure.status} {reason}"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<style>body{{font:16px/1.5 system-ui;margin:15vh auto;max-width:34em;padding:0 1em}}"
        f"small{{color:#777}}</style><h1>{title}</h1><p>{html.escape(failure.details)}</p>"
        f"<p><small>Request {html.escape(request_id)}</small></p></html>\n"
    ).encode()
