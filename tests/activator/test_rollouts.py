"""One deployment after another: examples, and what holds over any sequence of events."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from samples import deployment, replica, service, view

from activator import verdicts
from activator.demand import Load
from activator.lifecycle import DEPLOYMENT, DeploymentEvent
from activator.planning import Outlook, plan
from activator.rollouts import KEPT
from activator.views import View, changes
from state.kinds import Kind
from state.models import Deployment, Reason, RunSpec, Scale
from state.models import DeploymentState as D
from state.models import ReplicaState as R


def step(before: View, **fields: object) -> View:
    ids = (f"new{n}" for n in itertools.count())
    planned = plan(before, Outlook(now=5, **fields), ids.__next__)  # type: ignore[arg-type]
    assert planned.view is not None
    return planned.view


def rolling(*replicas: object, **fields: object) -> View:
    """d1 serves, d2 is on its way."""
    owner = service(latest="d2", **fields)
    return view(*replicas, of=owner, deployments=[deployment("d1"), deployment("d2", D.STARTING)])  # type: ignore[arg-type]


def ready(after: View) -> set[str]:
    return {e.id for e in after.derived().endpoints if e.ready}


def test_as_many_are_needed_as_serve_though_fewer_are_wanted() -> None:
    """A leader that may not stop anything yet, or one that has just scaled down, has more than it wants."""
    before = rolling(replica("a"), replica("b"), replica("c"), replica("x", of="d2"), max_replicas=3)
    waiting = step(before, desired=1, settled=False)
    assert waiting.service.active == "d1"
    assert sum(r.deployment == "d2" for r in waiting.replicas.values()) == 3
    carrying = waiting.put(*(replica(r.id, of="d2") for r in waiting.of(waiting.latest)))
    switched = step(carrying, desired=1, settled=False)
    assert switched.service.active == "d2"
    assert len(ready(switched)) == 3


def test_max_replicas_is_never_exceeded_by_a_rollout() -> None:
    before = rolling(*(replica(name) for name in "abcde"), replica("x", of="d2"), replica("y", of="d2"), max_replicas=2)
    after = step(before, desired=2)
    assert after.service.active == "d2"
    assert ready(after) == {"x", "y"}


def test_a_sleeping_service_proves_one_and_then_sleeps_by_its_own_time_out() -> None:
    asleep = rolling().put(Scale(desired=0, asleep=True))
    proving = step(asleep, desired=0)
    assert [r.deployment for r in proving.replicas.values()] == ["d2"]
    proven = step(proving.put(replica("new0", of="d2")), desired=0)
    assert (proven.service.active, proven.scale) == ("d2", Scale(desired=1))
    assert ready(proven) == {"new0"}


def test_who_is_held_during_a_rollout_wakes_the_active_deployment() -> None:
    before = rolling(replica("x", R.STARTING, "d2")).put(Scale(desired=0))
    after = step(before, desired=1, load=Load(0, 1))
    assert sorted(r.deployment for r in after.replicas.values()) == ["d1", "d2"]
    woken = after.put(replica("new0"))
    assert ready(woken) == {"new0"}


def test_what_its_owner_put_to_sleep_only_somebody_held_since_wakes() -> None:
    before = view(replica("a"), scale=Scale(desired=0, asleep=True))
    busy = Load(3, 1, {"a": 3})
    drained = step(before, desired=1, load=busy)
    assert drained.replicas["a"].state is R.DRAINING
    assert drained.scale == Scale(desired=0, asleep=True)
    called = step(drained, desired=1, load=busy, called=True)
    assert called.replicas["a"].state is R.READY
    assert called.scale == Scale(desired=1)
    kept = view(replica("a"), of=service(min_replicas=1), scale=Scale(desired=0, asleep=True))
    assert step(kept, desired=1).scale == Scale(desired=1)


def test_a_push_during_a_deployment_is_deployed_when_that_has_ended_however_it_did() -> None:
    waiting = rolling(replica("a")).put(service(latest="d2", queued=True))
    assert step(waiting, desired=1).service.queued
    for state in (D.ACTIVE, D.FAILED, D.CANCELLED):
        active = "d2" if state is D.ACTIVE else "d1"
        after = step(waiting.put(deployment("d2", state), service(latest="d2", active=active, queued=True)), desired=1)
        assert not after.service.queued
        assert after.service.active == active
        latest = after.deployments[after.service.latest]
        assert (latest.cause, latest.state, latest.commit, latest.run) == ("push", D.PENDING, None, after.service.run)


def test_a_queued_push_of_what_was_deployed_meanwhile_starts_nothing() -> None:
    owner = service(latest="d2", queued=True, pushed="c1")
    for state, latest, active in ((D.ACTIVE, "c1", "c0"), (D.FAILED, "c1", "c0"), (D.FAILED, None, "c1")):
        ended = deployment("d2", state, commit=latest)
        before = view(replica("a"), of=owner, deployments=[deployment("d1", commit=active), ended])
        planned = plan(before, Outlook(now=5, desired=1), iter(()).__next__)
        assert planned.view is not None
        assert (planned.view.service.latest, planned.view.service.queued, planned.view.service.pushed) == (
            "d2",
            False,
            None,
        )
        assert [(n.kind, n.deployment) for n in planned.notes][:1] == [("push.settled", "d2" if latest else "d1")]
        assert "c1" in planned.notes[0].reason


def test_what_no_node_can_run_fails_and_says_why() -> None:
    pending = replace(deployment("d2", D.PENDING), node=None)
    before = rolling(replica("a")).put(pending)
    after = step(before, desired=1, unfit="no node has 1 x T4; GPUs here: none")
    failed = after.deployments["d2"]
    assert (failed.state, failed.reason, failed.finished_at) == (D.FAILED, "no node has 1 x T4; GPUs here: none", 5)
    assert ready(after) == {"a"}
    assert step(before, desired=1, node="n7").deployments["d2"].node == "n7"


def test_the_newest_are_kept_and_what_serves() -> None:
    old = [replace(deployment(f"d{n:02}", D.SUPERSEDED), created_at=n) for n in range(KEPT + 10)]
    old[3] = replace(old[3], state=D.ACTIVE)
    before = view(
        replica("a", of="d03"),
        replica("b", R.DRAINING, of="d05"),
        of=service(active="d03", latest=old[-1].id),
        deployments=old,
        scale=Scale(desired=1),
    )
    after = step(before, desired=1)
    assert set(after.deployments) == {d.id for d in old[-KEPT:]} | {"d03", "d05"}
    removed = {c.id for c in changes(before, after) if c.kind is Kind.DEPLOYMENT and c.value is None}
    assert removed == before.deployments.keys() - after.deployments.keys()


def test_one_that_turns_healthy_and_ill_again_ends_its_rollout() -> None:
    before = rolling(replica("a"), replica("x", R.UNHEALTHY, "d2"), min_replicas=1)
    after = verdicts.condemned(before, "x", Reason("500", "port 1"), 9)
    assert (after.deployments["d2"].state, after.deployments["d2"].explanation) == (D.FAILED, "500; port 1")
    assert ready(after) == {"a"}
    serving = verdicts.condemned(view(replica("a", R.UNHEALTHY)), "a", Reason("500"), 9)
    assert serving.deployments["d1"].state is D.ACTIVE


class Rollouts(RuleBasedStateMachine):
    """Builds, probes, crashes, pushes, cancellations and a scaler that changes its mind, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.ids = (f"{n:04}" for n in itertools.count())
        self.low, self.high = 1, 4
        self.view = view(
            replica("a"), of=service(min_replicas=self.low, max_replicas=self.high), scale=Scale(desired=1)
        )
        self.now = 10

    def rotation(self) -> int:
        return len(ready(self.view))

    @property
    def in_progress(self) -> Deployment | None:
        latest = self.view.latest
        return latest if latest is not None and latest.state.in_progress else None

    @rule(desired=st.integers(0, 4), settled=st.booleans(), rested=st.booleans(), drained=st.booleans())
    def the_leader_looks(self, desired: int, settled: bool, rested: bool, drained: bool) -> None:
        before, rotation = self.view, self.rotation()
        desired = max(self.low, desired)
        every = frozenset(self.view.replicas)
        none: frozenset[str] = frozenset()
        outlook = Outlook(
            now=self.now,
            desired=desired,
            settled=settled,
            rested=every if rested else none,
            drained=every if drained else none,
            node="n",
        )
        planned = plan(before, outlook, lambda: next(self.ids))
        assert planned.view is not None
        self.view = planned.view
        # what serves is only ever given up for a smaller wish, never for a deployment
        assert self.rotation() >= min(rotation, self.view.scale.desired)
        if self.view.service.active != before.service.active:
            assert self.rotation() >= min(desired, self.high)
        used = {r.deployment for r in self.view.replicas.values()} | {self.view.service.active}
        assert len(self.view.deployments.keys() - used) <= KEPT

    @rule(data=st.data(), finding=st.sampled_from(["started", "passed", "ailed", "condemned", "broke", "removed"]))
    def an_agent_finds(self, data: st.DataObject, finding: str) -> None:
        if not self.view.replicas:
            return
        which = data.draw(st.sampled_from(sorted(self.view.replicas)))
        told = {
            "started": lambda: verdicts.started(self.view, which, "h", 1, self.now),
            "passed": lambda: verdicts.passed(self.view, which, self.now),
            "ailed": lambda: verdicts.ailed(self.view, which, Reason("ill")),
            "condemned": lambda: verdicts.condemned(self.view, which, Reason("ill"), self.now),
            "broke": lambda: verdicts.broke(self.view, which, Reason("boom"), self.now),
            "removed": lambda: verdicts.removed(self.view, which),
        }
        serves = self.view.replicas[which].deployment == self.view.service.active
        rotation, self.view = self.rotation(), told[finding]()
        assert serves or self.rotation() == rotation  # what befalls a rollout is nothing to what serves

    @rule(data=st.data())
    def a_replica_becomes_ready(self, data: st.DataObject) -> None:
        coming = [r.id for r in self.view.replicas.values() if r.state in (R.INTENT, R.STARTING)]
        if coming:
            which = data.draw(st.sampled_from(sorted(coming)))
            self.view = verdicts.started(self.view, which, "h", 1, self.now)
            self.view = verdicts.passed(self.view, which, self.now)

    @rule()
    @precondition(lambda self: self.in_progress is None)
    def somebody_redeploys(self) -> None:
        self.now += 1
        new = Deployment(next(self.ids), "s", D.PENDING, RunSpec(repo="acme/app", branch="main"), self.now)
        self.view = self.view.put(new, replace(self.view.service, latest=new.id))

    @rule(pushed=st.sampled_from([None, "c0", "c1"]))
    def somebody_pushes(self, pushed: str | None) -> None:
        self.view = self.view.put(replace(self.view.service, queued=True, pushed=pushed))

    @rule(good=st.booleans(), commit=st.sampled_from(["c0", "c1"]))
    @precondition(lambda self: self.in_progress is not None)
    def the_build_ends(self, good: bool, commit: str) -> None:
        assert self.in_progress is not None
        which, rotation = self.in_progress.id, self.rotation()
        self.view = verdicts.building(self.view, which)
        if good:
            self.view = verdicts.built(self.view, which, commit, "ref", self.now)
        else:
            self.view = verdicts.unbuilt(self.view, which, Reason("no branch"), self.now)
        assert self.rotation() == rotation

    @rule()
    @precondition(lambda self: self.in_progress is not None)
    def somebody_cancels(self) -> None:
        assert self.in_progress is not None
        state = DEPLOYMENT[self.in_progress.state, DeploymentEvent.CANCEL]
        rotation = self.rotation()
        self.view = self.view.put(replace(self.in_progress, state=state))
        assert self.rotation() == rotation

    @invariant()
    def one_serves_and_at_most_one_is_on_its_way(self) -> None:
        deployments = self.view.deployments.values()
        assert [d.id for d in deployments if d.state is D.ACTIVE] == [self.view.service.active]
        assert sum(d.state.in_progress for d in deployments) <= 1


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(max_examples=100, stateful_step_count=60)
