"""How a node of a shared store stops: what it runs goes to other nodes first, so that nobody's request is lost.

Laws kept here: 3 (its replicas leave by the protocol that scales down: `draining` is stored, every registered worker
lets go, what is in flight ends or has had the drain time, then they stop) and 5 (what comes next is a table). The node
only says how it goes, with every beat (law 2); the leader, which may be its own, decides by it (`activator.absences`).

    DRAIN   others start replacements; what is replaced drains here. Until no other can take over any more and the
            node's own workers have ended, at most for the drain time.
    EVICT   all else drains, too. Until nothing is left, at most for the drain time and a margin: a worker that does not
            acknowledge (its node was stopped, or lost power) must not keep this one for ever.

After that the driver ends what is left. Without the store nobody can be told, and nobody lets go: then that comes soon.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from activator.agent import Agent
from activator.attendance import Leave
from activator.backends import ALIVE
from activator.nodes import Nodes
from activator.placement import Fleet, Needs
from activator.racing import within
from activator.settings import Settings
from activator.views import Catalog
from state.models import Replica, ReplicaState

log = logging.getLogger(__name__)

MARGIN: Final = 5.0  # seconds for commits and acknowledgements, beyond the drain time
_WITHOUT_STORE: Final = 5.0  # seconds that it may be away before it is given up
_LOOK_AGAIN: Final = 0.1  # seconds


class Stage(enum.Enum):
    """Where the stop of a node is."""

    DRAIN = enum.auto()
    EVICT = enum.auto()
    OVER = enum.auto()


class Finding(enum.Enum):
    """What the node sees of itself; the first that fits counts."""

    CUT_OFF = enum.auto()  # the store is away
    EMPTY = enum.auto()  # nothing is left here
    OVERDUE = enum.auto()  # the stage has lasted for as long as it may
    HANDED_OVER = enum.auto()  # no other node can take over any more of what is here


AFTER: Final[Mapping[tuple[Stage, Finding], Stage]] = MappingProxyType(
    {
        (Stage.DRAIN, Finding.CUT_OFF): Stage.OVER,
        (Stage.DRAIN, Finding.EMPTY): Stage.OVER,
        (Stage.DRAIN, Finding.OVERDUE): Stage.EVICT,
        (Stage.DRAIN, Finding.HANDED_OVER): Stage.EVICT,
        (Stage.EVICT, Finding.CUT_OFF): Stage.OVER,
        (Stage.EVICT, Finding.EMPTY): Stage.OVER,
        (Stage.EVICT, Finding.OVERDUE): Stage.OVER,
    }
)
"""What is not in it changes nothing."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known at one moment. `released`: the node's own workers have ended; `remains`: something is on record
    here or runs; `awaited`: another node can take over some of it and has not yet, as far as is known; `away`: seconds
    without the store; `lasted`: of this stage, in seconds."""

    released: bool
    remains: bool
    awaited: bool
    away: float
    lasted: float


def finding(stage: Stage, sight: Sight, drain_timeout: float) -> Finding | None:
    """None: nothing of note. While the node's own workers have requests its replicas are not given up."""
    if sight.released and sight.away >= _WITHOUT_STORE:
        return Finding.CUT_OFF
    if sight.released and not sight.remains:
        return Finding.EMPTY
    if sight.lasted >= drain_timeout + (MARGIN if stage is Stage.EVICT else 0.0):
        return Finding.OVERDUE
    if sight.released and not sight.awaited:
        return Finding.HANDED_OVER
    return None


def awaited(replica: Replica, needs: Needs | None, fleet: Fleet) -> bool:
    """Whether another node can take over the replica of a service with these needs, and is yet to."""
    return replica.state in ALIVE and needs is not None and bool(fleet.able(needs) & fleet.up)


class Evacuation:
    """`run` for ever; `begin` once the node stops, `release` when its own workers have ended, `over` after that."""

    def __init__(self, catalog: Catalog, nodes: Nodes, agent: Agent, settings: Settings) -> None:
        self.over = asyncio.Event()
        self._catalog = catalog
        self._nodes = nodes
        self._agent = agent
        self._settings = settings
        self._begun = asyncio.Event()
        self._changed = asyncio.Event()
        self._released = False
        self._known = False  # what is on record, at least once
        self._connected_at = 0.0

    @property
    def begun(self) -> bool:
        return self._begun.is_set()

    def begin(self) -> None:
        """The node stops."""
        self._begun.set()

    def release(self) -> None:
        """The node's own workers have ended."""
        self._released = True
        self._changed.set()

    def changed(self) -> None:
        """The mirror has something new."""
        self._changed.set()

    async def ended(self) -> None:
        """Returns once the replicas may be stopped: at once if they are not to leave by the protocol."""
        self.release()
        if self.begun:
            await self.over.wait()

    async def run(self) -> None:
        await self._begun.wait()
        self._connected_at = time.monotonic()
        for stage, leave in ((Stage.DRAIN, Leave.DRAIN), (Stage.EVICT, Leave.EVICT)):
            self._nodes.leave(leave)
            log.info("the node stops: %s", leave)
            if await self._past(stage) is Stage.OVER:
                break
        left = [replica.id for replica in self._own()]
        if left:
            log.warning("stopping with what has not left by itself: %s", ", ".join(left))
        self.over.set()

    async def _past(self, stage: Stage) -> Stage:
        """The stage after this one, once that has come."""
        began = time.monotonic()
        while True:
            self._changed.clear()
            found = finding(stage, self._sight(time.monotonic() - began), self._settings.drain_timeout)
            after = stage if found is None else AFTER.get((stage, found), stage)
            if after is not stage:
                return after
            await within(self._changed, _LOOK_AGAIN)

    def _sight(self, lasted: float) -> Sight:
        now, own, fleet = time.monotonic(), self._own(), self._nodes.fleet()
        if self._catalog.mirror.connected:
            self._connected_at, self._known = now, True
        return Sight(
            released=self._released,
            remains=bool(own) or bool(self._agent.running) or not self._agent.adopted,
            awaited=self._awaited(own, fleet),
            away=now - self._connected_at,
            lasted=lasted,
        )

    def _awaited(self, own: Sequence[Replica], fleet: Fleet) -> bool:
        """Also while that can't be said: what is on record and who lives is learnt only after a start."""
        unclear = not self._known or (bool(own) and not fleet.complete)
        return unclear or any(awaited(replica, self._needs(replica), fleet) for replica in own)

    def _own(self) -> list[Replica]:
        """What is on record here, but for those that broke: they stay in their backoff."""
        node = self._settings.node
        if not self._catalog.per_node[node]:
            return []
        return [r for r in self._catalog.replicas() if r.node == node and r.state is not ReplicaState.FAILED]

    def _needs(self, replica: Replica) -> Needs | None:
        service = self._catalog.service(replica.service)
        return None if service is None else Needs.of(service)
