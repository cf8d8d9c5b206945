"""What should be true of a service next: examples, and the laws over random services."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from samples import deployment, replica, service, view

from activator import verdicts
from activator.backends import ALIVE
from activator.demand import Load
from activator.lifecycle import REPLICA
from activator.planning import Note, Outlook, plan
from activator.views import View
from state.models import DeploymentState as D
from state.models import ReplicaState as R
from state.models import Scale


def step(before: View, outlook: Outlook | None = None, **fields: object) -> View:
    ids = (f"new{n}" for n in itertools.count())
    planned = plan(before, outlook or Outlook(now=5, **fields), ids.__next__)  # type: ignore[arg-type]
    assert planned.view is not None
    return planned.view


def states(after: View) -> dict[str, R]:
    return {r.id: r.state for r in after.replicas.values()}


def test_a_pending_deployment_gets_a_node() -> None:
    pending = replace(deployment(state=D.PENDING), node=None)
    after = step(view(of=service(active=None), deployments=[pending]), desired=1, node="n7")
    assert after.deployments["d1"].node == "n7"
    assert after.replicas == {}


def test_every_deployment_starts_one_to_prove_itself() -> None:
    starting = view(of=service(active=None), deployments=[deployment(state=D.STARTING)], scale=Scale(desired=0))
    after = step(starting, desired=0)
    assert states(after) == {"new0": R.INTENT}
    assert after.replicas["new0"].node == "n"
    assert step(after, desired=0) == after


def test_a_redeploy_after_a_failed_first_one_is_wanted_again() -> None:
    failed = view(of=service(active=None), deployments=[deployment(state=D.FAILED)], scale=Scale(desired=1))
    assert step(failed, desired=1).scale.desired == 0
    asleep = step(failed, desired=0)
    again = asleep.put(service(active=None, latest="d2", min_replicas=2), deployment("d2", D.PENDING))
    waiting = step(again, desired=0)
    assert waiting.scale.desired == 2
    started = step(waiting.put(deployment("d2", D.STARTING)), desired=2)
    assert [r.deployment for r in started.replicas.values()] == ["d2", "d2"]


def test_the_first_ready_one_makes_it_active() -> None:
    before = view(
        replica("a"), of=service(active=None), deployments=[deployment(state=D.STARTING)], scale=Scale(failures=1)
    )
    after = step(before, desired=0)
    assert after.service.active == "d1"
    assert (after.deployments["d1"].state, after.deployments["d1"].proven) == (D.ACTIVE, True)
    assert after.scale == Scale(desired=1)


def test_a_rollout_switches_in_one_commit_once_it_can_carry_the_load() -> None:
    deployments = [deployment("d1"), deployment("d2", D.STARTING)]
    before = view(replica("a"), replica("b"), of=service(latest="d2"), deployments=deployments, scale=Scale(desired=2))
    first = step(before, desired=2)
    assert states(first) == {"a": R.READY, "b": R.READY, "new0": R.INTENT, "new1": R.INTENT}
    half = step(first.put(replica("new0", of="d2")), desired=2)
    assert half.service.active == "d1"
    whole = step(half.put(replica("new1", of="d2")), desired=2)
    assert whole.service.active == "d2"
    assert [d.state for d in whole.deployments.values()] == [D.SUPERSEDED, D.ACTIVE]
    assert states(whole) == {"a": R.DRAINING, "b": R.DRAINING, "new0": R.READY, "new1": R.READY}
    assert {e.id for e in whole.derived().endpoints if e.ready} == {"new0", "new1"}


def test_a_failed_rollout_leaves_the_old_one_alone() -> None:
    deployments = [deployment("d1"), deployment("d2", D.FAILED)]
    before = view(replica("a"), replica("b", R.STARTING, "d2"), of=service(latest="d2"), deployments=deployments)
    assert states(step(before, desired=1)) == {"a": R.READY, "b": R.STOPPING}


def test_the_least_busy_drains_first_and_the_useless_before_it() -> None:
    before = view(replica("a"), replica("b"), replica("c", R.UNHEALTHY), scale=Scale(desired=3))
    load = Load(7, 0, {"a": 5, "b": 2})
    assert states(step(before, desired=2, load=load)) == {"a": R.READY, "b": R.READY, "c": R.DRAINING}
    assert states(step(before, desired=1, load=load)) == {"a": R.READY, "b": R.DRAINING, "c": R.DRAINING}


def test_a_draining_one_is_called_back_before_another_starts() -> None:
    before = view(replica("a", R.DRAINING), scale=Scale(desired=0))
    load = Load(0, 1)
    assert states(step(before, desired=1, load=load)) == {"a": R.READY}
    assert states(step(before, desired=2, load=load)) == {"a": R.READY, "new0": R.INTENT}
    ill = view(replica("a", R.DRAINING, reason="its health checks failed"), scale=Scale(desired=1))
    assert states(step(ill, desired=1)) == {"a": R.DRAINING, "new0": R.INTENT}


def test_it_stops_when_drained_or_overdue_and_only_once_all_are_heard() -> None:
    before = view(replica("a", R.DRAINING), scale=Scale(desired=0))
    gone = frozenset({"a"})
    assert states(step(before, desired=0)) == {"a": R.DRAINING}
    assert states(step(before, desired=0, drained=gone, settled=False)) == {"a": R.DRAINING}
    assert states(step(before, desired=0, drained=gone)) == {"a": R.STOPPING}
    assert states(step(before, desired=0, overdue=gone)) == {"a": R.STOPPING}


def test_demand_beats_a_drain_that_just_ended() -> None:
    before = view(replica("a", R.DRAINING), scale=Scale(desired=0))
    assert states(step(before, desired=1, load=Load(0, 1), drained=frozenset({"a"}))) == {"a": R.READY}


def test_a_crashed_one_keeps_its_place_until_its_backoff_is_over() -> None:
    before = view(replica("a", R.FAILED, ready_at=1), scale=Scale(desired=1, failures=1))
    assert states(step(before, desired=1)) == {"a": R.FAILED}
    after = step(before, desired=1, rested=frozenset({"a"}))
    assert states(after) == {"a": R.STOPPING, "new0": R.INTENT}


def test_a_failed_wake_is_tried_again_by_the_next_request_only() -> None:
    before = view(replica("a", R.FAILED), scale=Scale(desired=1, failures=1, reason="boom"))
    rested = frozenset({"a"})
    after = step(before, desired=1, rested=rested)
    assert states(after) == {"a": R.STOPPING}
    assert after.scale == Scale(desired=0, failures=1, reason="boom")
    assert states(step(after, desired=1, load=Load(0, 1)))["new0"] is R.INTENT
    kept = view(replica("a", R.FAILED), of=service(min_replicas=1), scale=Scale(desired=1, failures=1))
    assert "new0" in states(step(kept, desired=1, rested=rested))


def test_the_idle_timeout_does_not_end_a_backoff() -> None:
    before = view(replica("a", R.FAILED), scale=Scale(desired=1, failures=4))
    assert step(before, desired=0) == before


def test_going_to_sleep_in_good_health_and_staying_ready_end_a_row_of_failures() -> None:
    before = view(replica("a"), scale=Scale(desired=1, failures=3, reason="boom"))
    assert step(before, desired=0).scale == Scale(desired=0)
    assert step(before, desired=1, stable=True).scale == Scale(desired=1)


def test_deleting_drains_what_serves_and_ends_the_rest() -> None:
    before = view(replica("a"), replica("b", R.STARTING), replica("c", R.FAILED), of=service(deleted_at=9))
    after = step(before, desired=3)
    assert states(after) == {"a": R.DRAINING, "b": R.STOPPING, "c": R.STOPPING}
    nothing = plan(view(of=service(deleted_at=9)), Outlook(now=5, desired=0), lambda: "x")
    assert nothing.view is None


SOME = st.lists(
    st.tuples(st.sampled_from(list(R)), st.sampled_from(["d1", "d2"]), st.booleans(), st.booleans()), max_size=7
)
DEPLOYMENTS = st.sampled_from(
    [("d1", D.ACTIVE, None), ("d1", D.ACTIVE, D.STARTING), ("d1", D.ACTIVE, D.FAILED), (None, D.FAILED, D.STARTING)]
)


@given(SOME, DEPLOYMENTS, st.data())
def test_the_laws(
    some: list[tuple[R, str, bool, bool]], rollout: tuple[str | None, D, D | None], data: st.DataObject
) -> None:
    active, first, second = rollout
    deployments = [deployment("d1", first)] + ([] if second is None else [deployment("d2", second)])
    latest = "d1" if second is None else "d2"
    replicas = [
        replica(f"r{n}", state, of if second is not None else "d1", reason="ill" if ill else None)
        for n, (state, of, ill, _) in enumerate(some)
    ]
    deleted = data.draw(st.sampled_from([None, None, 7]))
    low, high = data.draw(st.integers(0, 2)), data.draw(st.integers(2, 4))
    owner = service(active=active, latest=latest, deleted_at=deleted, min_replicas=low, max_replicas=high)
    before = view(*replicas, of=owner, deployments=deployments, scale=Scale(desired=data.draw(st.integers(low, high))))
    ids = st.sets(st.sampled_from([r.id for r in replicas] or ["none"])).map(frozenset)
    outlook = Outlook(
        now=5,
        desired=data.draw(st.integers(low, high)),
        load=data.draw(st.sampled_from([Load(), Load(0, 1), Load(2, 0, {"r0": 2})])),
        settled=data.draw(st.booleans()),
        drained=data.draw(ids),
        overdue=data.draw(ids),
        rested=data.draw(ids),
    )
    counter = itertools.count()
    planned = plan(before, outlook, lambda: f"new{next(counter)}")
    if planned.view is None:
        assert deleted is not None
        assert not replicas
        return
    after = planned.view
    assert set(before.replicas) <= set(after.replicas)  # only agents remove
    for name, old in before.replicas.items():
        new = after.replicas[name]
        assert old.state is new.state or new.state in _ways(old.state)
        if new.state is R.STOPPING and old.state is R.DRAINING:
            assert outlook.settled
            assert name in outlook.drained | outlook.overdue
        if new.state is R.DRAINING and old.state in (R.READY, R.UNHEALTHY):
            assert outlook.settled or deleted is not None
        if new.state is R.READY and old.state is R.DRAINING:
            assert old.reason is None
            assert deleted is None
    fresh = [r for r in after.replicas.values() if r.id not in before.replicas]
    assert all(r.state is R.INTENT for r in fresh)
    for deployed in after.deployments.values():
        alive = [r for r in after.of(deployed) if r.state in ALIVE]
        if any(r.deployment == deployed.id for r in fresh):
            assert len(alive) <= high
            assert deleted is None
            assert deployed.state in (D.ACTIVE, D.STARTING)
    _changes_are_told(before, after, planned.notes, outlook)
    for _ in range(4):  # called back, switched, scaled
        last, planned = planned, plan(planned.view, outlook, lambda: f"new{next(counter)}")
        if planned.view is None or planned.view == last.view:
            break
    else:
        raise AssertionError("it does not come to rest")


def _changes_are_told(before: View, after: View, notes: tuple[Note, ...], outlook: Outlook) -> None:
    """Why is it not waking, why did it go: whatever changes has an event that says why."""
    told = {note.replica for note in notes} | {note.deployment for note in notes}
    for name, old in before.replicas.items():
        new = after.replicas[name].state
        orderly = (old.state, new) == (R.DRAINING, R.STOPPING) and name in outlook.drained
        forgiven = (old.state, new) == (R.FAILED, R.STOPPING) and name in outlook.rested
        assert old.state is new or orderly or forgiven or name in told
    for name, deployed in before.deployments.items():
        state = after.deployments[name].state
        assert deployed.state is state or state is D.SUPERSEDED or name in told
    if before.scale.desired != after.scale.desired and after.service.active is not None:
        assert any(note.kind.startswith("service.") or note.kind == "deployment.active" for note in notes)
    assert all(note.reason for note in notes)


def _ways(state: R) -> set[R]:
    """Where the leader's events lead, in one plan: releasing may be followed by stopping."""
    direct = {after for (before, _), after in REPLICA.items() if before is state}
    return direct | ({R.STOPPING} if R.DRAINING in direct else set())


