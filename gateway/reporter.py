"""What a worker tells control: its load, its acknowledgement and its counters, each second and when it matters.

Laws kept here:

- 2: a report is a level. Whatever is lost, the next one says it again; a wake only hurries it.
- 1: nothing on the hot path waits. `wake` and `changed` set a mark; one task publishes. With the store gone the marks
  stay, the counters wait (they are cumulative) and nothing is queued but the newest state.
- 7: bounded. One report at a time; the counters of at most `COUNTED` services in each, those that changed first, the
  others in turn, so that a reader who missed some learns all in the end.

A report says in one message the applied revision *and* what is in flight (DESIGN, the acknowledgement protocol): both
are read in one go, without giving way to the loop between them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final, Protocol

from state.store import REPORTS, WAKES, StoreError

EVERY: Final = 1.0  # seconds between reports
COALESCE: Final = 0.02  # seconds between two hurried ones
COUNTED: Final = 500  # services whose counters one report carries
WAKES_LIMIT: Final = 10_000  # wakes that may wait to be published
ANSWERED_LIMIT: Final = 10_000  # replicas whose first byte may wait to be told
REPEATED: Final = 5  # full reports that tell the first byte of a replica
_LAST_WORD: Final = 1.0  # seconds that an ending worker waits for the store

Counters = dict[str, Any]


class Load(Protocol):
    """Of one service, now; times in ms. `gateway.edge.Load` is one."""

    @property
    def in_flight(self) -> int: ...
    @property
    def held(self) -> int: ...
    @property
    def held_ms(self) -> int: ...
    @property
    def replicas(self) -> Mapping[str, int]: ...


class Loaded(Protocol):
    """What is reported on: `gateway.edge.Edge`."""

    def loads(self) -> Mapping[str, Load]: ...
    def counters(self) -> Counters:
        """An object that was told is never changed: it is compared with what is to be told."""


class _Idle:
    """A worker that has not begun to serve."""

    def loads(self) -> Mapping[str, Load]:
        return {}

    def counters(self) -> Counters:
        return {}


class Followed(Protocol):
    """How far the worker's copy of the store is: `state.mirror.Mirror`."""

    @property
    def revision(self) -> int: ...
    @property
    def run_id(self) -> str: ...


class Publisher(Protocol):
    """`state.store.Store`. Raises StoreError."""

    async def publish(self, channel: str, data: bytes) -> None: ...


