"""One order, from what is stored of it to the certificate: each step is stored before the next begins.

Laws kept here: 4 (killed at any line, whoever goes on finds intent, key and URL of the order, and takes the next step;
with at most one order more than without the crash), 6 (every commit is fenced and compared; a name that was removed or
moved meanwhile loses its order and key) and 8 (keys are sealed for control alone until the certificate is there, and
for workers from then on).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from certs.acme import chain as chains
from certs.acme.authorization import Authorization
from certs.acme.challenge import DNS_01
from certs.acme.csr import csr
from certs.acme.errors import AcmeError
from certs.acme.order import Order as AcmeOrder
from certs.acme.problem import Problem
from certs.authority import DAY, BadCertificate
from certs.budget import DUPLICATES, EARLY_RENEWALS, FAILED_VALIDATIONS
from certs.due import UPLOADED, Ca, Due, Work, ca_of, due, handover_at, known_ca
from certs.issuer_account import KEY_FIELD, Membership
from certs.issuer_desk import ISSUED, RENEWED, Desk, identifier
from certs.issuer_proofs import Proof, kinds, proof
from certs.issuer_records import Seen
from certs.keys import key_of, new_key
from certs.outcomes import done, dropped, failed, unfailed
from certs.setbacks import BUDGET_EXHAUSTED, CA_ERROR, Setback, of_error, of_validation
from certs.wanted import WILDCARD, Wanted
from state.certificates import Certificate, Challenge, Issuance
from state.codec import encode
from state.kinds import Kind
from state.secret_key import SecretError
from state.store import ABSENT, Change

log = logging.getLogger(__name__)

_OLDEST: Final = DAY  # µs; an order that is not done by then is given up
_PARTS: Final = 4  # of the time that is left of a certificate: no pause is longer than one of them
_GROWTH: Final = 1.5  # of the pauses between looks

T = TypeVar("T")


class Order:
    """One attempt: `run` once."""

    def __init__(self, desk: Desk, seen: Seen, *, asked: bool = False) -> None:
        self._desk = desk
        self._seen = seen
        self._asked = asked
        self._unused = False  # no certificate came of the order so far, as this attempt knows for sure
        self._txt: list[tuple[str, str]] = []

    @property
    def _wanted(self) -> Wanted:
        return self._seen.wanted

    @property
    def _issuance(self) -> Issuance:
        return self._seen.issuance

    async def run(self) -> Seen:
        """Do what is due, as far as it goes; what is stored then. Raises Lost, StoreError, SecretError."""
        step = self._due()
        if step is None:
            return self._seen  # another control did it, or an owner uploaded a certificate
        try:
            await self._take(step)
        except AcmeError as error:
            if isinstance(error, Problem) and error.type == "accountDoesNotExist":
                await self._desk.accounts.forgotten(self._ca())
            await self._failed(of_error(error))
        except BadCertificate as error:
            await self._failed(Setback(CA_ERROR, str(error)))
        except Setback as setback:
            await self._failed(setback)
        return self._seen

    def _due(self) -> Due | None:
        """The order that is due now."""
        now = self._desk.now()
        step = due(self._desk.situation(self._seen, self._asked), self._desk.cas, now)
        return step if step.work is Work.ORDER and step.at <= now else None

    async def _take(self, step: Due) -> None:
        """Raises Setback, AcmeError, BadCertificate, Lost, StoreError, SecretError."""
        if self._outdated():
            await self._save(dropped(self._issuance), hide=True)
            if (anew := self._due()) is None:
                return
            step = anew
        ca = self._ca()
        if self._issuance.began_at is None and not self._seen.pointing:
            return
        member = await self._desk.accounts.of(ca)
        try:
            order = await self._order(member, step)
        except Problem as problem:
            if problem.type not in ("accountDoesNotExist", "unauthorized"):
                raise
            await self._desk.accounts.forgotten(ca)
            await self._save(replace(self._issuance, order=None))
            member = await self._desk.accounts.of(ca)
            order = await self._order(member, step)
        try:
            await self._complete(member, order, step)
        except Exception:
            await self._hide(member, order)
            raise
        await self._hide(member, order)

    def _outdated(self) -> bool:
        """Whether the order in progress is of a CA that is asked no more, too old, or not needed any more."""
        began, certificate = self._issuance.began_at, self._seen.certificate
        if began is None:
            return False
        now, cas = self._desk.now(), self._desk.cas
        uploaded = certificate is not None and certificate.issuer == UPLOADED and now < handover_at(certificate, cas)
        return known_ca(self._issuance.directory, cas) is None or uploaded or now - began > _OLDEST

    def _ca(self) -> Ca:
        if self._issuance.began_at is not None:
            found = known_ca(self._issuance.directory, self._desk.cas)
            if found is not None:
                return found
        return ca_of(self._issuance, self._desk.cas, self._desk.now())

    # -- the order itself

    async def _order(self, member: Membership, step: Due) -> AcmeOrder:
        """The one in progress, if the CA knows of it; else a new one."""
        if self._issuance.order is not None:
            found = await self._known(member, self._issuance.order)
            if found is not None:
                return found
        await self._intend(member, step)
        order = await self._new(member, step)
        await self._save(replace(self._issuance, order=order.url))
        names = ", ".join(self._wanted.names)
        self._desk.event(self._wanted, "certificate.ordered", f"{names} at {member.ca.directory}")
        return order

    async def _known(self, member: Membership, url: str) -> AcmeOrder | None:
        try:
            return await member.client.order(url)
        except Problem as problem:
            if problem.status in (403, 404, 410) and problem.type not in ("accountDoesNotExist", "rateLimited"):
                return None
            raise

    async def _intend(self, member: Membership, step: Due) -> None:
        """Store that an order is made, and its key, before the CA hears of it."""
        desk, now, issuance = self._desk, self._desk.now(), self._issuance
        kind = kinds(self._wanted, desk.reach, issuance)[0]
        await self._spending(member, step, now)
        await self._check_caa(member, kind)
        intent = replace(
            issuance,
            directory=member.ca.directory,
            order=None,
            key=issuance.key or self._sealed(await asyncio.to_thread(new_key)),
            began_at=now,
            challenge=kind,
            ordered=issuance.ordered if step.renewal else DUPLICATES.noted(issuance.ordered, now),
            failed=FAILED_VALIDATIONS.noted(issuance.failed, now),  # until it is known to have gone well
            renewed=EARLY_RENEWALS.noted(issuance.renewed, now) if step.early else issuance.renewed,
        )
        async with desk.intending:
            spending = await self._spending(member, step, now)
            if not step.renewal:
                await desk.accounts.ordering(member.ca, now)
            await self._save(intent, more=spending)
        self._unused = True

    async def _spending(self, member: Membership, step: Due, now: int) -> tuple[Change, ...]:
        """Of the namespace's budget, by an order that is made now. Raises Setback, StoreError."""
        room, spending = await self._desk.room_at(self._seen, member.ca, step.renewal, now)
        if room > now:
            raise Setback(BUDGET_EXHAUSTED, "too many orders or failed validations lately", asked=(room - now) / 1e6)
        return spending

    async def _check_caa(self, member: Membership, kind: str) -> None:
        identities = member.directory.meta.caa_identities
        for name in self._wanted.names:
            await self._desk.allowed(name, identities, kind, member.client.account_url)

    async def _new(self, member: Membership, step: Due) -> AcmeOrder:
        names, profile = self._wanted.names, self._desk.profile
        if profile not in member.directory.meta.profiles:
            profile = None
        replaces = self._replaces(member.ca, step)
        try:
            return await member.client.new_order(names, replaces=replaces, profile=profile)
        except Problem as problem:
            refused = 400 <= problem.status < 500 and problem.type not in ("rateLimited", "accountDoesNotExist")
            if replaces is None or not refused:
                raise
        return await member.client.new_order(names, profile=profile)  # it was replaced already, or is unknown there

    def _replaces(self, ca: Ca, step: Due) -> str | None:
        certificate = self._seen.certificate
        if not step.renewal or certificate is None or certificate.issuer != ca.directory:
            return None
        return identifier(certificate)

    # -- its steps

    async def _complete(self, member: Membership, order: AcmeOrder, step: Due) -> None:
        self._unused = order.status in ("pending", "ready", "invalid")
        if order.status == "pending":
            order = await self._validate(member, order)
        if order.status == "ready":
            self._unused = False
            order = await member.client.finalize(order, csr(self._wanted.names, self._key()))
        if order.status == "processing":
            order = await self._until(
                lambda: member.client.order(order.url),
                lambda found: found.status != "processing",
                order.retry_after,
                self._desk.patience.issued,
            )
        if order.status != "valid" or order.certificate is None:
            raise await self._why_invalid(member, order)
        pem = (await member.client.certificate(order.certificate))[0]
        await self._keep(member.ca, pem, step)

    async def _validate(self, member: Membership, order: AcmeOrder) -> AcmeOrder:
        """From pending to what comes after it."""
        proofs = []
        for url in order.authorizations:
            authorization = await member.client.authorization(url)
            if authorization.status == "pending":
                wanted = kinds(self._wanted, self._desk.reach, replace(self._issuance, reason=None))
                proofs.append(proof(authorization, wanted, member))
            elif authorization.status != "valid":
                raise _why(authorization)
        await self._show(proofs)
        for shown in proofs:
            if shown.challenge.status == "pending":
                await member.client.respond(shown.challenge.url)
        for shown in proofs:
            await self._validated(member, shown)
        return await self._until(
            lambda: member.client.order(order.url),
            lambda found: found.status != "pending",
            None,
            self._desk.patience.validated,
        )

    async def _validated(self, member: Membership, shown: Proof) -> None:
        found = await self._until(
            lambda: member.client.authorization(shown.authorization),
            lambda authorization: authorization.status != "pending",
            None,
            self._desk.patience.validated,
        )
        if found.status != "valid":
            raise _why(found)

    async def _show(self, proofs: list[Proof]) -> None:
        """Returns once whoever the CA may ask has the answers."""
        if not proofs:
            return
        if proofs[0].answer.type == DNS_01:
            if self._desk.txt is None:
                raise Setback(CA_ERROR, "there is no program that sets TXT records")
            self._txt = [shown.txt for shown in proofs]
            await self._desk.txt.show(self._txt)
            return
        answers = Challenge(tuple(shown.answer for shown in proofs), self._desk.now())
        change = self._seen.change(Kind.CHALLENGE, self._wanted.name, encode(answers))
        self._seen = await self._desk.records.write(self._seen, self._issuance, (change,))
        revision = self._seen.version(Kind.CHALLENGE, self._wanted.name)
        if not await self._desk.acknowledged(revision, self._desk.patience.acknowledged):
            log.warning("%s: not every worker has the answer to the CA's challenge", self._wanted.name)

    async def _hide(self, member: Membership, order: AcmeOrder) -> None:
        """TXT records are removed, also those that were set before a crash."""
        if self._desk.txt is None or not self._wanted.name.startswith(WILDCARD):
            return
        with contextlib.suppress(AcmeError, Setback):
            if not self._txt:
                found = [await member.client.authorization(url) for url in order.authorizations]
                self._txt = [proof(one, (DNS_01,), member).txt for one in found]
        await self._desk.txt.hide(self._txt)

    async def _until(
        self,
        look: Callable[[], Awaitable[T]],
        done: Callable[[T], bool],
        asked: float | None,
        patience: float,
    ) -> T:
        """Look until it is `done`, at the pace that the CA asks for. Raises Setback after `patience` seconds."""
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + patience, self._desk.patience.first_look
        while True:
            wait = min(pause if asked is None else max(asked, pause), self._haste())
            if loop.time() + wait > end:
                raise Setback(CA_ERROR, f"the CA was not done within {patience:g} s", asked=asked, keeps=True)
            await asyncio.sleep(wait)
            found = await look()
            if done(found):
                return found
            asked = getattr(found, "retry_after", None)
            pause = min(pause * _GROWTH, self._desk.patience.longest_pause)

    def _haste(self) -> float:
        """The longest pause in seconds, so that what is served now does not end meanwhile."""
        certificate = self._seen.certificate
        left = 0 if certificate is None else certificate.not_after - self._desk.now()
        return max(left / _PARTS / 1e6, self._desk.patience.first_look) if left > 0 else math.inf

    async def _why_invalid(self, member: Membership, order: AcmeOrder) -> Setback:
        """What the CA says of an order that will never be valid."""
        if order.error is None:
            for url in order.authorizations:
                authorization = await member.client.authorization(url)
                if authorization.status == "invalid":
                    return _why(authorization)
        return of_validation(order.error)

    # -- its end

    async def _keep(self, ca: Ca, pem: str, step: Due) -> None:
        """One commit: the certificate is served, and nothing is left of the order."""
        names, now = self._wanted.names, self._desk.now()
        leaf = chains.check(pem, self._key().public_key(), names, now)
        key = self._opened()
        more = []
        for name in names:
            stored = Certificate(
                names=leaf.names,
                chain=pem,
                key=self._desk.certificates.seal("", name, KEY_FIELD, key),
                issuer=ca.directory,
                trusted=ca.trusted,
                not_before=leaf.not_before,
                not_after=leaf.not_after,
                namespace=self._wanted.namespace,
            )
            more.append(self._seen.change(Kind.CERTIFICATE, name, encode(stored)))
        if self._seen.version(Kind.CHALLENGE, self._wanted.name) != ABSENT:
            more.append(self._seen.change(Kind.CHALLENGE, self._wanted.name, None))
        self._seen = await self._desk.records.write(self._seen, done(unfailed(self._issuance)), more)
        result = RENEWED if step.renewal else ISSUED
        self._desk.counts[result] += 1
        self._desk.event(self._wanted, f"certificate.{result}", f"{', '.join(names)} by {leaf.issuer}")

    async def _failed(self, setback: Setback) -> None:
        """Store why, and when it is tried again; what is served is served on. Raises Lost, StoreError."""
        before = self._issuance
        known = before if setback.keeps else unfailed(before)
        after = failed(known, setback, self._desk.cas, self._seen.certificate, self._desk.now())
        if after.began_at is None and before.began_at is not None and self._unused:
            after = replace(after, ordered=tuple(m for m in after.ordered if m != before.began_at))
        await self._save(after, hide=after.began_at is None)
        self._desk.counts[setback.reason] += 1
        log.warning("%s: no certificate: %s", self._wanted.name, setback)
        if before.reason != setback.reason or after.failures & (after.failures - 1) == 0:
            text = f"{self._wanted.name}: {setback.reason}: {setback.detail}"
            self._desk.event(self._wanted, "certificate.failed", text)

    async def _save(self, issuance: Issuance, *, hide: bool = False, more: Sequence[Change] = ()) -> None:
        """`hide`: workers answer no challenge any more."""
        name = self._wanted.name
        gone = self._seen.change(Kind.CHALLENGE, name, None)
        answered = hide and self._seen.version(Kind.CHALLENGE, name) != ABSENT
        self._seen = await self._desk.records.write(self._seen, issuance, (*more, *((gone,) if answered else ())))

    # -- its key

    def _sealed(self, key: str) -> str:
        return self._desk.keys.seal(self._wanted.namespace, self._wanted.name, KEY_FIELD, key)

    def _opened(self) -> str:
        """Raises Setback."""
        try:
            sealed = self._issuance.key or ""
            return self._desk.keys.unseal(self._wanted.namespace, self._wanted.name, KEY_FIELD, sealed)
        except SecretError as error:
            raise Setback(CA_ERROR, f"the key of the order can't be opened: {error}") from error

    def _key(self) -> ec.EllipticCurvePrivateKey:
        """Raises Setback, BadCertificate."""
        return key_of(self._opened())


def _why(authorization: Authorization) -> Setback:
    errors = [challenge.error for challenge in authorization.challenges if challenge.error is not None]
    return of_validation(errors[0] if errors else None)