def test_its_owners_wake_asks_for_the_start_as_a_request_would() -> None:
    woken = view(scale=Scale(desired=1, woken_at=1_000))
    after = step(woken, Outlook(now=1_250, desired=1))
    assert [r.phases.decide for r in after.replicas.values()] == [250]
    assert after.scale.woken_at is None, "the next start is none that he asked for"
    (earlier,) = step(woken, Outlook(now=1_250, desired=1, waited=900)).replicas.values()
    assert earlier.phases.decide == 900
    (skewed,) = step(woken, Outlook(now=10, desired=1)).replicas.values()
    assert skewed.phases.decide == 0
    assert verdicts.ends_wake(after, next(iter(after.replicas.values())), held=False)


def test_its_owners_wake_waits_for_a_node_and_ends_with_a_call_back_or_sleep() -> None:
    woken = view(scale=Scale(desired=1, woken_at=1_000))
    assert step(woken, Outlook(now=1_250, desired=1, able=frozenset())).scale.woken_at == 1_000
    called_back = step(woken.put(replica("a", R.DRAINING)), Outlook(now=1_250, desired=1))
    assert (states(called_back), called_back.scale.woken_at) == ({"a": R.READY}, None)
    assert step(woken, Outlook(now=1_250, desired=0)).scale.woken_at is None