class Reporter:
    """The `gateway.edge.Demand` of a worker, and its voice. `worker` is its registration.

    Construct, `watch()` what is to be reported (before, it reports an idle worker), `await run()` in a task; `last()`
    when it ends.
    """

    def __init__(self, publisher: Publisher, worker: str, followed: Followed, every: float = EVERY) -> None:
        self.failed = 0  # reports that the store did not take
        self.wakes_dropped = 0
        self._publisher = publisher
        self._worker = worker
        self._followed = followed
        self._every = every
        self._loaded: Loaded = _Idle()
        self._seq = 0
        self._hurry = asyncio.Event()
        self._wakes: dict[str, None] = {}
        self.first_bytes_dropped = 0
        self._first_bytes: dict[str, tuple[int, int]] = {}  # by replica: microseconds, full reports that tell it yet
        self._waking = asyncio.Event()
        self._ledger = Ledger()
        self._published_at = float("-inf")
        self.told_at = (
            asyncio.get_running_loop().time()
        )  # when the last report that the store took began; at first, now

    def watch(self, loaded: Loaded) -> None:
        self._loaded = loaded

    def wake(self, service_id: str) -> None:
        """A request is held and no ready replica is known."""
        if len(self._wakes) >= WAKES_LIMIT and service_id not in self._wakes:
            self.wakes_dropped += 1  # the next report says it
            return
        self._wakes[service_id] = None
        self._waking.set()

    def changed(self, service_id: str) -> None:
        """A draining replica has nothing in flight any more."""
        self._hurry.set()

    def answered(self, replica_id: str, first_byte: int) -> None:
        """Who was held for the start of a replica has the first byte. Reports may be lost: it is told several times."""
        if len(self._first_bytes) >= ANSWERED_LIMIT:
            self.first_bytes_dropped += 1
            return
        self._first_bytes[replica_id] = (first_byte, REPEATED)
        self._hurry.set()

    def hurry(self) -> None:
        """Report at once: a change was applied that control waits for. Many calls make one report."""
        self._hurry.set()

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run_reports(), name="reports")
            tasks.create_task(self._run_wakes(), name="wakes")

    async def report(self, *, counted: bool = True, last: bool = False) -> bool:
        """Publish one report now. `last`: nothing is served any more. False: the store did not take it."""
        report, counters = self._compose(counted)
        if last:
            report["last"] = True
        began = self._published_at = asyncio.get_running_loop().time()
        try:
            await self._publisher.publish(REPORTS, json.dumps(report, separators=(",", ":")).encode())
        except StoreError:
            self.failed += 1
            return False
        self.told_at = began
        self._ledger.told(counters)
        if counted:
            left = ((replica, first_byte, times - 1) for replica, (first_byte, times) in self._first_bytes.items())
            self._first_bytes = {replica: (first_byte, times) for replica, first_byte, times in left if times}
        return True

    async def last(self) -> bool:
        """The last reports of a worker that ends: all counters that were not told yet. Waits a second at most."""
        try:
            async with asyncio.timeout(_LAST_WORD):
                while await self.report(last=True):
                    if not self._ledger.behind:
                        return True
        except TimeoutError:
            self.failed += 1
        return False

    async def _run_reports(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            hurried = await self._hurried(due)
            if hurried:
                await asyncio.sleep(self._published_at + COALESCE - loop.time())
            self._hurry.clear()
            full = not hurried or loop.time() >= due  # a timer may come a millisecond before its time
            if full:
                due = max(due + self._every, loop.time())
            await self.report(counted=full)

    async def _hurried(self, due: float) -> bool:
        """Wait for a reason to report: True when something happened, False when the second is over."""
        try:
            async with asyncio.timeout_at(due):
                await self._hurry.wait()
        except TimeoutError:
            return False
        return True

    async def _run_wakes(self) -> None:
        while True:
            await self._waking.wait()
            self._waking.clear()
            wakes, self._wakes = self._wakes, {}
            for service_id in wakes:
                if not await self._publish_wake(service_id):
                    self.wakes_dropped += len(wakes) + len(self._wakes)  # the next report says it all
                    self._wakes.clear()
                    break

    async def _publish_wake(self, service_id: str) -> bool:
        try:
            await self._publisher.publish(WAKES, service_id.encode())
        except StoreError:
            return False
        return True

    def _compose(self, counted: bool) -> tuple[dict[str, Any], Counters]:
        self._seq += 1
        report: dict[str, Any] = {
            "worker": self._worker,
            "seq": self._seq,
            "run_id": self._followed.run_id,
            "revision": self._followed.revision,
            "services": {i: _load(load) for i, load in self._loaded.loads().items()},
        }
        if self._first_bytes:
            report["first_bytes"] = {replica: first_byte for replica, (first_byte, _) in self._first_bytes.items()}
        counters: Counters = {}
        if counted:
            all_counters = self._loaded.counters()
            counters = self._ledger.choose(all_counters.get("services", {}))
            own = {
                "reports_failed": self.failed,
                "wakes_dropped": self.wakes_dropped,
                "first_bytes_dropped": self.first_bytes_dropped,
            }
            report["counters"] = all_counters | own | {"services": counters}
        return report, counters


def _load(load: Load) -> dict[str, Any]:
    return {
        "in_flight": load.in_flight,
        "held": load.held,
        "held_ms": load.held_ms,
        "replicas": dict(load.replicas),
    }


class Ledger:
    """Which services' counters the next report carries. `behind`: some that changed have not been told."""

    def __init__(self, limit: int = COUNTED) -> None:
        self.behind = False
        self._limit = limit
        self._told: dict[str, Any] = {}  # by service, the longest untold first

    def choose(self, services: Mapping[str, Any]) -> Counters:
        """Of all counters: those that changed, then the others; each the longest untold first, and `limit` at most."""
        changed = [i for i in services if i not in self._told]
        changed += [i for i, told in self._told.items() if i in services and _differ(services[i], told)]
        self.behind = len(changed) > self._limit
        chosen = changed[: self._limit]
        if room := self._limit // 10 - len(chosen):
            known = set(chosen)
            chosen += [i for i in self._told if i in services and i not in known][: max(room, 0)]
        for gone in self._told.keys() - services.keys():
            del self._told[gone]
        return {i: services[i] for i in chosen}

    def told(self, counters: Counters) -> None:
        """These have been published."""
        for service_id, values in counters.items():
            self._told.pop(service_id, None)
            self._told[service_id] = values


def _differ(one: object, other: object) -> bool:
    """Equal objects are compared for long; most are the same one."""
    return one is not other and one != other
