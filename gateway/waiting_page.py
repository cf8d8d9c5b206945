"""The page that a browser gets while what it asks for is asleep: it asks again by itself until that is there. Pure.

Laws kept here: nothing in it comes from elsewhere, and nothing in it runs (a Content-Security-Policy says so); the
request that it repeats is a navigation of the same URL, so that the application sees one request, not a poll; all that
anybody else has written is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import html
from typing import Final

from gateway.errors import Waiting
from gateway.messages import Request
from gateway.negotiation import prefers_html

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:15vh auto;max-width:34em;padding:0 1em}"
    "p{overflow-wrap:anywhere}small{opacity:.7}"
    "i{display:block;width:2em;height:2em;margin-bottom:1em;border:.25em solid;border-right-color:transparent;"
    "border-radius:50%;animation:s 1s linear infinite}"
    "@keyframes s{to{transform:rotate(1turn)}}"
    "@media(prefers-reduced-motion:reduce){i{animation:none}}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#eee}}"
)
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = (
    f"Content-Security-Policy: default-src 'none'; style-src 'sha256-{_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
).encode()


def waiting_page(failure: Waiting, request: Request) -> tuple[bytes, list[bytes]]:
    """HTML in UTF-8 that reloads after `failure.retry_after` seconds, and the fields that go with it."""
    host = html.escape(request.host.decode("latin-1"))
    title = f"{host} could not start" if failure.failed else f"{host} is starting"
    said = html.escape(failure.details) if failure.failed else "It is being started, and will be here in a moment."
    turning = "" if failure.failed else "<i aria-hidden=true></i>"
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<meta http-equiv=refresh content={failure.retry_after}>"
        f"<title>{title}</title><style>{_STYLE}</style>"
        f"<main>{turning}<h1 role=status>{title}</h1><p>{said}</p>"
        "<p>This page asks again by itself.</p>"
        f"<p><small>Request {html.escape(request.request_id.decode('ascii'))}</small></p></main></html>\n"
    )
    return page.encode(), [_POLICY, b"Refresh: %d" % failure.retry_after]


def navigates(request: Request) -> bool:
    """Whether a browser opens a document, and its user sees what comes (Fetch Metadata; without it, by `Accept`)."""
    if request.method != b"GET" or not prefers_html(request.accept):
        return False
    fields = _metadata(request)
    if b"x-requested-with" in fields:
        return False
    return fields.get(b"sec-fetch-mode", b"navigate") == b"navigate" and (
        fields.get(b"sec-fetch-dest", b"document") == b"document"
    )


def repeats(request: Request) -> bool:
    """Whether a page of the same origin asked, not its user: he sees a page already, ours most likely."""
    fields = _metadata(request)
    return fields.get(b"sec-fetch-site") == b"same-origin" and b"sec-fetch-user" not in fields


def _metadata(request: Request) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for line in request.lines:
        name, _, value = line.partition(b":")
        if len(name) in (14, 16):  # the lengths of those names
            found[name.lower()] = value.strip(b" \t")
    return found
