"""The duty of control that asks DNS about custom domains, and writes who holds them and where they lead.

Laws kept here: 5 (what an answer means is `certs.proof`, what becomes of a claim `certs.standing`; here are the clock,
the resolver and the store), 6 (one control does it, under its lease; a commit is fenced and compares the claim and the
route that it judged; after a conflict it is looked at again), 7 (so many looks at once and in a second, of a namespace
too; while nothing is answered, one a second) and 8 (what moves to another namespace takes nothing along).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from certs import standing
from certs.holding import Claimed, changes_of, cleaning, read_claimed
from certs.observation import PATIENCE, Lookups, observe
from certs.proof import DNS_ERROR, DNS_TIMEOUT, Asked, judge, token
from certs.schedule import Schedule
from certs.standing import HOUR, MINUTE, SECOND, Pace, Step
from state.certificates import Domain, Proof
from state.codec import DecodeError, decode
from state.ids import now_us
from state.kinds import Kind
from state.mirror import Mirror
from state.models import Event, Service
from state.store import Conflict, Fence, Store, StoreError

log = logging.getLogger(__name__)

_AT_ONCE: Final = 16  # looks
_SHARE: Final = 4  # of them, of one namespace
_RATE: Final = 50.0  # looks that are begun in a second: 10 % of a CPU
_SILENT_RATE: Final = 1.0  # the same, while nothing is answered
_SILENCES: Final = 32  # looks in a row without an answer until DNS counts as silent
_CREDIT: Final = 0.2  # seconds that a late turn of the loop may make up for
_LONGEST: Final = 60.0  # seconds between turns
_FIRST_PATIENCE: Final = 4.0  # seconds for the first look at a claim: nobody knows yet whether it is answered
_QUIET: Final = HOUR  # what is proved and stays so is written no more often
_SLICE: Final = 100  # records decoded between two turns of the loop
_AGAIN: Final = SECOND  # after another writer was first
_RETRY: Final = 5 * SECOND  # after the store was in the way
_DAMAGED_RETRY: Final = 10 * MINUTE
_CAUGHT_UP: Final = 1.0  # seconds that the mirror gets for what another writer wrote


class Tenure(Protocol):
    """`state.leases.Lease`: who has no fence does not lead."""

    @property
    def fence(self) -> Fence | None: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """`domain`: that endpoints are below. `key`: of `state.secret_key.DOMAIN_TOKENS`. `rate`: looks a second."""

    domain: str
    key: bytes = field(repr=False)
    pace: Pace = field(default_factory=Pace)
    at_once: int = _AT_ONCE
    share: int = _SHARE
    rate: float = _RATE


@dataclass(slots=True)
class Counts:
    """Since the start. `unanswered`: looks that DNS left without an answer that would tell."""

    checks: int = 0
    unanswered: int = 0
    verified: int = 0
    demotions: int = 0
    moves: int = 0
    conflicts: int = 0


@dataclass(slots=True)
class _Look:
    """What is known of a look whose end may fail. `silent`: no answer that would tell; None: nothing was asked."""

    silent: bool | None = None


class Verifier:
    """`run` for ever in a task; `changed` gets what the mirror applied, `hurry` is called when the lease changes hands.

    `tell` gets a service's id and an event of it. `now`: wall clock, microseconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        tenure: Tenure,
        resolver: Lookups,
        settings: Settings,
        tell: Callable[[str, Event], None],
        now: Callable[[], int] = now_us,
    ) -> None:
        self.counts = Counts()
        self._store = store
        self._mirror = mirror
        self._tenure = tenure
        self._resolver = resolver
        self._settings = settings
        self._tell = tell
        self._now = now
        self._schedule = Schedule(settings.share)
        self._touched: set[str] = set()
        self._wake = asyncio.Event()
        self._busy = 0
        self._free_at = 0.0  # the loop's time, of the next look that may be begun
        self._silences = 0  # in a row
        self._looked_at = 0  # wall clock of the last turn
        self._swept_at = 0

    def __repr__(self) -> str:
        return f"<Verifier: {self._schedule!r}, {self.counts}>"

    @property
    def claims(self) -> int:
        return len(self._schedule)

    @property
    def busy(self) -> int:
        """Looks that have begun and not ended."""
        return self._busy

    @property
    def silent(self) -> bool:
        """Whether DNS answered none of the last looks: it is asked once a second until it does."""
        return self._silences >= _SILENCES

    def hurry(self) -> None:
        """Look now."""
        self._wake.set()

    def changed(self, touched: Sequence[tuple[Kind, str]]) -> None:
        """For the mirror's `on_change`."""
        claims = [object_id for kind, object_id in touched if kind is Kind.DOMAIN]
        if claims:
            self._touched.update(claims)
            self._wake.set()

    async def run(self) -> None:
        """For ever. Nothing that DNS or the store does ends it."""
        await self._mirror.synced()
        self._touched.update(self._mirror.records(Kind.DOMAIN))
        async with asyncio.TaskGroup() as looks:
            while True:
                self._wake.clear()
                await self._note()
                pause = await self._begin(looks)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()

    async def _note(self) -> None:
        """The schedule follows the mirror."""
        touched, self._touched = self._touched, set()
        now = self._now()
        for count, claim_id in enumerate(touched):
            if count % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            record = self._mirror.get(Kind.DOMAIN, claim_id)
            claim = None if record is None else _decoded(claim_id, record.value)
            if record is None or claim is None:
                self._schedule.drop(claim_id)
            else:
                self._schedule.put(
                    claim_id,
                    claim.namespace,
                    self._due_at(claim),
                    record.version,
                    asked=claim.check_at <= now and (_new(claim) or claim_id in self._schedule),
                    silent=claim.reason in (DNS_TIMEOUT, DNS_ERROR),
                )

    def _due_at(self, claim: Domain) -> int:
        """Of a claim as another process left it: when its answers end is not stored, if it is proved (`_QUIET`)."""
        if not _settled(claim) or claim.checked_at is None:
            return claim.check_at
        return min(claim.check_at, claim.checked_at + self._settings.pace.proved[0])

    async def _begin(self, looks: asyncio.TaskGroup) -> float:
        """Begin what is due and fits; returns the seconds until the next turn."""
        fence, now = self._tenure.fence, self._now()
        if fence is None or not self._mirror.connected:
            return _LONGEST if fence is None else 1.0
        if now < self._looked_at - MINUTE:
            self._schedule.hasten_all()  # the clock went back: nothing waits for a time that was never
        self._looked_at = now
        await self._sweep(now)
        following = self._schedule.due(now)
        while self._busy < self._settings.at_once:
            delay = self._throttled()
            claim_id = self._schedule.take() if delay <= 0 else None
            if claim_id is None:
                break
            self._busy += 1
            self._free_at += 1 / (_SILENT_RATE if self.silent else self._settings.rate)
            looks.create_task(self._look(claim_id, fence), name=f"look at {claim_id}")
        else:
            return _LONGEST  # whoever ends wakes us
        if delay > 0:
            return delay
        return _LONGEST if following is None else min(max((following - now) / SECOND, 0.001), _LONGEST)

    def _throttled(self) -> float:
        """Seconds until a look may be begun."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now - _CREDIT)
        return self._free_at - now

    async def _look(self, claim_id: str, fence: Fence) -> None:
        """At one claim. Whatever happens, it is looked at again."""
        at, version = self._now() + _DAMAGED_RETRY, None
        look = _Look()
        try:
            at, version = await self._look_and_write(claim_id, fence, look)
        except Conflict as conflict:
            self.counts.conflicts += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CAUGHT_UP):
                    await self._mirror.reached(conflict.version)
            at = self._now() + _AGAIN
        except StoreError as error:
            log.debug("domain %s is looked at again: %s", claim_id, error)
            at = self._now() + _RETRY
        except DecodeError as error:
            log.error("domain %s can't be looked at: %s", claim_id, error)
        finally:
            self._schedule.done(claim_id, at, version, silent=look.silent)
            self._busy -= 1
            self._wake.set()

    async def _look_and_write(self, claim_id: str, fence: Fence, look: _Look) -> tuple[int, int | None]:
        """When to look again, and the revision that was written. Raises StoreError, DecodeError."""
        now = self._now()
        claimed = read_claimed(self._mirror, claim_id)
        if claimed is None:
            return now, None  # removed meanwhile
        if claimed.service is None or claimed.service.deleted_at is not None:
            return await self._clean(claimed, fence)
        claim = claimed.claim
        if claim.proof is Proof.MOVED and claim.check_at > now:
            return claim.check_at, None  # only its owner's word has it looked at
        step = await self._judge(claimed, claimed.service, look)
        at = self._now()
        if _unchanged(step, claim) and claim.check_at > at:
            return step.look_at, None
        if _settled(step.claim):
            step = replace(step, claim=replace(step.claim, check_at=max(step.look_at, at + _QUIET)))
        changes, told = changes_of(step, claimed, self._mirror, at)
        version = await self._store.commit(changes, fence=fence)
        self._count(step, claim)
        for one in told:
            self._tell(one.service, Event(at, one.kind, one.reason))
        return step.look_at, version

    async def _judge(self, claimed: Claimed, service: Service, look: _Look) -> Step:
        claim, settings = claimed.claim, self._settings
        other = standing.holder(claim, claimed.route)
        asked = Asked(
            domain=claim.name,
            endpoint=f"{service.label}.{settings.domain}",
            platform=settings.domain,
            token=token(settings.key, claim.namespace, claim.name),
            holder_token=None if other is None else token(settings.key, other, claim.name),
        )
        seen = await observe(self._resolver, asked, _FIRST_PATIENCE if _new(claim) else PATIENCE)
        verdict = judge(asked, seen)
        look.silent = not verdict.answered
        self.counts.checks += 1
        self.counts.unanswered += not verdict.answered
        self._silences = 0 if seen.aliases.answered else self._silences + 1
        return standing.step(claim, service, verdict, claimed.route, self._now(), settings.pace)

    def _count(self, step: Step, before: Domain) -> None:
        self.counts.verified += step.claim.proof is Proof.VERIFIED and before.proof is not Proof.VERIFIED
        self.counts.demotions += step.releases
        self.counts.moves += step.evicts is not None

    async def _clean(self, claimed: Claimed, fence: Fence) -> tuple[int, int | None]:
        """Its service is gone. Raises StoreError, DecodeError."""
        record = await self._store.get(Kind.SERVICE, claimed.claim.service)
        now = self._now()
        if record is not None and decode(Service, record.value).deleted_at is None:
            return now + _AGAIN, None  # the mirror has not seen it yet
        await self._store.commit(cleaning(claimed, self._mirror, now), fence=fence)
        log.info("the claim on %s is removed: its service is gone", claimed.id)
        return now + _RETRY, None

    async def _sweep(self, now: int) -> None:
        """Now and then: claims whose service is gone are due, also those that nobody looks at."""
        if 0 <= now - self._swept_at < HOUR:
            return
        self._swept_at = now
        services = self._mirror.records(Kind.SERVICE)
        for count, (claim_id, record) in enumerate(list(self._mirror.records(Kind.DOMAIN).items())):
            if count % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            claim = _decoded(claim_id, record.value)
            if claim is not None and claim.service not in services:
                self._schedule.hasten(claim_id)


def _unchanged(step: Step, before: Domain) -> bool:
    """Whether all that is new is that it was looked at; of what is not settled that is news, too."""
    same = replace(step.claim, checked_at=before.checked_at, check_at=before.check_at) == before
    return same and step.route is None and _settled(before)


def _new(claim: Domain) -> bool:
    """Whether nobody has looked at it yet."""
    return claim.checked_at is None and claim.reason is None


def _settled(claim: Domain) -> bool:
    return claim.proof is Proof.VERIFIED and claim.reason is None


def _decoded(claim_id: str, value: bytes) -> Domain | None:
    try:
        return decode(Domain, value)
    except DecodeError as error:
        log.error("the claim %s can't be read: %s", claim_id, error)
        return None
