"""Conditional reads (RFC 9110 section 13): entity tags, and answers that a client has already."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Final

from aiohttp import web

_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')
_KEPT: Final = ("ETag", "Cache-Control", "Content-Location", "Expires", "Vary", "Link")  # section 15.4.5, and ours


def tag_of(body: bytes) -> str:
    """A strong entity tag of exactly these bytes."""
    return f'"{hashlib.sha256(body).hexdigest()[:20]}"'


def exact(configured: str, shown: Any) -> str:
    """A tag that changes with whatever is `shown` and begins with that of what the owner configured.

    A write with `If-Match` compares only the beginning: that a replica came or went meanwhile is no conflict.
    """
    return f"{configured[:-1]}-{tag_of(json.dumps(shown).encode())[1:]}"


def unless_known(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """304 for what the client has (sections 13.1.2 and 15.4.5), else the answer."""
    given, tag = request.headers.get("If-None-Match"), response.headers.get("ETag")
    reads = request.method in ("GET", "HEAD") and response.status == 200 and not response.prepared
    if not reads or given is None or tag is None:
        return response
    if given.strip() != "*" and tag not in _TAG.findall(given):
        return response
    return web.Response(
        status=304, headers={name: response.headers[name] for name in _KEPT if name in response.headers}
    )
