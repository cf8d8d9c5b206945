"""How forges prove that a webhook delivery is theirs, and what tells one delivery from another.

Laws kept here: nothing of a delivery is believed before its proof holds; every comparison takes constant time; the
proof that a delivery brings alone decides (one that is bad is not rescued by another beside it). A body is taken in
pieces, so that none has to be in memory to be judged.

One secret fits every scheme, since it is made in the form that the strictest of them asks for (`new_secret`):

| scheme | field | proof |
|---|---|---|
| GitHub, and Gitea in its manner | `X-Hub-Signature-256` | `sha256=` and the HMAC-SHA256 of the body in hex |
| Gitea, Forgejo, Gogs | `X-Gitea-Signature`, `X-Forgejo-Signature`, `X-Gogs-Signature` | the same without `sha256=` |
| GitLab, signing token | `webhook-signature` with `webhook-id`, `webhook-timestamp` | that of Standard Webhooks |
| GitLab, secret token | `X-Gitlab-Token` | the secret itself |
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_PREFIX: Final = "whsec_"
_KEY_BYTES: Final = 32
_TOLERANCE: Final = 300  # seconds between a timestamp that was signed and our clock, either way (Standard Webhooks)
_STAMP: Final = re.compile(r"[0-9]{1,12}")
_ID_LENGTH: Final = 256  # characters of a delivery's id that count

_HEX_FIELDS: Final = ("x-forgejo-signature", "x-gitea-signature", "x-gogs-signature")
_EVENT_FIELDS: Final = {
    "x-forgejo-event": "Forgejo",
    "x-gitea-event": "Gitea",
    "x-gogs-event": "Gogs",
    "x-github-event": "GitHub",
    "x-gitlab-event": "GitLab",
}
_ID_FIELDS: Final = (
    *("x-forgejo-delivery", "x-gitea-delivery", "x-gogs-delivery", "x-github-delivery"),
    *("webhook-id", "idempotency-key", "x-gitlab-event-uuid"),
)


def new_secret() -> str:
    """256 random bits as `whsec_` and base64: what GitLab takes as a signing token, and every forge as a secret."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


def _standard_key(secret: str) -> bytes:
    """The bytes that Standard Webhooks signs with; a secret of another form is taken as it is."""
    if secret.startswith(_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            pass
    return secret.encode()


@dataclass(frozen=True, slots=True)
class Origin:
    """What a delivery says of itself: the forge, the kind of event in its words, and its id if it has one."""

    forge: str
    event: str
    delivery: str | None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Origin:
        """`headers` by their names in lower case."""
        field = next((field for field in _EVENT_FIELDS if field in headers), "")
        delivery = next((headers[name] for name in _ID_FIELDS if headers.get(name)), None)
        forge = _EVENT_FIELDS.get(field, "an unknown forge")
        return cls(forge, headers.get(field, ""), None if delivery is None else delivery[:_ID_LENGTH])


class Check:
    """The proof of one delivery: `feed` the whole body, then ask. `now` is in seconds since the epoch."""

    def __init__(self, secret: str, headers: Mapping[str, str], now: float) -> None:
        self._secret = secret.encode()
        self._headers = headers
        self._body = hashlib.sha256()
        self._standard = "webhook-signature" in headers
        self._fresh = True
        key, head = self._secret, b""
        if self._standard:
            identity, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
            self._fresh = bool(identity) and _is_recent(stamp, now)
            key, head = _standard_key(secret), _bytes(f"{identity}.{stamp}.")
        self._mac = hmac.new(key, head, hashlib.sha256)

    def feed(self, data: bytes) -> None:
        self._body.update(data)
        self._mac.update(data)

    def holds(self) -> bool:
        """Whether whoever sent this has the secret."""
        headers = self._headers
        if self._standard:
            given = headers["webhook-signature"].split()
            wanted = b"v1," + base64.b64encode(self._mac.digest())
            return any(hmac.compare_digest(_bytes(one), wanted) for one in given) and self._fresh
        wanted = self._mac.hexdigest().encode()
        if (claim := headers.get("x-hub-signature-256")) is not None:
            return hmac.compare_digest(_bytes(claim), b"sha256=" + wanted)
        for field in _HEX_FIELDS:
            if field in headers:
                return hmac.compare_digest(_bytes(headers[field]), wanted)
        return hmac.compare_digest(_bytes(headers.get("x-gitlab-token", "")), self._secret)

    def marks(self, delivery: str | None) -> tuple[str, ...]:
        """What to know this delivery by when it comes again.

        A signed body is known by its digest, since the id beside it is not signed and could be another each time; by
        the id, too. Standard Webhooks sign the id. With a secret token nothing is signed (who can replay can write
        anew), and the same body may be another push (forth, back by force, and forth again): there, both count
        together.
        """
        body = f"body {self._body.hexdigest()}"
        if self._standard:
            return (f"id {self._headers.get('webhook-id', '')[:_ID_LENGTH]}",)
        if delivery is None:
            return (body,)
        return (body, f"id {delivery}") if self._signs_body() else (f"{body} {delivery}",)

    def _signs_body(self) -> bool:
        return any(field in self._headers for field in ("x-hub-signature-256", *_HEX_FIELDS))


def _is_recent(stamp: str, now: float) -> bool:
    return _STAMP.fullmatch(stamp) is not None and abs(int(stamp) - now) <= _TOLERANCE


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
