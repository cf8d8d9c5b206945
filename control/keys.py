"""Keys: made, listed, revoked, and the first one of an empty store.

Laws kept here: a secret is shown once and stored as its digest; the last key that can administer everything can't be
revoked, so that nobody locks himself out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final

from control import names
from control.auth import Secret, forbidden, key_id
from control.catalogue import Catalogue
from control.ports import Objects
from control.problem import FieldError, Problem, not_found
from control.schemas import KeyBody
from control.times import parse
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.models import ApiKey
from state.store import ABSENT, Change, Conflict, Store

_SEEN_WAIT: Final = 3.0  # seconds for our own write to come back by the feed
_FIRST: Final = "admin"


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
        expires_at = None if body.expires is None else parse(body.expires)
        key = ApiKey(body.name, namespace, body.scope, secret.digest, now_us(), expires_at)
        try:
            await self._write(Change(Kind.KEY, key_id(namespace, key.name), encode(key), ABSENT))
        except Conflict:
            what = f"is taken: there is a key {key.name} of {namespace}"
            raise Problem(409, f"name: {what}", [FieldError("name", what)]) from None
        return key, f"{key.name}${secret.text}"

    async def revoke(self, caller: ApiKey, name: str, namespace: str | None) -> None:
        """Raises Problem 403, 404, 409; StoreError."""
        if namespace is not None and caller.namespace not in (names.EVERY_NAMESPACE, namespace):
            raise forbidden()
        found = [k for k in self.visible(caller) if k.name == name and namespace in (None, k.namespace)]
        if not found:
            raise not_found(f"There is no key {name!r}.")
        if len(found) > 1:
            owners = ", ".join(key.namespace for key in found)
            raise Problem(409, f"Several namespaces have a key {name!r}: choose one by ?namespace= of {owners}.")
        if _governs(found[0]) and not any(_governs(k) for k in self._catalogue.api_keys() if k != found[0]):
            raise Problem(409, "It is the last admin key of every namespace; make another before revoking it.")
        await self._write(Change(Kind.KEY, key_id(found[0].namespace, name), None))

    async def _write(self, change: Change) -> None:
        revision = await self._store.commit([change])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SEEN_WAIT):
                await self._objects.reached(revision)


def _governs(key: ApiKey) -> bool:
    lasting = key.expires_at is None or key.expires_at > now_us()
    return key.namespace == names.EVERY_NAMESPACE and key.scope == "admin" and lasting


async def make_first_key(store: Store, objects: Objects, file: Path) -> str | None:
    """On a store without keys: make the admin key of every namespace, write it to `file`, return its token.

    The file comes first: a crash in between leaves a file that the next start replaces, never a key that nobody has.
    Raises OSError, StoreError.
    """
    if objects.records(Kind.KEY):
        return None
    secret = Secret.make()
    token = f"{_FIRST}${secret.text}"
    key = ApiKey(_FIRST, names.EVERY_NAMESPACE, "admin", secret.digest, now_us())
    await asyncio.to_thread(_write_private, file, token + "\n")
    try:
        revision = await store.commit([Change(Kind.KEY, key_id(key.namespace, key.name), encode(key), ABSENT)])
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
