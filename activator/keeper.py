"""One replica of this node, from its stored intent to its removal.

Laws kept here: 4 (each round looks at what is stored and at what the driver knows, and takes the one step between them;
it may be killed at any line), 3 (what it stops is `stopping`, which only the leader makes of a drained replica; the
address is free only after every worker acknowledged its removal) and 1 (with the store gone it keeps probing; nothing
stops).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from activator import verdicts
from activator.coldstarts import Stopwatch
from activator.drivers import Exit
from activator.node import Node
from activator.planning import Note
from activator.prober import Finding, probe
from activator.racing import unless, within
from activator.record import Record
from activator.starting import Starting
from activator.views import View
from state.ids import now_us
from state.kinds import Kind
from state.models import Reason, Replica, ReplicaState, Service
from state.store import StoreError

log = logging.getLogger(__name__)

AILING_AFTER: Final = 3  # checks in a row
CONDEMNED_AFTER: Final = 6
_LINE: Final = 300  # characters of a log line that go into a reason
_PATIENCE: Final = 2.0  # seconds of waiting for acknowledgements before looking again whether it is still asked for
_LOOK_AGAIN: Final = 0.2  # seconds between looks at what is still in flight
_SPOILT: Final = "its checkout was changed or removed: it is built again"


class Keeper:
    """`run` until the replica is gone. `nudge` when anything about it changed, `hurry` when somebody is held for it."""

    def __init__(self, node: Node, replica_id: str) -> None:
        self._node = node
        self._id = replica_id
        self._record = Record(node, replica_id)
        self._changed = asyncio.Event()
        self._starting = Starting(self._record, self._changed, self._probe)
        self._failures = 0
        self._check_at = 0.0
        self._usurped = False
        self._first_byte: int | None = None
        self._let_go = False  # every worker knows that it is gone, and so does the driver
        self._unknown_since: float | None = None  # when all workers had let go of what the store does not know

    def nudge(self) -> None:
        self._changed.set()

    def hurry(self) -> None:
        self._starting.hurry()

    def answered(self, first_byte: int) -> None:
        """Who was held for it has the first byte, so many microseconds after it was ready. The first word counts."""
        if self._first_byte is None:
            self._first_byte = first_byte
            self._changed.set()

    def usurped(self) -> None:
        """Somebody else listens at its address."""
        self._usurped = True
        self._changed.set()

    async def run(self) -> None:
        while True:
            self._changed.clear()
            replica = self._node.catalog.replica(self._id)
            if replica is None or replica.node != self._node.settings.node:
                if await self._leave():
                    return
            else:
                self._unknown_since = None
                await self._step(replica)

    async def _step(self, replica: Replica) -> None:
        service = self._node.catalog.service(replica.service)
        if service is None:  # the mirror is reading everything anew
            await self._changed.wait()
        elif replica.state in (ReplicaState.STOPPING, ReplicaState.FAILED):
            await self._end(replica, 0.0 if service.forced else self._node.settings.stop_grace)
        elif replica.state is ReplicaState.INTENT:
            await self._begin(replica, service)
        elif self._id in self._node.exits:
            await self._broke(replica, _how(self._node.exits[self._id], replica))
        elif self._id not in self._node.running:
            await self._lost(replica, "it does not run any more, and nobody saw it end (a restart of its node?)")
        elif self._usurped:
            await self._yield(replica)
        elif self._first_byte is not None and replica.ready_at is not None and replica.phases.first_byte is None:
            await self._starting.answered(replica, self._first_byte)
        elif replica.state is ReplicaState.STARTING:
            await self._prove(replica, service)
        elif replica.state is ReplicaState.DRAINING:
            await self._changed.wait()
        else:
            await self._watch(replica)

    async def _begin(self, replica: Replica, service: Service) -> None:
        reason = await self._starting.begin(replica, service)
        if reason is not None:
            how = self._node.exits.get(self._id)
            await self._broke(replica, reason if how is None else _how(how, replica))

    async def _prove(self, replica: Replica, service: Service) -> None:
        reason = await self._starting.prove(replica, service)
        if reason is not None:
            await self._broke(replica, reason, tried_enough=True)
        self._check_at = time.monotonic() + self._node.settings.health_interval

    async def _probe(self, replica: Replica, patience: float = math.inf) -> Finding:
        """Within `patience`: who has no more time is not to be asked for longer, while somebody waits for the word."""
        view = self._node.catalog.deployment(replica.deployment)
        path = "/" if view is None else view.run.health_check_path
        timeout = min(patience, self._node.settings.probe_timeout)
        finding = await probe(replica.host, replica.port, path, timeout)
        if finding.healthy and not await self._node.driver.listens(self._id):
            if self._id in await self._node.driver.usurped():
                self.usurped()
            return Finding("another process answered on its port", f"port {replica.port}")
        return finding

    # -- in rotation

    async def _watch(self, replica: Replica) -> None:
        """Check it now and then: 3 failures take it out of rotation, 6 replace it."""
        interval = self._node.settings.health_interval
        if self._check_at == 0.0:  # adopted: not all of them in the same moment
            self._check_at = time.monotonic() + interval * (hash(self._id) % 1000) / 1000
        if await within(self._changed, self._check_at - time.monotonic()):
            return
        finding = await unless(self._changed, self._probe(replica))
        if finding is None:
            return
        self._check_at = time.monotonic() + interval
        if finding.healthy:
            self._failures = 0
            if replica.state is ReplicaState.UNHEALTHY:
                await self._recovered(replica)
            return
        self._failures += 1
        await self._ailing(replica, Reason(f"{finding.problem}, {self._failures} times in a row", finding.detail))

    async def _recovered(self, replica: Replica) -> None:
        stamp = now_us()
        view = await self._record.change(replica, lambda v: verdicts.passed(v, self._id, stamp), ordered=True)
        if self._record.in_state(view, ReplicaState.READY):
            self._node.mended.discard(replica.deployment)
            self._record.tell(replica, "replica.ready", "its health check passed")

    async def _ailing(self, replica: Replica, reason: Reason) -> None:
        if self._failures >= CONDEMNED_AFTER and replica.state is ReplicaState.UNHEALTHY:
            stamp = now_us()
            step = functools.partial(verdicts.condemned, replica_id=self._id, reason=reason, now=stamp)
            await self._judge(replica, step, "replica.replaced", reason)
        elif self._failures >= AILING_AFTER and replica.state is ReplicaState.READY:
            await self._record.change(replica, lambda v: verdicts.ailed(v, self._id, reason), ordered=True)
            self._record.tell(replica, "replica.unhealthy", reason)

    # -- ending

    async def _yield(self, replica: Replica) -> None:
        """Out of rotation at the first finding: what is sent there is read by a stranger."""
        self._usurped = False
        reason = Reason("another process took its port", f"port {replica.port}")
        view = await self._record.change(replica, lambda v: verdicts.usurped(v, self._id, reason), ordered=True)
        if view is not None and not self._record.in_state(view, replica.state):
            self._record.tell(replica, "replica.replaced", reason)

    async def _broke(self, replica: Replica, reason: Reason, *, tried_enough: bool = False) -> None:
        start = self._starting.broken(replica)
        if replica.state is ReplicaState.STARTING and await self._spoilt(replica):
            await self._lost(replica, replace(reason, public=f"{_SPOILT}; {reason.public}"), start)
            return
        stamp = now_us()

        def step(view: View) -> View:
            return verdicts.broke(view, self._id, reason, stamp, tried_enough=tried_enough)

        await self._judge(replica, step, "replica.failed", reason, start)

    async def _lost(self, replica: Replica, why: str | Reason, start: Stopwatch | None = None) -> None:
        view = await self._record.change(replica, lambda view: verdicts.lost(view, self._id), ordered=True)
        if self._record.in_state(view, ReplicaState.STOPPING):
            self._record.tell_end(replica, "replica.lost", why, start)

    async def _judge(
        self,
        replica: Replica,
        step: Callable[[View], View],
        kind: str,
        reason: Reason,
        start: Stopwatch | None = None,
    ) -> None:
        """What befell the replica may end its deployment."""
        before = self._node.catalog.deployment(replica.deployment)
        held = self._node.demand.held(replica.service, time.monotonic())  # the commit lets them go
        view = await self._record.change(replica, step, ordered=True)
        if start is not None and view is not None and verdicts.ends_wake(view, replica, held=held):
            self._node.cold_starts.failed(start.phase)
        retry = None if view is None else verdicts.retry(view, self._id)
        why = reason if retry is None else replace(reason, public=f"{reason.public}; {retry}")
        self._record.tell_end(replica, kind, why, start)
        after = None if view is None else view.deployments.get(replica.deployment)
        if before is not None and after is not None and before.state is not after.state:
            note = Note("deployment.failed", reason, deployment=after.id)
            self._node.journal.tell(replica.service, (note,))

    async def _spoilt(self, replica: Replica) -> bool:
        """Whether what it was started from is not what was built: then it is not the program's fault, and the next
        start builds it again. Only once until a replica was ready: whatever spoils it may do so for ever."""
        node = self._node
        if await node.driver.verify(self._id) or replica.deployment in node.mended:
            return False
        node.mended.add(replica.deployment)
        return True

    async def _end(self, replica: Replica, grace: float) -> None:
        """Nothing of it runs any more; once every worker knows, its address is free."""
        node = self._node
        if self._id in node.running:
            if replica.state is ReplicaState.STOPPING and not await self._stands():
                return
            await node.driver.stop(self._id, grace)
            node.running.discard(self._id)
        record = node.catalog.mirror.get(Kind.REPLICA, self._id)
        if replica.state is ReplicaState.FAILED or record is None:
            await self._changed.wait()
            return
        if await node.acks.wait(record.version, _PATIENCE):
            await node.driver.forget(self._id)
            self._let_go = True
            await self._record.change(replica, lambda v: verdicts.removed(v, self._id), ordered=True)

    async def _leave(self) -> bool:
        """The store knows nothing of it: it was removed, or the store is older than it is. Whether that is the end.

        It may still be in a worker's memory, so it ends like any other: what runs once nothing is in flight there or
        the drain time is over, and its address is free after the acknowledgements only.
        """
        node = self._node
        if self._id in node.catalog.unreadable(Kind.REPLICA):  # no proof that nobody wants it
            await self._changed.wait()
            return False
        if not self._let_go:
            if not await node.acks.wait(node.catalog.mirror.revision, _PATIENCE) or not await self._drained():
                return False
            if node.catalog.replica(self._id) is not None or not await self._stands():
                return False
            if self._id in node.running:
                log.warning("stopping replica %s, which the store does not know", self._id)
                await node.driver.stop(self._id, node.settings.stop_grace)
        await node.driver.forget(self._id)
        node.running.discard(self._id)
        node.exits.pop(self._id, None)
        node.ports.pop(self._id, None)
        return node.catalog.replica(self._id) is None

    async def _stands(self) -> bool:
        """Whether the store says at this moment what the mirror does. There is no way back from asking a replica to
        end, and a store that has come back from an earlier moment may have workers that send there again."""
        try:
            if await self._node.ledger.stands(Kind.REPLICA, self._id):
                return True
        except StoreError as error:
            log.debug("replica %s ends later: %s", self._id, error)
        await within(self._changed, _LOOK_AGAIN)
        return False

    async def _drained(self) -> bool:
        """Whether nothing is in flight there, or enough time has been given to it. All workers have let go of it."""
        node, now = self._node, time.monotonic()
        if self._unknown_since is None:
            self._unknown_since = now
        if self._id not in node.running or now - self._unknown_since >= node.settings.drain_timeout:
            return True
        if node.demand.in_flight(self._id) == 0:
            return True
        await within(self._changed, _LOOK_AGAIN)
        return False


def _how(how: Exit, replica: Replica) -> Reason:
    """How it ended; the last thing that it said is for its owner."""
    when = " while starting" if replica.ready_at is None else ""
    said = how.last_line
    return Reason(f"{how}{when}", None if said is None else f"last line of its log: {said[:_LINE]}")
