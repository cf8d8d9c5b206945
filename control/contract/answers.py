"""Answers of the API that are not problems."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from aiohttp import web


def answer(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """JSON, compact."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return web.Response(text=text, status=status, headers=headers, content_type="application/json")


def links(request: web.Request, page: int, limit: int, total: int) -> dict[str, str]:
    """RFC 8288: a `Link` field that says where the other pages are."""
    last = max(1, -(-total // limit))
    pages = {"first": 1, "prev": min(page - 1, last), "next": page + 1, "last": last}
    kept = [(name, value) for name, value in request.query.items() if name not in ("page", "limit", "per_page")]

    def link(relation: str, number: int) -> str:
        target = urlencode([*kept, ("page", number), ("limit", limit)])
        return f'<{request.path}?{target}>; rel="{relation}"'

    known = [link(relation, number) for relation, number in pages.items() if 1 <= number <= last]
    return {"Link": ", ".join(known)}
