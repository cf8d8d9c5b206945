"""The start of one replica of this node, from the stored intent to the first health check that sees 200, by phases.

Law kept here: 4 (each step is taken from what is stored; an intent that an earlier control already acted upon is found
by the driver, and the phases that it measured are gone on with).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from activator import verdicts
from activator.coldstarts import Stopwatch, told
from activator.drivers import NoRoom, StartFailed
from activator.patience import Patience
from activator.prober import Finding
from activator.racing import unless, within
from activator.record import Record
from activator.views import View
from state.ids import now_us
from state.models import Reason, Replica, ReplicaState, Service, StartPhases

Probe = Callable[[Replica, float], Coroutine[Any, Any, Finding]]
"""One health check, for so many seconds at most."""

_BACKING_OFF: Final = 1.3
_HANGS: Final = 1.0  # seconds from which on a check that was cut short says more than the one before
_EARLY: Final = 0.01  # seconds by which a timer may be early
_ROOM_AGAIN: Final = 2.0  # seconds until a node that had no room is asked again


class Starting:
    """`begin`, then `prove` until it is ready; both return why it came to nothing, if it did. `changed`: anything about
    the replica did, and whoever waits looks again."""

    def __init__(self, record: Record, changed: asyncio.Event, probe: Probe) -> None:
        self._record = record
        self._node = record.node
        self._changed = changed
        self._probe = probe
        self._held = asyncio.Event()
        self._proving_since: float | None = None
        self._pace = record.node.settings.probe_fast
        self._last = Finding("it did not answer")
        self._patience = Patience()
        self._crowded_out = False
        self._clock: Stopwatch | None = None

    def hurry(self) -> None:
        """Somebody is held for it."""
        self._held.set()

    async def begin(self, replica: Replica, service: Service) -> Reason | None:
        """Store the port, then start."""
        node, record = self._node, self._record
        clock = self._timed(replica)
        try:
            port = replica.port or node.allocate(record.id)
            view = await record.change(replica, lambda v: verdicts.addressed(v, record.id, port))
            deployment = None if view is None else view.deployments.get(replica.deployment)
            if deployment is None or not record.in_state(view, ReplicaState.INTENT):
                return None
            started = await node.launch(record.id, service, deployment, port, clock)
        except NoRoom as error:
            await self._wait_for_room(replica, error)
            return None
        except StartFailed as error:
            return error.reason
        node.running.add(record.id)
        self._proving_since = time.monotonic()
        stamp, phases = now_us(), clock.enter("ready", self._proving_since)

        def step(view: View) -> View:
            return verdicts.started(view, record.id, started.host, started.port, stamp, phases)

        if record.in_state(await record.change(replica, step), ReplicaState.STARTING):
            path, limit = deployment.run.health_check_path, service.scaling.startup_timeout
            record.tell(replica, "replica.started", f"it has {limit} s to answer 200 at {path}")
        return None

    async def _wait_for_room(self, replica: Replica, error: NoRoom) -> None:
        """The node's trouble, not the deployment's."""
        if not self._crowded_out:
            self._crowded_out = True
            reason = replace(error.reason, public=f"{error.reason.public}: it starts as soon as one is")
            self._record.tell(replica, "replica.waiting", reason)
        await within(self._changed, _ROOM_AGAIN)

    async def prove(self, replica: Replica, service: Service) -> Reason | None:
        """Probe until it is healthy: as fast as can be while somebody is held."""
        now = time.monotonic()
        since = self._proving_since = now if self._proving_since is None else self._proving_since
        limit = service.scaling.startup_timeout
        if now - since >= limit:
            return Reason(f"{self._last.problem} for {limit} s", self._last.detail)
        finding = await unless(self._changed, self._probe(replica, since + limit - now))
        if finding is None:
            return None
        if finding.healthy:
            await self._passed(replica)
            return None
        if (over := time.monotonic()) - since >= limit - _EARLY:  # it was cut short
            if over - now >= _HANGS:
                self._last = Finding("it did not answer", finding.detail)
            return None
        self._last = finding
        if self._patience.over(finding.problem, now - since):
            why = f"{finding.problem} for {now - since:.0f} s; the limit is {limit} s"
            self._record.tell(replica, "replica.waiting", why)
        await self._pause(replica, now, since + limit)
        return None

    async def _pause(self, replica: Replica, asked_at: float, until: float) -> None:
        settings = self._node.settings
        self._held.clear()
        if self._node.demand.held(replica.service, time.monotonic()):
            self._pace = settings.probe_fast
        else:
            self._pace = min(self._pace * _BACKING_OFF, settings.probe_slow)
        next_at = min(asked_at + self._pace, until)
        await unless(self._changed, within(self._held, next_at - time.monotonic()))

    async def _passed(self, replica: Replica) -> None:
        record = self._record
        stamp, phases = now_us(), self._timed(replica).enter("first_byte", time.monotonic())
        held = self._node.demand.held(replica.service, time.monotonic())
        view = await record.change(
            replica, lambda v: verdicts.passed(v, record.id, stamp, phases, held=held), ordered=True
        )
        if view is not None and record.in_state(view, ReplicaState.READY):
            self._node.mended.discard(replica.deployment)
            self._tell_ready(view.replicas[record.id], phases)

    def _tell_ready(self, replica: Replica, phases: StartPhases) -> None:
        if replica.cold:
            self._node.cold_starts.ready(phases)
        how = "cold start" if replica.cold else "started in"
        self._record.tell(replica, "replica.ready", f"{how} {told(phases)}", phases)

    async def answered(self, replica: Replica, first_byte: int) -> None:
        """Who was held for it has the first byte, so many microseconds after it was ready."""
        record = self._record
        view = await record.change(replica, lambda v: verdicts.answered(v, record.id, first_byte))
        if view is not None and (after := view.replicas.get(record.id)) is not None:
            if after.cold:
                self._node.cold_starts.answered(first_byte / 1e6)
            record.tell(replica, "replica.answered", f"first byte after {told(after.phases)}", after.phases)

    def broken(self, replica: Replica) -> Stopwatch | None:
        """How far a start came that comes to nothing now; None: the replica had been ready."""
        if replica.ready_at is not None:
            return None
        clock = self._timed(replica)
        clock.enter(clock.phase, time.monotonic())
        return clock

    def _timed(self, replica: Replica) -> Stopwatch:
        """The clock of its start, which an earlier control may have begun."""
        if self._clock is None:
            self._clock = Stopwatch(replica, time.monotonic(), now_us())
        return self._clock
