"""The slots that this worker owns, kept in step with the store: the I/O around `activator.slots.Account`.

Laws kept here: 1 (a warm request asks nobody: `Replica.slots` says what is owned; with the store gone, each worker uses
what it owns), 2 (messages are levels; hints only hurry them) and 7 (of each service one message is under way at most).
Times are of `time.monotonic`, as in the data plane: that of the loop may be as old as the turn that it is in.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

from activator.slots import Account, View
from gateway.balance import shunned
from gateway.service import Service
from state.slots import Answer, Hint, MalformedHint, Message, decode_hint
from state.store import StoreError

CHECK: Final = 5.0  # seconds between looks whether the store knows our claims
FENCE: Final = 20.0  # seconds without a word of the store: it takes slots from who was silent for 35 s (`slots.lua`)
_RETRY: Final = 0.25  # seconds between attempts to claim
_LAST_WORD: Final = 1.0  # seconds that an ending worker waits for the store


class Ledger(Protocol):
    """`state.slots.Slots`. All raise StoreError."""

    async def sync(self, service: str, worker: str, message: Message) -> Answer | None: ...
    async def claimed(self, worker: str) -> tuple[str, bool]: ...
    async def claim(self, worker: str, run: str) -> bool: ...
    def told(self, worker: str) -> AsyncIterator[bytes]: ...


class Registered(Protocol):
    """`gateway.membership.Membership`."""

    joined: asyncio.Event

    def doubt(self) -> None: ...


class WorkerSlots:
    """Of one worker, the `gateway.holding.Slots` of its data plane. `worker` is its registration, `version(service id)`
    the revision of a service's backend as applied.

    Construct, `serve` a data plane, `await run()` in a task, `await leave()` when nothing is served any more.
    """

    def __init__(
        self,
        ledger: Ledger,
        worker: str,
        membership: Registered,
        version: Callable[[str], int],
        check: float = CHECK,
        fence: float = FENCE,
    ) -> None:
        self.failed = 0  # messages that the store did not answer
        self.unreadable = 0  # hints
        self._ledger = ledger
        self._worker = worker
        self._membership = membership
        self._version = version
        self._check = check
        self._fence_after = fence
        self._home = ("", worker.partition("/")[0])  # our node; who wrote no node yet had one alone
        self._heard_at = float("-inf")  # of the store: when we sent what it answered last
        self._contact = asyncio.Event()
        self._fenced = False
        self._release: Callable[[Service, float], None] = lambda service, now: None
        self._accounts: dict[str, tuple[Service, Account]] = {}
        self._marked: dict[str, None] = {}  # services of which there may be something to say
        self._more = asyncio.Event()
        self._answered = asyncio.Event()
        self._unclaimed = asyncio.Event()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._seq = 0

    def serve(self, release: Callable[[Service, float], None]) -> None:
        """`release(service, now)` looks at the service, and sends whom there are slots for."""
        self._release = release

    # From the data plane, on the loop

    def look(self, service: Service, now: float) -> None:
        """Something of the service has changed. What others need more is given up at once; the rest is done soon."""
        account = self._account(service)
        if account.settle(self._view(service, now), now):
            service.allot()
        service.lending = account.lending
        self._mark(service.id)

    def touch(self, service: Service, now: float) -> None:
        """Only who waits there, or is in flight, has changed. Thousands may come and go: a look takes 25 µs."""
        found = self._accounts.get(service.id)
        if service.lending or found is None or found[0] is not service:
            self.look(service, now)
        else:
            self._mark(service.id)

    def _account(self, service: Service) -> Account:
        found = self._accounts.get(service.id)
        if found is not None and found[0] is service:
            return found[1]
        account = Account()
        account.fenced = self._fenced
        service.owned = account.owned
        self._accounts[service.id] = service, account
        return account

    def _view(self, service: Service, now: float) -> View:
        replicas = service.replicas.values()
        return View(
            self._version(service.id),
            0 if service.deleted else service.concurrency,
            tuple([replica.id for replica in service.ready]),
            frozenset([replica.id for replica in replicas if not replica.gone]),
            {replica.id: replica.in_flight for replica in replicas if replica.in_flight},
            frozenset([replica.id for replica in shunned(service.ready, now)]),
            len(service.room),
            service.room.oldest(now),
            frozenset([replica.id for replica in replicas if replica.node in self._home]),
        )

    def _mark(self, service_id: str) -> None:
        self._marked[service_id] = None
        self._more.set()

    # With the store

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run_messages(tasks), name="slots")
            tasks.create_task(self._run_hints(), name="hints of slots")
            tasks.create_task(self._run_claims(), name="claims of slots")
            tasks.create_task(self._run_fence(), name="fence of slots")

    async def _run_messages(self, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._more.wait()
            self._more.clear()
            marked, self._marked = self._marked, {}
            for service_id in marked:
                service, account = self._accounts[service_id]
                now = time.monotonic()
                message = account.next(self._view(service, now), self._seq + 1, now)
                if message is not None:
                    self._seq += 1
                    tasks.create_task(self._say(service, account, message), name=f"slots of {service_id}")
                else:
                    self._look_again(service, account, loop)

    def _look_again(self, service: Service, account: Account, loop: asyncio.AbstractEventLoop) -> None:
        """There may be something to say later, although nothing happens; or the service is no more."""
        at = account.again()
        if at is not None:
            if service.id not in self._timers:
                self._timers[service.id] = loop.call_at(at + 0.001, self._time_is_over, service.id)
        elif service.deleted and not account.waiting and not account.owned:
            self._accounts.pop(service.id, None)

    def _time_is_over(self, service_id: str) -> None:
        del self._timers[service_id]
        if service_id in self._accounts:
            self._mark(service_id)

    async def _say(self, service: Service, account: Account, message: Message) -> None:
        sent_at = time.monotonic()
        try:
            answer = await self._ledger.sync(service.id, self._worker, message)
        except StoreError:
            self.failed += 1
            account.failed(time.monotonic())
        else:
            self._heard(sent_at)
            account.answered(answer, time.monotonic())
            if answer is not None and not answer.registered:
                self._membership.doubt()
            if answer is not None and not answer.claimed:
                self._unclaimed.set()
        self._answered.set()
        self._act(service, time.monotonic())

    def _act(self, service: Service, now: float) -> None:
        """What is owned, or wanted elsewhere, has changed."""
        service.allot()
        self._release(service, now)

    async def _run_hints(self) -> None:
        async for data in self._ledger.told(self._worker):
            try:
                hint = decode_hint(data)
            except MalformedHint:
                self.unreadable += 1
            else:
                self._hinted(hint, time.monotonic())

    def _hinted(self, hint: Hint, now: float) -> None:
        found = self._accounts.get(hint.service)
        if found is not None:
            service, account = found
            account.hinted(hint, now)
            self._act(service, now)

    # Claims

    def doubt(self) -> None:
        """The store may have been restarted: look whether it knows what we own."""
        self._unclaimed.set()

    async def _run_claims(self) -> None:
        await self._membership.joined.wait()
        while True:
            self._unclaimed.clear()
            try:
                await self._claim()
            except StoreError:
                await asyncio.sleep(_RETRY)
            else:
                await _within(self._unclaimed, self._check)

    async def _claim(self) -> None:
        """Say of every service what is owned, and then that all was said, in one run of the store."""
        while True:
            asked_at = time.monotonic()
            run, known = await self._ledger.claimed(self._worker)
            self._heard(asked_at)
            if known:
                return
            for _, account in self._accounts.values():
                if account.run != run:
                    account.distrust()
            behind = [pair for pair in self._accounts.values() if _behind(pair[1], run)]
            if not behind and await self._ledger.claim(self._worker, run):
                return
            self._answered.clear()
            for service, account in behind:
                account.doubt()
                self._mark(service.id)
            await _within(self._answered, _RETRY)

    # Cut off

    async def _run_fence(self) -> None:
        """Others may be given what we own when the store has not heard of us for long: we are sooner to know."""
        self._heard_at = max(self._heard_at, time.monotonic())
        while True:
            self._contact.clear()
            left = self._heard_at + self._fence_after - time.monotonic()
            if left > 0:
                await _within(self._contact, left)
            else:
                self._fence()
                await self._contact.wait()

    def _fence(self) -> None:
        self._fenced = True
        now = time.monotonic()
        for service, account in list(self._accounts.values()):
            account.fence()
            self.look(service, now)

    def _heard(self, sent_at: float) -> None:
        self._heard_at = max(self._heard_at, sent_at)
        self._contact.set()
        if self._fenced:
            self._fenced = False
            for service, account in self._accounts.values():
                account.doubt()  # the answer tells what is left
                self._mark(service.id)

    # The end

    async def leave(self) -> bool:
        """Give back all that is not in use. False: the store did not take it within a second: it finds out itself."""
        accounts = list(self._accounts.values())
        try:
            async with asyncio.timeout(_LAST_WORD):
                for service, account in accounts:
                    account.leaving = True
                    self.look(service, time.monotonic())
                while any(not account.said for _, account in accounts):
                    self._answered.clear()
                    await self._answered.wait()
        except TimeoutError:
            return False
        return True

    def forfeit(self) -> None:
        """Cut off for so long that others may have what we owned: nothing new is sent by it."""
        for service, account in self._accounts.values():
            account.forfeit({replica.id: replica.in_flight for replica in service.replicas.values()})
            service.allot()
            self._mark(service.id)

    def counters(self) -> dict[str, int]:
        """`slots`: owned now; the others since the start."""
        accounts = [account for _, account in self._accounts.values()]
        return {
            "slots": sum(sum(account.owned.values()) for account in accounts),
            "slots_recalled": sum(account.recalls for account in accounts),
            "slots_unanswered": self.failed,
        }


def _behind(account: Account, run: str) -> bool:
    """Whether the store may not know, in this run, what is owned."""
    return account.run != run and (account.waiting or bool(account.owned))


async def _within(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
