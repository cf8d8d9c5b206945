"""Keys: made, listed, revoked, and the first one of an empty store.

Laws kept here: a secret is shown once and stored as its digest; nobody can make a key that reaches further or lasts
longer than his own; of the keys that administer everything, the one that lasts longest can't be revoked, so that nobody
locks himself out: neither two at once (law 6: each such revocation names the one before it) nor later, when what is
left expires. Where all of them have expired, the next start makes a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from control.contract.problem import FieldError, Problem, not_found
from control.contract.schemas import KeyBody
from control.contract.times import iso, parse
from control.credentials.auth import Secret, forbidden, key_id
from control.ports import Objects
from control.services import names
from control.services.catalogue import Catalogue
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.models import ApiKey
from state.store import ABSENT, Change, Conflict, Store

_SEEN_WAIT: Final = 3.0  # seconds for our own write to come back by the feed
_FIRST: Final = "admin"
_MOST: Final = 1000  # keys of a namespace, so that none can fill the store
_GOVERNMENT: Final = "revoked-governing-key"  # of kind meta: the id of the last key revoked that governed


class Keys:
    """The keys of the store, for callers who may administer them."""

    def __init__(self, store: Store, objects: Objects, catalogue: Catalogue) -> None:
        self._store = store
        self._objects = objects
        self._catalogue = catalogue

    def visible(self, caller: ApiKey) -> list[ApiKey]:
        """Those of the caller's namespace, or all."""
        return [key for key in self._catalogue.api_keys() if caller.namespace in (names.EVERY_NAMESPACE, key.namespace)]

    async def create(self, caller: ApiKey, body: KeyBody) -> tuple[ApiKey, str]:
        """The key and its token `NAME$SECRET`. Raises Problem 403, 409; StoreError."""
        namespace = body.namespace or caller.namespace
        if caller.namespace not in (names.EVERY_NAMESPACE, namespace):
            raise forbidden()
        secret = Secret.make()
        expires_at = caller.expires_at if body.expires is None else parse(body.expires)
        if caller.expires_at is not None and (expires_at or caller.expires_at) > caller.expires_at:
            what = f"is later than that of the key that asks, {iso(caller.expires_at)}"
            raise Problem(403, f"expires: {what}", [FieldError("expires", what)])
        if sum(key.namespace == namespace for key in self._catalogue.api_keys()) >= _MOST:
            raise Problem(409, f"{namespace} has {_MOST} keys already: revoke those that nobody needs.")
        key = ApiKey(body.name, namespace, body.scope, secret.digest, now_us(), expires_at)
        try:
            await self._write(Change(Kind.KEY, key_id(namespace, key.name), encode(key), ABSENT))
        except Conflict:
            what = f"is taken: there is a key {key.name} of {namespace}"
            raise Problem(409, f"name: {what}", [FieldError("name", what)]) from None
        return key, f"{key.name}${secret.text}"

    def one(self, caller: ApiKey, name: str, namespace: str | None) -> ApiKey:
        """The key of that name that the caller can see. Raises Problem 403, 404, 409."""
        if namespace is not None and caller.namespace not in (names.EVERY_NAMESPACE, namespace):
            raise forbidden()
        found = [k for k in self.visible(caller) if k.name == name and namespace in (None, k.namespace)]
        if not found:
            raise not_found(f"There is no key {name!r}.")
        if len(found) > 1:
            owners = ", ".join(key.namespace for key in found)
            raise Problem(409, f"Several namespaces have a key {name!r}: choose one by ?namespace= of {owners}.")
        return found[0]

    async def revoke(self, caller: ApiKey, name: str, namespace: str | None) -> None:
        """No node takes it any more. Raises Problem 403, 404, 409; StoreError."""
        key = self.one(caller, name, namespace)
        gone = Change(Kind.KEY, key_id(key.namespace, key.name), None)
        if not _governs(key):
            await self._write(gone)
            return
        before = self._objects.get(Kind.META, _GOVERNMENT)
        if refused := _last_word(key, self._catalogue.api_keys()):
            raise Problem(409, refused)
        version = before.version if before else ABSENT
        try:
            await self._write(gone, Change(Kind.META, _GOVERNMENT, gone.id.encode(), version))
        except Conflict:
            raise Problem(409, "Another admin key of every namespace is being revoked; look again.") from None

    async def _write(self, *changes: Change) -> None:
        revision = await self._store.commit(changes)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SEEN_WAIT):
                await self._objects.reached(revision)


def _governs(key: ApiKey) -> bool:
    """Whether it can do everything, now."""
    lasting = key.expires_at is None or key.expires_at > now_us()
    return key.namespace == names.EVERY_NAMESPACE and key.scope == "admin" and lasting


def _last_word(key: ApiKey, keys: Iterable[ApiKey]) -> str | None:
    """Why this key that governs has to stay: no other one lasts as long. None: it can go."""
    others = [k for k in keys if _governs(k) and (k.namespace, k.name) != (key.namespace, key.name)]
    if not others:
        return "It is the last admin key of every namespace; make another before revoking it."
    if all(_end(k) < _end(key) for k in others):
        until = iso(max(k.expires_at or 0 for k in others))
        return f"The other admin keys of every namespace expire by {until}; make one that lasts before revoking this."
    return None


def _end(key: ApiKey) -> float:
    return math.inf if key.expires_at is None else key.expires_at


async def make_first_key(store: Store, objects: Objects, file: Path) -> str | None:
    """Where no key governs (an empty store, or all have expired): make one, write it to `file`, return its token.

    The file comes first: a crash in between leaves a file that the next start replaces, never a key that nobody has.
    Raises OSError, StoreError.
    """
    ids = list(objects.records(Kind.KEY))
    if any(_governs(key) for key in (objects.decoded(Kind.KEY, i, ApiKey) for i in ids) if key):
        return None
    secret = Secret.make()
    token = f"{_FIRST}${secret.text}"
    key = ApiKey(_FIRST, names.EVERY_NAMESPACE, "admin", secret.digest, now_us())
    identity = key_id(key.namespace, key.name)
    expired = objects.get(Kind.KEY, identity)
    await asyncio.to_thread(_write_private, file, token + "\n")
    try:
        revision = await store.commit([Change(Kind.KEY, identity, encode(key), expired.version if expired else ABSENT)])
    except Conflict:  # another node was first
        file.unlink(missing_ok=True)
        return None
    await objects.reached(revision)
    return token


def _write_private(file: Path, text: str) -> None:
    """Replace the file whole, readable by its owner alone."""
    beside = file.with_name(f".{file.name}.new")
    beside.unlink(missing_ok=True)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    beside.replace(file)
