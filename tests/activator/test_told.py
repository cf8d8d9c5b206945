"""Events that answer: why is it not waking, why did it sleep, what comes next."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest
from plane import Plane, until
from samples import deployment, replica, service, view

from activator import verdicts
from activator.demand import Load
from activator.ejections import Ejections
from activator.patience import Patience
from activator.planning import Outlook, plan
from activator.views import View
from state.ids import new_id
from state.models import DeploymentState as D
from state.models import Reason, Replica, Scale
from state.models import ReplicaState as R
from state.store import REPORTS


def told(before: View, **fields: object) -> list[tuple[str, str]]:
    ids = (f"new{n}" for n in itertools.count())
    return [(note.kind, note.reason) for note in plan(before, Outlook(now=5, **fields), ids.__next__).notes]  # type: ignore[arg-type]


def test_why_it_sleeps_wakes_and_scales() -> None:
    awake = view(replica("a"))
    assert told(awake, desired=0, why="no request for 300 s") == [
        ("service.slept", "no request for 300 s"),
        ("replica.draining", "0 of 1 are wanted"),
    ]
    assert told(awake, desired=3, why="230.0 requests at once over 60 s") == [
        ("service.scaled", "from 1 to 3: 230.0 requests at once over 60 s")
    ]
    asleep = view(scale=Scale(desired=0))
    assert told(asleep, desired=1, load=Load(0, 2), why="x") == [("service.woke", "a request is waiting")]
    assert told(view(of=service(min_replicas=1), scale=Scale(desired=0)), desired=1, why="min_replicas is 1") == [
        ("service.woke", "min_replicas is 1")
    ]


def test_why_replicas_leave() -> None:
    deployments = [deployment("d1", D.SUPERSEDED), deployment("d2")]
    of = service(active="d2", latest="d2")
    before = view(replica("a"), replica("b", of="d2"), of=of, deployments=deployments, scale=Scale(desired=1))
    assert told(before, desired=1) == [("replica.draining", "its deployment does not serve any more")]
    deleted = view(replica("a"), replica("b", R.STARTING), of=service(deleted_at=1))
    assert told(deleted, desired=1) == [
        ("replica.draining", "its service was deleted"),
        ("replica.stopping", "its service was deleted"),
    ]
    draining = view(replica("a", R.DRAINING), scale=Scale(desired=0))
    assert told(draining, desired=0, drained=frozenset("a")) == []
    cut = told(draining, desired=0, overdue=frozenset("a"))
    assert cut == [("replica.cut", "what was in flight did not end within the drain time")]


def test_a_wake_that_failed_says_why_and_what_comes_next() -> None:
    starting = view(replica("a", R.STARTING), scale=Scale(desired=1, failures=2))
    broken = verdicts.broke(starting, "a", Reason("exited with code 1", "last line of its log: no database"), 5)
    assert verdicts.retry(broken, "a") == "the next request after 4 s tries again"
    assert told(broken, desired=1, load=Load(0, 1)) == []
    assert told(broken, desired=1, rested=frozenset("a")) == [
        ("service.wake_failed", "exited with code 1; the next request tries again")
    ]


@pytest.mark.parametrize(
    ("broken", "beside", "min_replicas", "comes"),
    [
        (replica("a", R.STARTING), replica("b", R.STOPPING), 0, "the next request after 1 s tries again"),
        (replica("a", R.STARTING), replica("b", R.READY), 0, "tried again in 1 s"),
        (replica("a", R.STARTING), replica("b", R.STOPPING), 1, "tried again in 1 s"),
        (replica("a", R.READY, ready_at=3), replica("b", R.STOPPING), 0, "tried again in 1 s"),
    ],
)
def test_what_is_said_to_come_next_is_what_comes(
    broken: Replica, beside: Replica, min_replicas: int, comes: str
) -> None:
    desired = 1 + (beside.state is R.READY)
    before = view(broken, beside, of=service(min_replicas=min_replicas), scale=Scale(desired=desired))
    failed = verdicts.broke(before, "a", Reason("exited"), 5)
    assert verdicts.retry(failed, "a") == comes
    after = plan(failed, Outlook(now=5, desired=desired, node="n", rested=frozenset("a")), new_id).view
    assert after is not None
    started = [one for one in after.replicas.values() if one.state is R.INTENT]
    assert len(started) == comes.startswith("tried again")


def test_the_first_failure_of_a_new_deployment_is_tried_once_more_and_the_second_is_its_end() -> None:
    rollout = view(
        replica("a", R.STARTING), of=service(active=None), deployments=[deployment(state=D.STARTING)], scale=Scale(1)
    )
    once = verdicts.broke(rollout, "a", Reason("exited with code 1"), 5)
    assert verdicts.retry(once, "a") == "tried once more"
    twice = verdicts.broke(once.put(replica("b", R.STARTING)), "b", Reason("exited with code 1"), 6)
    assert (twice.deployments["d1"].state, verdicts.retry(twice, "b")) == (D.FAILED, None)
    gone = verdicts.broke(view(replica("a"), of=service(deleted_at=1)), "a", Reason("exited"), 5)
    assert (verdicts.retry(gone, "a"), verdicts.retry(gone, "z")) == (None, None)


@pytest.mark.parametrize("changes", [False, True])
def test_a_start_that_takes_long_is_told_now_and_then(changes: bool) -> None:
    patience = Patience()
    found = [second for second in range(300) if patience.over(f"GET / answered {500 + second * changes}", second)]
    assert found == ([10, 70, 130, 190, 250] if changes else [10])


def test_ejections_are_news_once_and_not_too_often() -> None:
    ejections = Ejections()
    assert ejections.counted("w1", {"s": 2}, 0.0, newborn=True) == {"s": 2}
    assert ejections.counted("w1", {"s": 5}, 30.0, newborn=False) == {}
    assert ejections.counted("w2", {"s": 7, "t": 1}, 31.0, newborn=False) == {}  # from before we listened
    assert ejections.counted("w2", {"s": 8, "t": 3}, 32.0, newborn=False) == {"t": 2}
    assert ejections.counted("w1", {"t": 0}, 70.0, newborn=False) == {}
    assert ejections.counted("w1", {"s": 5}, 71.0, newborn=False) == {"s": 4}
    ejections.keep(["w2"], 200.0)
    assert (ejections.knows("w1"), ejections.knows("w2")) == (False, True)
    assert ejections.counted("w2", {"s": 8}, 201.0, newborn=False) == {}


async def test_the_leader_tells_of_replicas_that_workers_leave_out(plane: Plane) -> None:
    plane.repository()
    control = plane.control()
    service = await plane.create(min_replicas=1)
    await until(lambda: (seen := control.view(service)) is not None and seen.replicas)  # it leads
    counters = {"services": {service: {"requests": {"200": 9}, "ejections": 2}}}
    found: list[str] = []
    async with asyncio.timeout(30):
        while not found:  # who does not listen yet hears of a later worker
            worker = f"n/s/9/{new_id()}"
            report = {"worker": worker, "seq": 1, "run_id": "r", "revision": 0, "services": {}, "counters": counters}
            await plane.store.publish(REPORTS, json.dumps(report).encode())
            await asyncio.sleep(0.05)
            found = [event.reason for event in await plane.events(service) if event.kind == "replica.ejected"]
    assert found == ["2 times a worker left a replica out for a while: requests to it failed in a row"]
