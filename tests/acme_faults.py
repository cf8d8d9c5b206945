"""What `tests.acme_proxy` can break: one value per fault, as `proxy.break_` takes it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Literal

URN = "urn:ietf:params:acme:error:"

Action = Literal["answer", "bad_nonce", "drop_before", "drop_after", "slow", "change"]


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind`: of request, `*` for every. `count`: how many it breaks, -1 for all; `skip`: how many it lets pass before.

    answer: with `status`, `headers`, `body`, nothing reaches the server. bad_nonce: refused, with a fresh nonce.
    drop_before, drop_after: the connection is cut, before the server sees the request or once it has answered. slow:
    the server's answer is kept back for `seconds`. change: the server's answer gets `headers`, and its JSON the members
    `changes`.
    """

    kind: str
    action: Action
    count: int = 1
    skip: int = 0
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    seconds: float = 0.0
    changes: Mapping[str, Any] = field(default_factory=dict)


def refused(kind: str, problem: str, status: int, count: int = 1, **headers: str) -> Fault:
    """By a problem document; `Retry_After="…"` for header fields."""
    body = json.dumps({"type": URN + problem, "detail": f"{problem}, says the proxy", "status": status})
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault(kind, "answer", count, 0, status, {"Content-Type": "application/problem+json", **fields}, body)


def rate_limited(kind: str, retry_after: str | float, count: int = 1) -> Fault:
    """`retry_after`: the value of the field, or as a number seconds that are told as a date."""
    told = retry_after if isinstance(retry_after, str) else formatdate(time.time() + retry_after, usegmt=True)
    return refused(kind, "rateLimited", 429, count, Retry_After=told)


def account_gone(kind: str = "*", count: int = 1) -> Fault:
    return refused(kind, "accountDoesNotExist", 400, count)


def down(kind: str = "*", count: int = 1, status: int = 503, **headers: str) -> Fault:
    """As balancers say it: HTML."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault(kind, "answer", count, 0, status, {"Content-Type": "text/html", **fields}, "<h1>Oops</h1>")


def bad_nonces(kind: str = "*", count: int = 1) -> Fault:
    return Fault(kind, "bad_nonce", count)


def dropped(kind: str, count: int = 1, *, after: bool) -> Fault:
    return Fault(kind, "drop_after" if after else "drop_before", count)


def slow(kind: str, seconds: float, count: int = 1) -> Fault:
    return Fault(kind, "slow", count, seconds=seconds)


def garbage(kind: str, body: str = "\x00\xff{{", count: int = 1) -> Fault:
    return Fault(kind, "answer", count, 0, 200, {"Content-Type": "application/json"}, body)
