"""Certificates of the internal CA for custom domains, where there is no ACME.

Laws kept here: 6 (one commit, fenced and compared with the claim) and 8 (the CA's key is opened only to sign).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from certs.authority import LEAF_LIFETIME, Pair, make_leaf, term
from certs.internal import AUTHORITY, ISSUER, KEY_FIELD
from certs.issuer_records import Lost, Records, Seen
from state.certificates import Authority, Certificate
from state.codec import decode, encode
from state.kinds import Kind
from state.secrets import Vault
from state.store import Store


class InternalLeaves:
    """`vault`: of CERTIFICATES. `now` and `lifetime`: microseconds."""

    def __init__(
        self, store: Store, records: Records, vault: Vault, now: Callable[[], int], lifetime: int = LEAF_LIFETIME
    ) -> None:
        self._store = store
        self._records = records
        self._vault = vault
        self._now = now
        self._lifetime = lifetime

    async def make(self, seen: Seen) -> Seen:
        """Sign for the name, if it still is held and leads here.

        Raises Lost, StoreError, DecodeError, SecretError, BadCertificate.
        """
        if not seen.pointing:
            return seen
        record = await self._store.get(Kind.META, AUTHORITY)
        if record is None:
            raise Lost("there is no internal CA yet")
        root = decode(Authority, record.value)
        leaf = await asyncio.to_thread(self._signed, root, seen.wanted.names)
        names = seen.wanted.names
        more = [seen.change(Kind.CERTIFICATE, name, encode(self._served(seen, name, leaf))) for name in names]
        return await self._records.write(seen, None, more)

    def _signed(self, root: Authority, names: tuple[str, ...]) -> Pair:
        """In a thread: values only."""
        signer = Pair(root.certificate, self._vault.unseal("", AUTHORITY, KEY_FIELD, root.key))
        return make_leaf(signer, names, self._now(), self._lifetime)

    def _served(self, seen: Seen, name: str, leaf: Pair) -> Certificate:
        counts = term(leaf.certificate)
        return Certificate(
            names=seen.wanted.names,
            chain=leaf.certificate,
            key=self._vault.seal("", name, KEY_FIELD, leaf.key),
            issuer=ISSUER,
            trusted=False,
            not_before=counts.not_before,
            not_after=counts.not_after,
            namespace=seen.wanted.namespace,
        )
