"""Credentials: who asks, and may they (SPEC section 2, Credentials).

Laws kept here: secrets are stored hashed and compared in constant time; a wrong namespace or scope is 403, the same
whether or not the service exists; the scheme of the header makes no difference.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from control.contract.problem import FieldError, Problem, bad_request, not_found
from control.services import names
from control.services.catalogue import Catalogue
from state.ids import now_us
from state.models import ApiKey

SCOPES: Final = ("read", "write", "admin")
KEY: Final = web.RequestKey("key", ApiKey)

_CHALLENGE: Final = 'Bearer realm="wakegate", API-Key realm="wakegate"'
_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Secret:
    """A new key's secret: shown once, stored as its digest."""

    text: str
    digest: str

    @classmethod
    def make(cls) -> Secret:
        text = secrets.token_urlsafe(_SECRET_BYTES)
        return cls(text, digest_of(text))


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def key_id(namespace: str, name: str) -> str:
    return f"{namespace}/{name}"


def authenticate(request: web.Request, catalogue: Catalogue) -> ApiKey:
    """The key that the request carries. Raises Problem 401."""
    given = request.headers.getall("Authorization", [])
    if not given:
        raise unauthorized("This needs a key: Authorization: Bearer NAME$SECRET, or API-Key NAME$SECRET.")
    key = _key_of(given[0], catalogue) if len(given) == 1 else None
    if key is None:
        raise unauthorized("The key is unknown, revoked or expired.")
    request[KEY] = key
    return key


def _key_of(header: str, catalogue: Catalogue) -> ApiKey | None:
    scheme, _, token = header.partition(" ")
    name, found, secret = token.strip().partition("$")
    if scheme.lower() not in {"bearer", "api-key"} or not found:
        return None
    digest = digest_of(secret)
    key = catalogue.key(digest)
    # the look-up is by a hash that nobody can steer; what is compared with what was stored is compared in constant time
    matches = hmac.compare_digest((key.digest if key else "").encode(), digest.encode())
    matches &= hmac.compare_digest((key.name if key else "").encode(), name.encode("utf-8", "surrogateescape"))
    if key is None or not matches or _expired(key):
        return None
    return key


def still_valid(key: ApiKey, catalogue: Catalogue) -> bool:
    """Neither revoked nor expired by now."""
    known = catalogue.key(key.digest)
    return known is not None and not _expired(known)


def _expired(key: ApiKey) -> bool:
    return key.expires_at is not None and key.expires_at <= now_us()


def allow(key: ApiKey, namespace: str, scope: str, catalogue: Catalogue) -> None:
    """May this key do that there? Raises Problem 403, and for a key of every namespace 400 or 404 for a bad one."""
    everywhere = key.namespace == names.EVERY_NAMESPACE
    if not (everywhere or key.namespace == namespace) or not reaches(key.scope, scope):
        raise forbidden()
    if reason := names.namespace_error(namespace):
        raise bad_request([FieldError("namespace", reason)])
    if everywhere and key.scope != "admin" and not catalogue.exists(namespace):
        raise not_found("There is no such namespace: it exists from its first key.")


def reaches(scope: str, needed: str) -> bool:
    return SCOPES.index(scope) >= SCOPES.index(needed)


def forbidden() -> Problem:
    return Problem(403, "The key is not for this namespace, or its scope does not reach that far.")


def unauthorized(detail: str) -> Problem:
    """401, with the schemes that there are."""
    return Problem(401, detail, headers={"WWW-Authenticate": _CHALLENGE})
