"""Who is ready, as changes in time: told once, whoever leads and whatever was not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from control.analytics.chunks import read_lines
from control.analytics.heard import LATE, Heard, window_counts
from control.analytics.replicas import ReadyReplicas, ReplicaLevels
from state.buckets import middle
from state.codec import decode, encode
from state.counts import Counts, Header, encode_window
from state.kinds import Kind
from state.models import Replica, ReplicaState, StartPhases
from state.store import Record

W = "node/supervisor/1/a"


@dataclass
class Objects:
    """Replicas as the mirror has them."""

    replicas: dict[str, bytes] = field(default_factory=dict)
    connected: bool = True
    run_id: str = "run"

    def get(self, kind: Kind, object_id: str) -> Record | None:
        return None

    def records(self, kind: Kind) -> Mapping[str, Record]:
        return {}

    def decoded(self, kind: Kind, object_id: str, model: type[Any]) -> Any:
        found = self.replicas.get(object_id)
        return None if found is None else decode(model, found)

    async def reached(self, revision: int) -> None:
        raise NotImplementedError


class Scene:
    def __init__(self) -> None:
        self.objects = Objects()
        self.ready = ReadyReplicas(self.objects)
        self.levels = ReplicaLevels(self.ready)

    def set(
        self, replica: str, state: ReplicaState | None, now: float, service: str = "s", *, cold: bool = True
    ) -> None:
        if state is None:
            del self.objects.replicas[replica]
        else:
            self.objects.replicas[replica] = encode(Replica(replica, service, "d", "n", state, 0, cold=cold))
        self.levels.changed(self.ready.changed([(Kind.REPLICA, replica), (Kind.SCALE, service)]), now)

    def start(
        self, replica: str, now: float, cold: bool = True, state: ReplicaState = ReplicaState.READY, **phases: int
    ) -> None:
        """It was ready, after a start with these phases, in microseconds."""
        known = Replica(replica, "s", "d", "n", state, 0, phases=StartPhases(**phases), cold=cold)
        self.objects.replicas[replica] = encode(known)
        self.levels.changed(self.ready.changed([(Kind.REPLICA, replica)]), now)

    def phases(self) -> tuple[dict[str, float], frozenset[str] | None]:
        """Milliseconds by phase of what is new of cold starts, and who is to be remembered."""
        lines, ready = self.levels.take()
        whole = Counts()
        for counts in read_lines(lines.get("s", ())).rows.values():
            whole.add(counts)
        assert all(list(histogram.values()) == [1] for histogram in whole.starts.values())
        found = {phase: middle(next(iter(histogram))) * 1000 for phase, histogram in whole.starts.items()}
        return found, ready.get("s")

    def told(self, service: str = "s") -> Any:
        """Levels, cold starts, and who is to be remembered as ready."""
        lines, ready = self.levels.take()
        found = read_lines(lines.get(service, ()))
        return found.levels, sum(counts.cold_starts for counts in found.rows.values()), ready.get(service)


READY, UNHEALTHY, DRAINING = ReplicaState.READY, ReplicaState.UNHEALTHY, ReplicaState.DRAINING


def test_a_wake_a_rollout_and_a_sleep() -> None:
    scene = Scene()
    scene.levels.begin({}, 0.0, 0.0)
    scene.set("a", ReplicaState.STARTING, 1.0)
    assert scene.told() == ([], 0, None)
    scene.set("a", READY, 2.0)
    scene.set("b", READY, 3.0)
    scene.set("a", DRAINING, 4.0)
    scene.set("a", None, 5.0)
    assert scene.told() == ([(2000, 1), (3000, 2), (4000, 1)], 1, {"b"})
    scene.set("b", None, 6.0)
    assert scene.told() == ([(6000, 0)], 0, frozenset())
    scene.set("c", READY, 7.0)
    assert scene.told() == ([(7000, 1)], 1, {"c"})


def test_a_start_that_no_wake_asked_for_is_no_cold_start() -> None:
    scene = Scene()
    scene.levels.begin({}, 0.0, 0.0)
    scene.set("a", READY, 1.0, cold=False)
    scene.set("a", None, 2.0)
    scene.start("b", 3.0, cold=False, start=5_000, ready=90_000)
    assert scene.told() == ([(1000, 1), (2000, 0), (3000, 1)], 0, {"b"})


def test_one_that_recovers_has_not_started() -> None:
    scene = Scene()
    scene.levels.begin({}, 0.0, 0.0)
    scene.set("a", READY, 1.0)
    scene.set("a", UNHEALTHY, 2.0)
    scene.set("a", READY, 3.0)
    assert scene.told() == ([(1000, 1), (2000, 0), (3000, 1)], 1, {"a"})


def test_who_does_not_lead_says_nothing_and_who_begins_says_what_is_new() -> None:
    scene = Scene()
    scene.set("a", READY, 1.0)
    scene.set("x", READY, 1.0, "t")
    assert scene.told() == ([], 0, None)
    scene.levels.begin({"s": frozenset({"a"}), "u": frozenset({"y"})}, 1.0, 5.0)
    lines, ready = scene.levels.take()
    assert set(lines) == {"t", "u"}
    assert ready == {"t": {"x"}, "u": frozenset()}
    assert read_lines(lines["t"]).levels == [(5000, 1)]
    assert read_lines(lines["u"]).levels == [(1000, 0)]  # nobody has seen it since


def test_a_node_that_was_down_had_no_replicas_since_it_was_looked_at_last() -> None:
    scene = Scene()
    scene.set("new", READY, 90.0)
    scene.levels.begin({"s": frozenset({"old"})}, 50.0, 100.0)
    assert scene.told() == ([(50_000, 0), (100_000, 1)], 1, {"new"})


def test_what_was_not_stored_is_told_again_and_not_twice() -> None:
    scene = Scene()
    scene.levels.begin({}, 0.0, 0.0)
    scene.set("a", READY, 1.0)
    lost = scene.told()
    scene.levels.begin({}, 0.0, 2.0)  # it is not in the store
    assert scene.told()[0] == [(2000, 1)]
    scene.levels.begin({"s": frozenset({"a"})}, 2.0, 3.0)  # it is
    assert scene.told() == ([], 0, None)
    assert lost[1] == 1


def test_a_replica_that_can_not_be_read_is_not_ready() -> None:
    scene = Scene()
    scene.levels.begin({}, 0.0, 0.0)
    scene.set("a", READY, 1.0)
    scene.objects.replicas["a"] = b"broken"
    scene.levels.changed(scene.ready.changed([(Kind.REPLICA, "a")]), 2.0)
    assert scene.told()[0] == [(1000, 1), (2000, 0)]


# What workers say of their open windows


def window(number: int, requests: int = 1, *, delivered: int = 0, slot: int = 1000, worker: str = W) -> bytes:
    return encode_window(Header(worker, number, slot, delivered), [("s", f"[{requests},0,0,0,0,0,0,[],[]]")])


def known(heard: Heard) -> list[tuple[str, int]]:
    return sorted(heard.windows("s"))


def test_the_newest_word_counts_until_it_is_delivered() -> None:
    heard = Heard()
    heard.take(window(1, 1), 0.0)
    heard.take(window(1, 5), 1.0)
    heard.take(window(2, 7), 2.0)
    assert known(heard) == [(W, 1), (W, 2)]
    assert heard.windows("another") == {}
    assert [c.requests for data in heard.windows("s").values() for _, c in window_counts(data, "s")] == [5, 7]
    heard.take(window(3, delivered=2), 3.0)
    assert known(heard) == [(W, 3)]
    heard.stored({W: 3})
    assert known(heard) == []


def test_who_is_silent_with_something_to_say() -> None:
    heard = Heard()
    heard.take(window(1), 0.0)
    heard.take(window(4, worker="node/supervisor/2/b"), 2.0)
    assert heard.silent(LATE) == {W}
    assert [number for number, _ in heard.of(W)] == [1]
    heard.stored({W: 1})
    assert heard.silent(100.0) == {"node/supervisor/2/b"}


def test_what_is_heard_is_bounded_and_counted(monkeypatch: Any) -> None:
    monkeypatch.setattr("control.analytics.heard.BYTES", 500)
    heard = Heard()
    for number in range(1, 30):
        heard.take(window(number), 0.0)
    heard.take(b"nonsense", 0.0)
    assert (len(known(heard)) * len(window(29)) <= 500, heard.unreadable) == (True, 1)
    assert heard.dropped == 29 - len(known(heard))
    assert known(heard)[-1] == (W, 29)


def approximately(**milliseconds: float) -> Any:
    return pytest.approx(milliseconds, rel=0.02)


def test_a_cold_start_has_its_phases_and_later_its_first_byte() -> None:
    scene = Scene()
    scene.levels.begin({}, 0.0, 0.0)
    scene.start("a", 2.0, decide=1_000, start=9_000, ready=90_000)
    found, ready = scene.phases()
    assert found == approximately(decide=1, start=9, ready=90, **{"": 100})
    assert ready == {"a"}
    scene.start("b", 3.0, cold=False, start=5_000, first_byte=1_000)  # nobody waited for this one alone
    scene.start("a", 4.0, decide=1_000, start=9_000, ready=90_000, first_byte=30_000)
    found, ready = scene.phases()
    assert found == approximately(first_byte=30)
    assert ready == {"a!", "b!"}
    for at, state in enumerate((UNHEALTHY, READY), 5):
        scene.start("a", at, state=state, decide=1_000, start=9_000, ready=90_000, first_byte=30_000)
    assert scene.phases()[0] == {}


def test_a_first_byte_that_the_leader_before_did_not_put_down_is_told() -> None:
    scene = Scene()
    scene.start("a", 1.0, ready=90_000, first_byte=30_000)
    scene.levels.begin({"s": frozenset({"a"})}, 1.0, 2.0)
    assert scene.phases() == (approximately(first_byte=30), {"a!"})
    scene.levels.begin({"s": frozenset({"a!"})}, 2.0, 3.0)
    assert scene.phases() == ({}, None)


def test_a_start_and_its_first_byte_at_once() -> None:
    scene = Scene()
    scene.start("a", 1.0, ready=90_000, first_byte=30_000)
    scene.levels.begin({}, 0.0, 2.0)
    assert scene.phases()[0] == approximately(ready=90, first_byte=30, **{"": 90})
