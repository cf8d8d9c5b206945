"""What the loss of a node means for a service: examples, and the laws over random services."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from samples import deployment, replica, service, view

from activator.demand import Load
from activator.planning import Note, Outlook, plan
from activator.status import service_status
from activator.views import View
from state.models import DeploymentState as D
from state.models import Phase, Scale
from state.models import ReplicaState as R

GONE = {"n": 31.0}
ELSEWHERE = {"lost": GONE, "able": frozenset({"m"}), "node": "m"}
NOWHERE = {"lost": GONE, "able": frozenset(), "unfit": "no node is in us-east-1; regions here: eu-west-1"}
ONE = Scale(desired=1, lost=("n",))
HANDS_OVER = {"leaving": frozenset("n"), "able": frozenset("m"), "node": "m"}
EVICTS = {"leaving": frozenset("n"), "evicting": frozenset("n"), "able": frozenset(), "node": ""}


def step(before: View, **fields: object) -> tuple[View, dict[str, str]]:
    ids = (f"new{n}" for n in itertools.count())
    planned = plan(before, Outlook(**{"now": 5, "desired": 1, **fields}), ids.__next__)  # type: ignore[arg-type]
    assert planned.view is not None
    return planned.view, {note.kind: note.reason for note in planned.notes}


def where(after: View) -> dict[str, tuple[str, R]]:
    return {r.id: (r.node, r.state) for r in after.replicas.values()}


def status(seen: View, *, runnable: bool = True) -> str:
    replicas = seen.replicas.values()
    return service_status(seen.service, seen.deployments, replicas, seen.scale, runnable=runnable, lost=GONE)


def test_a_replica_serves_on_until_another_is_ready_in_its_place() -> None:
    after, told = step(view(replica("a")), **ELSEWHERE)
    assert where(after) == {"a": ("n", R.READY), "new0": ("m", R.INTENT)}
    assert [e.id for e in after.derived().endpoints if e.ready] == ["a"]
    assert told["node.lost"] == (
        "node n has not been heard of for 31 s: what the service has there is replaced on another"
    )
    assert status(after) == "degraded"
    assert step(after, **ELSEWHERE) == (after, {})
    ready, _ = step(after.put(replace(after.replicas["new0"], state=R.READY)), **ELSEWHERE, settled=False)
    assert where(ready) == {"a": ("n", R.DRAINING), "new0": ("m", R.READY)}
    assert status(ready) == "running"
    back, _ = step(ready, desired=2, returned=frozenset({"n"}))
    assert back.replicas["a"].state is R.DRAINING, "it is not called back"


def test_what_drained_on_a_lost_node_is_forgotten_once_all_workers_let_go() -> None:
    leaving = replica("a", R.DRAINING, reason="its node was lost")
    other = replace(replica("b"), node="m")
    stopping, _ = step(view(leaving, other, scale=ONE), **ELSEWHERE, drained=frozenset("a"))
    assert stopping.replicas["a"].state is R.STOPPING
    assert "a" in step(stopping, **ELSEWHERE)[0].replicas
    assert "a" not in step(stopping, **ELSEWHERE, freed=frozenset("a"))[0].replicas
    assert "a" in step(stopping, freed=frozenset("a"))[0].replicas, "its own control removes it"


def test_what_was_only_coming_begins_anew_at_once() -> None:
    for state in (R.INTENT, R.STARTING):
        after, told = step(view(replica("a", state), scale=Scale(desired=1)), **ELSEWHERE)
        assert where(after) == {"a": ("n", R.STOPPING), "new0": ("m", R.INTENT)}
        assert told["replica.lost"] == "node n has not been heard of for 31 s"


def test_where_no_other_node_can_run_it_replicas_are_left_alone_and_it_has_failed() -> None:
    after, told = step(view(replica("a")), **NOWHERE)
    assert where(after) == {"a": ("n", R.READY)}
    assert after.derived().phase is Phase.SERVING
    assert told["service.stranded"].startswith("no live node can run it: no node is in us-east-1")
    assert status(after, runnable=False) == "failed"


def test_who_asks_for_a_stranded_service_is_refused_with_the_reason_until_a_node_is_back() -> None:
    asleep = view(scale=Scale(desired=0))
    assert step(asleep, desired=0, **NOWHERE) == (asleep, {}), "nobody asks for it"
    woken, _ = step(asleep, **NOWHERE, load=Load(held=1))
    assert woken.replicas == {}
    backend = woken.derived()
    assert (backend.phase, backend.reason) == (Phase.REFUSING, NOWHERE["unfit"])
    slept, _ = step(woken, desired=0, **NOWHERE)
    assert slept.derived().phase is Phase.REFUSING
    back, told = step(slept, desired=0)
    assert told == {"service.placeable": "a node can run it again"}
    assert back.derived().phase is Phase.SERVING


def test_while_no_node_is_known_to_live_nothing_is_started_and_nothing_fails() -> None:
    waiting, told = step(view(scale=Scale(desired=1)), able=frozenset())
    assert waiting.replicas == {}
    assert told == {}
    pending = view(of=service(active=None), deployments=[replace(deployment(state=D.PENDING), node=None)])
    assert step(pending, able=frozenset())[0].latest == pending.latest


def test_a_silent_node_is_given_nothing_before_it_is_lost() -> None:
    after, told = step(view(replica("a"), scale=Scale(desired=2)), desired=2, able=frozenset({"m"}), node="m")
    assert where(after) == {"a": ("n", R.READY), "new0": ("m", R.INTENT)}
    assert told == {}


def test_a_deployment_in_progress_goes_on_elsewhere() -> None:
    for state, then in ((D.PENDING, D.PENDING), (D.BUILDING, D.PENDING), (D.STARTING, D.STARTING)):
        before = view(replica("a"), of=service(latest="d2"), deployments=[deployment(), deployment("d2", state)])
        after, told = step(before, **ELSEWHERE)
        assert (after.deployments["d2"].state, after.deployments["d2"].node) == (then, "m")
        assert told["deployment.moved"] == "node n has not been heard of for 31 s: node m goes on with it"


def test_a_deployment_in_progress_fails_if_no_other_node_can_run_it() -> None:
    before = view(replica("a", R.STARTING), of=service(active=None), deployments=[deployment(state=D.STARTING)])
    after, told = step(before, **NOWHERE)
    assert after.deployments["d1"].state is D.FAILED
    assert after.deployments["d1"].reason == told["deployment.failed"]
    assert told["deployment.failed"].startswith("node n has not been heard of for 31 s, and no other can run it: no")
    assert where(after) == {"a": ("n", R.STOPPING)}


def test_a_rollout_is_not_switched_to_what_is_lost() -> None:
    deployments = [replace(deployment(), node="m"), deployment("d2", D.STARTING)]
    old, new = replace(replica("a"), node="m"), replica("b", of="d2")
    after, _ = step(view(old, new, of=service(latest="d2"), deployments=deployments), **ELSEWHERE)
    assert after.service.active == "d1"
    assert where(after)["new0"] == ("m", R.INTENT)


def test_loss_and_return_are_told_once() -> None:
    after, told = step(view(replica("a")), **ELSEWHERE)
    assert "node.lost" in told
    assert "node.lost" not in step(after, **ELSEWHERE)[1]
    back, told = step(after, returned=frozenset({"n"}))
    assert told["node.returned"] == "node n is heard again"
    assert back.scale.lost == ()
    assert step(view(scale=Scale(lost=("n",))), desired=0)[1] == {}, "it is no longer on record"


def test_a_deleted_service_goes_with_its_lost_replicas() -> None:
    gone = view(replica("a", R.STOPPING), of=service(deleted_at=3))
    after, _ = step(gone, **ELSEWHERE, freed=frozenset("a"))
    assert plan(after, Outlook(5, 0, **ELSEWHERE), str).view is None  # type: ignore[arg-type]


def test_a_replica_of_a_node_that_stops_serves_until_another_is_ready_in_its_place() -> None:
    after, told = step(view(replica("a")), **HANDS_OVER)
    assert where(after) == {"a": ("n", R.READY), "new0": ("m", R.INTENT)}
    assert told == {}
    assert step(after, **HANDS_OVER) == (after, {})
    ready, told = step(after.put(replace(after.replicas["new0"], state=R.READY)), **HANDS_OVER, settled=False)
    assert where(ready) == {"a": ("n", R.DRAINING), "new0": ("m", R.READY)}
    assert told == {"replica.draining": "node n stops, and it is replaced"}
    gone = ready.without("new0")
    assert where(step(gone, **HANDS_OVER, load=Load(held=1))[0])["a"] == ("n", R.DRAINING), "it is not called back"


def test_it_leaves_without_a_replacement_once_its_node_waits_no_longer_and_requests_are_held() -> None:
    after, told = step(view(replica("a"), replica("b", R.UNHEALTHY)), desired=2, **EVICTS)
    assert where(after) == {"a": ("n", R.DRAINING), "b": ("n", R.DRAINING)}
    assert told["replica.draining"] == "node n stops"
    assert after.derived().phase is Phase.SERVING
    later, _ = step(after, desired=2, **EVICTS | {"able": frozenset("m"), "node": "m"}, load=Load(held=1))
    assert where(later) == {
        "a": ("n", R.DRAINING),
        "b": ("n", R.DRAINING),
        "new0": ("m", R.INTENT),
        "new1": ("m", R.INTENT),
    }


def test_what_serves_waits_for_the_replacement_that_starts_and_no_longer_than_its_node() -> None:
    before = view(replica("a"), replace(replica("b", R.STARTING), node="m"), scale=Scale(desired=1))
    assert step(before, **HANDS_OVER) == (before, {})
    after, _ = step(before, **EVICTS)
    assert where(after) == {"a": ("n", R.DRAINING), "b": ("m", R.STARTING)}


def test_what_was_only_coming_on_a_node_that_stops_begins_anew_elsewhere() -> None:
    for state in (R.INTENT, R.STARTING):
        after, told = step(view(replica("a", state), scale=Scale(desired=1)), **HANDS_OVER)
        assert where(after) == {"a": ("n", R.STOPPING), "new0": ("m", R.INTENT)}
        assert told == {"replica.stopping": "node n stops"}


def test_a_deployment_in_progress_on_a_node_that_stops_goes_on_elsewhere_or_waits_for_its_return() -> None:
    before = view(replica("a"), of=service(latest="d2"), deployments=[deployment(), deployment("d2", D.BUILDING)])
    after, told = step(before, **HANDS_OVER)
    assert (after.deployments["d2"].state, after.deployments["d2"].node) == (D.PENDING, "m")
    assert told["deployment.moved"] == "node n stops: node m goes on with it"
    assert step(before, **EVICTS)[0].deployments == before.deployments


def test_what_broke_on_a_node_that_stops_stays_in_its_backoff() -> None:
    before = view(replica("a", R.FAILED), scale=Scale(desired=1, failures=3))
    assert step(before, **HANDS_OVER) == (before, {})


@given(st.lists(st.tuples(st.sampled_from([*R]), st.sampled_from("mn")), max_size=5), st.integers(0, 3), st.booleans())
def test_no_replica_in_rotation_is_given_up_before_as_many_as_are_wanted_are_ready_elsewhere(
    made: list[tuple[R, str]], desired: int, settled: bool
) -> None:
    replicas = [replace(replica(f"r{n}", state), node=node) for n, (state, node) in enumerate(made)]
    before = view(*replicas, scale=Scale(desired=desired))
    after, _ = step(before, desired=desired, **HANDS_OVER, settled=settled)
    ready = [r for r in after.replicas.values() if r.state is R.READY]
    was_ready = [r for r in replicas if r.state is R.READY]
    assert len(ready) >= min(desired, len(was_ready))
    assert all(r.node == "m" for r in after.replicas.values() if r.id.startswith("new"))
    evicted, _ = step(before, desired=desired, **EVICTS, settled=settled)
    assert not [r for r in evicted.replicas.values() if r.node == "n" and r.state in (R.READY, R.UNHEALTHY, R.STARTING)]


REPLICAS = st.lists(st.tuples(st.sampled_from([*R]), st.sampled_from("mn")), max_size=5)


@given(REPLICAS, st.integers(0, 3), st.booleans(), st.booleans(), st.booleans())
def test_lost_replicas_in_rotation_leave_by_draining_and_nothing_new_goes_to_a_lost_node(
    made: list[tuple[R, str]], desired: int, settled: bool, able: bool, unfit: bool
) -> None:
    replicas = [replace(replica(f"r{n}", state), node=node) for n, (state, node) in enumerate(made)]
    before = view(*replicas, scale=Scale(desired=desired))
    fields: dict[str, object] = {"lost": GONE, "able": frozenset("m" if able else ""), "node": "m" if able else ""}
    fields["unfit"] = "no" if unfit and not able else None
    freed = frozenset(r.id for r in replicas if r.state is R.STOPPING)
    outlook = Outlook(5, desired, settled=settled, freed=freed, **fields)  # type: ignore[arg-type]
    ids = (f"new{n}" for n in itertools.count())
    planned = plan(before, outlook, ids.__next__)
    assert planned.view is not None
    for one in replicas:
        after = planned.view.replicas.get(one.id)
        if after is None:
            assert (one.state, one.node) == (R.STOPPING, "n")
        elif one.state in (R.READY, R.UNHEALTHY):
            assert after.state in (one.state, R.DRAINING)
    assert all(r.node == "m" for r in planned.view.replicas.values() if r.id.startswith("new"))
    again = plan(planned.view, outlook, ids.__next__)
    assert again.view is not None
    assert again.view.scale.lost == planned.view.scale.lost
    assert not [note for note in again.notes if isinstance(note, Note) and note.kind.startswith("node.")]
