"""The writes of the API on domains of a service: adding and removing them, and certificates of their owners.

Laws kept here: 3 (what is removed or replaced is so at every registered worker before the caller is told), 5
(`decisions`), 6 (`records`) and 8 (a key is sealed before it is stored, for the place where it is used).
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from dataclasses import dataclass

from certs import uploads
from certs.due import UPLOADED
from control.claims import decisions
from control.claims.claimant import Claimant
from control.claims.decisions import Wanted
from control.claims.found import Finder
from control.contract.problem import FieldError, unprocessable
from control.contract.schemas import CertificateBody
from control.services.records import Held, Outcome, Records, Write
from state.certificates import Certificate
from state.ids import now_us
from state.secrets import Vault

_KEY_FIELD = "key"  # of the place that a key is sealed for: tenant "", the record's id, this


@dataclass(frozen=True, slots=True)
class Domains:
    """Every call raises Problem 404 and 412, 503 after too many conflicts, and StoreError.

    `vault`: of certificates.
    """

    records: Records
    finder: Finder
    claimant: Claimant
    vault: Vault

    async def add(self, namespace: str, name: str, wanted: Wanted, if_match: str | None) -> tuple[Outcome, bool]:
        """And whether it was new. Raises Problem 409, 422."""
        new = False

        async def decide(held: Held) -> Write | None:
            nonlocal new
            found, now = await self.finder.of(held, wanted.name), now_us()
            new = found[wanted.name].domain is None
            claim = functools.partial(self.claimant.claim, held.service, now=now)
            return decisions.add(held, found, wanted, claim, now)

        return await self.records.write(namespace, name, if_match, decide), new

    async def remove(self, namespace: str, name: str, domain: str, if_match: str | None) -> None:
        """Returns once no worker serves it. Raises Problem 409."""

        async def decide(held: Held) -> Write | None:
            return decisions.remove(held, await self.finder.of(held, domain), domain, if_match, now_us())

        await self.records.write(namespace, name, None, decide)

    async def upload(
        self, namespace: str, name: str, domain: str, body: CertificateBody, if_match: str | None
    ) -> Outcome:
        """Raises Problem 409, 422."""
        certificate = await asyncio.to_thread(self._sealed, namespace, domain, body)

        async def decide(held: Held) -> Write | None:
            return decisions.upload(held, await self.finder.of(held, domain), domain, certificate, if_match, now_us())

        return await self.records.write(namespace, name, None, decide)

    async def withdraw(self, namespace: str, name: str, domain: str, if_match: str | None) -> None:
        """Returns once no worker serves it."""

        async def decide(held: Held) -> Write | None:
            return decisions.withdraw(held, await self.finder.of(held, domain), domain, if_match, now_us())

        await self.records.write(namespace, name, None, decide)

    def _sealed(self, namespace: str, domain: str, body: CertificateBody) -> Certificate:
        """Raises Problem 422."""
        try:
            given = uploads.read(domain, body.certificate, body.key, now_us(), ssl.create_default_context())
        except uploads.Refused as refused:
            raise unprocessable([FieldError(field, why) for field, why in refused.reasons]) from None
        return Certificate(
            names=given.names,
            chain=given.chain,
            key=self.vault.seal("", domain, _KEY_FIELD, given.key),
            issuer=UPLOADED,
            trusted=given.trusted,
            not_before=given.not_before,
            not_after=given.not_after,
            namespace=namespace,
        )
