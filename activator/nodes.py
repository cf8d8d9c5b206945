"""The nodes that run replicas: what each offers, which of them live, and which are lost.

Every control publishes a beat each second, a level that is kept nowhere (law 2), and stores what its node offers. The
leader writes down which node was not heard for `node_grace` seconds (`Node.lost_at`) and which is heard again; all that
follows from it, on every node, follows from what is stored. Silence counts only while the leader itself can hear
(`activator.attendance`): after an outage of the store, or a start of this control, nothing is said of anybody before he
had all that time to be heard.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from activator.attendance import Attendance, Leave, verdicts
from activator.placement import Fleet
from activator.racing import within
from activator.settings import Settings
from activator.views import Catalog
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.leases import Lease
from state.mirror import Mirror
from state.models import Node, Offer
from state.store import ABSENT, BEATS, Change, Conflict, Fence, Fenced, Store, StoreError

log = logging.getLogger(__name__)

_UNHEARD: Final = 0.1  # seconds between beats while we don't hear our own
_FORGOTTEN: Final = 86_400  # seconds after which a lost node without replicas is no longer on record


class Nodes:
    """`run` for ever, `heard` for every beat, `changed` whenever the record of a node did."""

    def __init__(
        self, store: Store, mirror: Mirror, lease: Lease, catalog: Catalog, settings: Settings, offer: Offer
    ) -> None:
        self.joined = asyncio.Event()
        """What this node offers is stored, and its beat was heard since."""
        self._store = store
        self._mirror = mirror
        self._lease = lease
        self._catalog = catalog
        self._settings = settings
        self._offer = offer
        self._attendance = Attendance(settings.node, settings.beat_patience)
        self._leave: Leave | None = None
        self._more = asyncio.Event()

    async def run(self) -> None:
        await self._mirror.synced()
        while True:
            self._more.clear()
            try:
                await self._beat()
                await self._list_own()
                fence = self._lease.fence
                if fence is not None and self._leave is not Leave.RELOAD:
                    await self._judge(fence)
            except (Conflict, Fenced):
                pass  # it was somebody else's turn: looked at again with the next beat
            except StoreError as error:
                log.debug("the nodes are looked at later: %s", error)
            hearing = self._attendance.hearing(time.monotonic())
            await within(self._more, self._settings.beat if hearing else min(_UNHEARD, self._settings.beat))

    def hurry(self) -> None:
        self._more.set()

    def leave(self, how: Leave) -> None:
        """The node takes nothing on any more. Who stops says so to the end."""
        if self._leave is None or how is not Leave.RELOAD:
            self._leave = how
        self._more.set()

    def heard(self, beat: bytes) -> bool:
        """Whether that is news for who decides: a node goes, or we had not heard ourselves before, and can tell from
        now on who lives."""
        node, leave = _read(beat)
        if node not in self._mirror.records(Kind.NODE):  # so that what is kept is bounded by what is stored
            return False
        now, own = time.monotonic(), node == self._settings.node
        news = (own and not self._attendance.hearing(now)) or leave is not self._attendance.leaving(node)
        self._attendance.heard(node, now, leave)
        if own:
            self.joined.set()
        return news

    def changed(self) -> None:
        if not self.joined.is_set():
            self._more.set()

    def fleet(self) -> Fleet:
        """As it is known here at this moment. Who asks lives."""
        now, nodes = time.monotonic(), self._catalog.nodes()
        own = {self._settings.node}
        lost = {i: (now_us() - node.lost_at) / 1e6 for i, node in nodes.items() if node.lost_at is not None}
        others = {i for i in nodes.keys() - own - lost.keys() if self._attendance.present(i, now)}
        leaving = {node: self._leaves(node) for node in nodes.keys() - lost.keys()}
        return Fleet(
            offers={node_id: node.offer for node_id, node in nodes.items()},
            up=frozenset(others | own if self._leave is None else others),
            lost=lost,
            complete=self._attendance.complete(nodes.keys() - lost.keys() - own, now),
            draining=frozenset(node for node, how in leaving.items() if how is Leave.DRAIN),
            evicting=frozenset(node for node, how in leaving.items() if how is Leave.EVICT),
        )

    def _leaves(self, node: str) -> Leave | None:
        return self._leave if node == self._settings.node else self._attendance.leaving(node)

    async def _beat(self) -> None:
        leave = "" if self._leave is None else f" {self._leave}"
        await self._store.publish(BEATS, f"{self._settings.node}{leave}".encode())

    async def _list_own(self) -> None:
        """Raises Conflict, Unavailable."""
        own, known = self._settings.node, self._catalog.nodes().get(self._settings.node)
        if known is None or known.offer != self._offer:
            node = Node(self._offer) if known is None else replace(known, offer=self._offer)
            await self._commit({own: node}, None)

    async def _judge(self, fence: Fence) -> None:
        """Raises Conflict, Fenced, Unavailable."""
        nodes, grace = self._catalog.nodes(), self._settings.node_grace
        found = verdicts(nodes, self._attendance, self._settings.node, grace, time.monotonic(), now_us())
        for node_id, node in found.items():
            log.warning("node %s %s", node_id, "is heard again" if node.lost_at is None else "is lost")
        if found:
            await self._commit(found, fence)
        over = now_us() - _FORGOTTEN * 1_000_000
        for node_id, node in nodes.items():
            if node.lost_at is not None and node.lost_at < over and not self._catalog.per_node[node_id]:
                await self._commit({node_id: None}, fence)

    async def _commit(self, nodes: Mapping[str, Node | None], fence: Fence | None) -> None:
        """None: it is no longer on record. Raises Conflict, Fenced, Unavailable."""
        changes = []
        for node_id, node in nodes.items():
            record = self._mirror.get(Kind.NODE, node_id)
            value = None if node is None else encode(node)
            changes.append(Change(Kind.NODE, node_id, value, ABSENT if record is None else record.version))
        await self._store.commit(changes, fence=fence)


def _read(beat: bytes) -> tuple[str, Leave | None]:
    """Who says it, and how he goes. A word that a newer version has for it means at least that he does."""
    node, _, word = beat.decode(errors="replace").partition(" ")
    return node, None if not word else Leave(word) if word in set(Leave) else Leave.RELOAD
