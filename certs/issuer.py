"""The duty of control that gets certificates for custom domains and for the platform's own names, and renews them.

Laws kept here: 5 (what is due when is `certs.due`, pure; here are the clock and the store), 6 (one control does it,
under its lease; each attempt reads the store anew before it begins) and 7 (so many attempts at once, a share of them
for each namespace; whoever fails waits).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from certs.authority import BadCertificate, signed_by
from certs.claims import claim_id
from certs.due import Due, Situation, Work, due
from certs.internal import AUTHORITY
from certs.internal import ISSUER as INTERNAL
from certs.internal_leaves import InternalLeaves
from certs.issuer_desk import ISSUED, RENEWED, Desk, identifier
from certs.issuer_looks import ask_when_to_renew, warn
from certs.issuer_order import Order
from certs.issuer_records import Lost, Seen, shared
from certs.issuer_sweep import Sweeper
from certs.setbacks import REASONS
from certs.turns import Turns
from certs.wanted import WILDCARD, Platform, Wanted, of_domain, of_platform
from state.alarms import Alarms
from state.certificates import Authority, Certificate, Domain, Issuance
from state.codec import DecodeError
from state.kinds import Kind
from state.mirror import Mirror
from state.models import Route
from state.secret_key import SecretError
from state.store import Store, StoreError

log = logging.getLogger(__name__)

T = TypeVar("T")

ORDERS: Final = 8  # at once
_SHARE: Final = 4  # of them, of one namespace
_LOOKS: Final = 4
_AT_LEAST_EVERY: Final = 60.0  # seconds between looks at the clock, which may be stepped
_RETRY: Final = 1_000_000  # µs, after the store or another writer was in the way
_DAMAGED: Final = 60 * 1_000_000  # µs, while what is stored can't be used
_CAUGHT_UP: Final = 1.0  # seconds for the mirror to have what an attempt stored
_SLICE: Final = 100  # names looked at between two turns of the loop
_SWEEP: Final = 3600 * 1_000_000  # µs


class Issuer:
    """`run` for ever in a task; `changed` gets what the mirror applied, `hurry` is called when the lease changes hands.

    With CAs on its `desk` it orders from them; with none, `leaves` are made by the internal CA, for custom domains
    alone: the platform's own are `certs.internal`'s.
    """

    def __init__(self, store: Store, mirror: Mirror, desk: Desk, leaves: InternalLeaves, platform: Platform) -> None:
        self._mirror = mirror
        self._desk = desk
        self._leaves = leaves
        self._platform = {wanted.name: wanted for wanted in of_platform(platform)} if desk.cas else {}
        self._labels = f".{platform.domain}"
        self._sweeper = Sweeper(store, mirror, _of_platform(platform))
        self._alarms = Alarms()
        self._plans: dict[str, Due] = {}
        self._waits: dict[str, int] = {}  # by name, until when it is left alone after a failure that is not stored
        self._asked: set[str] = set()  # names whose owner wants a look
        self._attention: dict[str, None] = {}
        self._lines = {True: Turns(ORDERS, _SHARE), False: Turns(_LOOKS, _LOOKS)}  # of orders, of anything else
        self._running: dict[str, asyncio.Task[None]] = {}
        self._leading = False
        self._swept_at = 0
        self._wake = asyncio.Event()

    def hurry(self) -> None:
        """Look at everything now."""
        self._leading = False
        self._wake.set()

    def changed(self, touched: Sequence[tuple[Kind, str]]) -> None:
        """For the mirror's `on_change`."""
        for kind, object_id in touched:
            if kind is Kind.DOMAIN:
                self._note_claim(object_id)
            elif kind in (Kind.ISSUANCE, Kind.CERTIFICATE) or self._custom(kind, object_id):
                self._attention[object_id] = None
            elif kind is Kind.META and object_id == AUTHORITY:
                self._leading = False
        if self._attention or not self._leading:
            self._wake.set()

    def _custom(self, kind: Kind, object_id: str) -> bool:
        """Whether it is the route of a custom domain: those of the platform's labels are many and never ordered for."""
        return kind is Kind.ROUTE and not object_id.endswith(self._labels)

    @property
    def busy(self) -> bool:
        """Whether something is under way, or is about to be looked at."""
        return bool(self._running or self._attention or self._wake.is_set())

    async def run(self) -> None:
        """For ever. Nothing that fails ends it: what is served is served on, and it is tried again."""
        await self._mirror.synced()
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._wake.clear()
                pause = await self._look(tasks)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()

    def left(self) -> dict[str, float]:
        """By name, the seconds that its certificate lasts; negative once it has ended."""
        now = self._desk.now()
        names = self._mirror.records(Kind.CERTIFICATE)
        known = {name: self._known(Kind.CERTIFICATE, name, Certificate) for name in names}
        return {name: (found.not_after - now) / 1e6 for name, found in known.items() if found is not None}

    def trusted(self, name: str) -> bool:
        """Whether clients trust what this name is served with."""
        found = self._known(Kind.CERTIFICATE, name, Certificate)
        return found is not None and found.trusted and self._desk.now() < found.not_after

    @property
    def counts(self) -> Mapping[str, int]:
        """Orders by result: issued, renewed, or the reason why not. Every result is there from the start."""
        return {result: self._desk.counts[result] for result in (ISSUED, RENEWED, *REASONS)}

    # -- what is due

    async def _look(self, tasks: asyncio.TaskGroup) -> float:
        """Begin what is due; returns the seconds until the next look."""
        if self._desk.records.fence is None:
            self._stop()
            return _AT_LEAST_EVERY
        if not self._leading:
            self._leading = True
            self._attention |= dict.fromkeys([*self._platform, *_names(self._mirror.records(Kind.DOMAIN))])
        await self._attend()
        await self._sweep()
        now = self._desk.now()
        for name in self._alarms.due(now):
            self._line_up(name)
        self._take(tasks)
        following = self._alarms.next()
        left = _AT_LEAST_EVERY if following is None else (following - self._desk.now()) / 1e6
        return min(max(left, 0.01), _AT_LEAST_EVERY)

    def _stop(self) -> None:
        """Another control leads: nothing that is under way here counts any more."""
        self._leading = False
        for task in self._running.values():
            task.cancel()
        for line in self._lines.values():
            line.clear()
        self._alarms.clear()
        self._plans.clear()
        self._attention.clear()
        self._asked.clear()

    def _note_claim(self, object_id: str) -> None:
        """A claim that is to be looked at now was written by its owner: the verifier's next looks lie ahead."""
        name = object_id.partition("/")[2]
        self._attention[name] = None
        with contextlib.suppress(DecodeError):
            domain = self._mirror.decoded(Kind.DOMAIN, object_id, Domain)
            if domain is not None and domain.checked_at is not None and domain.check_at <= self._desk.now():
                self._asked.add(name)

    async def _attend(self) -> None:
        """When is something due for the names that changed?"""
        names, self._attention = self._attention, {}
        for count, name in enumerate(names):
            if count % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            if name not in self._running:
                self._plan(name)

    def _plan(self, name: str) -> None:
        situation = self._situation(name)
        if situation is None:
            self._plans.pop(name, None)
            self._alarms.set(name, None)
            self._asked.discard(name)
            return
        if not situation.issuance.permanent:
            self._asked.discard(name)
        step = due(situation, self._desk.cas, self._desk.now())
        self._plans[name] = step
        wait = self._waits.get(name, 0)
        if wait <= self._desk.now():
            self._waits.pop(name, None)
        self._alarms.set(name, max(step.at, wait))

    def _situation(self, name: str) -> Situation | None:
        """As far as the mirror knows; None: nothing is wanted for it."""
        wanted = self._wanted(name)
        if wanted is None:
            return None
        issuance = self._known(Kind.ISSUANCE, name, Issuance)
        if issuance is None or (issuance.namespace, issuance.names) != (wanted.namespace, wanted.names):
            issuance = Issuance(wanted.names, wanted.namespace)
        certificate = shared([self._known(Kind.CERTIFICATE, each, Certificate) for each in wanted.names])
        ordering = bool(self._desk.cas)
        return Situation(
            wanted,
            issuance,
            certificate,
            identifier(certificate) if ordering else None,
            asked=name in self._asked,
            disowned=not ordering and certificate is not None and self._disowned(certificate),
        )

    def _known(self, kind: Kind, object_id: str, model: type[T]) -> T | None:
        """What can't be read is as good as none: it is made anew."""
        try:
            return self._mirror.decoded(kind, object_id, model)
        except DecodeError:
            return None

    def _wanted(self, name: str) -> Wanted | None:
        if (own := self._platform.get(name)) is not None:
            return own
        route = self._known(Kind.ROUTE, name, Route)
        if route is None:
            return None
        return of_domain(self._known(Kind.DOMAIN, claim_id(route.namespace, name), Domain), route)

    def _disowned(self, certificate: Certificate) -> bool:
        root = self._known(Kind.META, AUTHORITY, Authority)
        if certificate.issuer != INTERNAL or root is None:
            return False
        return not signed_by(certificate.chain, root.certificate)

    # -- doing it

    def _line_up(self, name: str) -> None:
        """Its time has come."""
        step, wanted = self._plans.get(name), self._wanted(name)
        if step is not None and wanted is not None:
            self._lines[step.work is Work.ORDER].put(wanted.namespace, name)

    def _take(self, tasks: asyncio.TaskGroup) -> None:
        """Begin with as many as may be under way."""
        for line in self._lines.values():
            while (turn := line.take()) is not None:
                namespace, name = turn
                wanted, step = self._wanted(name), self._plans.get(name)
                if wanted is None or step is None or name in self._running:
                    line.done(namespace)
                    continue
                asked = name in self._asked
                self._asked.discard(name)
                task = tasks.create_task(self._attempt(wanted, step.work, asked), name=f"certificate of {name}")
                self._running[name] = task
                task.add_done_callback(partial(self._ended, line, namespace, name))

    def _ended(self, line: Turns, namespace: str, name: str, _task: asyncio.Task[None]) -> None:
        line.done(namespace)
        del self._running[name]
        self._attention[name] = None
        self._wake.set()

    async def _attempt(self, wanted: Wanted, work: Work, asked: bool) -> None:
        """Look again, then do it. Nothing is lost by failing: it is due again a moment later."""
        try:
            seen = await self._desk.records.read(wanted)
            seen = await self._work(seen, work, asked)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CAUGHT_UP):
                    await self._mirror.reached(max(seen.versions.values(), default=0))
        except (Lost, StoreError) as error:
            log.debug("%s is looked at again: %s", wanted.name, error)  # overtaken: nobody has to act
            self._waits[wanted.name] = self._desk.now() + _RETRY
        except (BadCertificate, DecodeError, SecretError) as error:
            log.error("no certificate for %s: %s", wanted.name, error)
            self._waits[wanted.name] = self._desk.now() + _DAMAGED

    async def _work(self, seen: Seen, work: Work, asked: bool) -> Seen:
        if not self._desk.cas and work is Work.ORDER:
            return await self._leaves.make(seen)
        if work is Work.ORDER:
            return await Order(self._desk, seen, asked=asked).run()
        if work is Work.WINDOW:
            return await ask_when_to_renew(self._desk, seen)
        return await warn(self._desk, seen)

    async def _sweep(self) -> None:
        """Once an hour."""
        fence, now = self._desk.records.fence, self._desk.now()
        if fence is None or 0 <= now - self._swept_at < _SWEEP:
            return
        self._swept_at = now
        try:
            await self._sweeper.sweep(fence, now)
        except StoreError as error:
            log.info("what is left behind is looked for again: %s", error)
            self._swept_at = now - _SWEEP + _DAMAGED


def _of_platform(platform: Platform) -> frozenset[str]:
    """Under which there may be records of the platform's own."""
    wildcard = f"{WILDCARD}{platform.domain}"
    return frozenset({platform.domain, wildcard, *([platform.api_host] if platform.api_host else [])})


def _names(claims: Iterable[str]) -> Iterable[str]:
    """The domains that are claimed, by the ids of the claims."""
    return dict.fromkeys(claim.partition("/")[2] for claim in claims)
