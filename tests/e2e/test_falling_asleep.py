"""A request sent at any moment of going to sleep is answered 200."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from e2e_node import eventually
from scenes import Notes, Reply, ask, deploy, host

from state.kinds import Kind
from state.mirror import Mirror
from state.models import Backend
from state.store import Store

pytestmark = pytest.mark.e2e

SERVICES = 50
TRIES = 10  # per service
AIMED = 8  # of them sent right after the decision, the others at any moment
NEEDED = 200  # tries that must fall between the decision and the replica's exit


@dataclass
class Sleeper:
    """One service, when it was last decided that it sleeps, and what became of the requests sent meanwhile."""

    name: str
    notes: Notes
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    decided_at: float = 0.0
    tries: list[tuple[float, float, bool, object]] = field(default_factory=list)


class Watch:
    """Sees in the store's feed that the last replica of a service leaves the rotation."""

    def __init__(self, store: Store) -> None:
        self.sleepers: dict[str, Sleeper] = {}
        self.mirror = Mirror(store, [Kind.BACKEND], self._changed)

    def _changed(self, touched: Sequence[tuple[Kind, str]]) -> None:
        for kind, service in touched:
            backend = self.mirror.decoded(kind, service, Backend)
            sleeper = self.sleepers.get(service)
            if backend is None or sleeper is None:
                continue
            if any(e.ready for e in backend.endpoints):
                sleeper.decided.clear()
            elif not sleeper.decided.is_set():
                sleeper.decided_at = time.monotonic()
                sleeper.decided.set()


async def tries_of(port: int, sleeper: Sleeper) -> None:
    for n in range(TRIES):
        if n < AIMED:
            async with asyncio.timeout(60):
                await sleeper.decided.wait()
            await asyncio.sleep(random.uniform(0, 0.03))  # any moment of the draining
        else:
            await asyncio.sleep(random.uniform(0.8, 1.6))  # any moment around the idle time-out of 1 s
        sent_at, after = time.monotonic(), sleeper.decided.is_set()
        reply = await ask(port, host("acme", sleeper.name), f"/try/{n}")
        sleeper.tries.append((sleeper.decided_at, sent_at, after, reply))


def before_the_exit(sleeper: Sleeper) -> int:
    """Tries sent after a decision and before the SIGTERM that followed it, or called back so that none did."""
    stops = [float(line[1]) for line in sleeper.notes.lines("stops")]
    count = 0
    for decided_at, sent_at, after, _ in sleeper.tries:
        stop = next((s for s in stops if s >= decided_at), float("inf"))
        count += after and sent_at <= stop
    return count


async def test_five_hundred_requests_while_fifty_services_fall_asleep(make_node):
    node = make_node(workers=2).start()
    store = Store(f"unix://{node.data}/store.sock")
    watch = Watch(store)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(watch.mirror.run())
        await watch.mirror.synced()
        for n in range(SERVICES):
            notes = await asyncio.to_thread(
                deploy, node, "acme", f"s{n}", min_replicas=0, scaling={"idle_timeout": 1, "scale_down_delay": 0}
            )
            found = (await asyncio.to_thread(node.service, "acme", f"s{n}"))["id"]
            watch.sleepers[found] = Sleeper(f"s{n}", notes)
        sleepers = list(watch.sleepers.values())
        await asyncio.to_thread(eventually, lambda: all(s.notes.lines("ready") for s in sleepers), 60, "they started")
        async with asyncio.TaskGroup() as tries:
            for sleeper in sleepers:
                tries.create_task(tries_of(node.http_port, sleeper))
        following.cancel()
    await store.close()

    outcomes = [t[3] for s in sleepers for t in s.tries]
    assert len(outcomes) == SERVICES * TRIES
    assert [o for o in outcomes if not (isinstance(o, Reply) and o.status == 200)] == []
    between = sum(before_the_exit(s) for s in sleepers)
    print(f"{between} of {len(outcomes)} tries fell between the decision and the exit")
    assert between >= NEEDED
