"""Reports as levels: sums, acknowledgements, silence, wakes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activator.demand import Demand, Load, MalformedReport, Report, parse
from activator.traffic import Had


def report(worker: str = "w1", seq: int = 1, revision: int = 10, run_id: str = "r", **services: Load) -> Report:
    return Report(worker, seq, run_id, revision, services)


def test_a_report_as_it_comes() -> None:
    raw = {
        "worker": "n/s/1/i",
        "seq": 17,
        "run_id": "r",
        "revision": 123,
        "services": {"a": {"in_flight": 3, "held": 2, "held_ms": 5, "replicas": {"x": 3}}},
        "counters": {
            "services": {
                "a": {"requests": {"200": 5, "503": 1}, "ejections": 2, "hold": {"-9": 3, "4": 1}, "hold_sum": 1.5},
                "": {"requests": {"404": 1}},
            }
        },
    }
    traffic = {"a": Had(6, 4, 1.5), "": Had(1)}
    expected = Report("n/s/1/i", 17, "r", 123, {"a": Load(3, 2, {"x": 3}, 0.005)}, traffic, ejections={"a": 2})
    assert parse(json.dumps(raw).encode()) == expected


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"worker":1}', b'{"services":[]}', b"\xff"])
def test_what_is_no_report(data: bytes) -> None:
    with pytest.raises(MalformedReport):
        parse(data)


def test_loads_add_up_and_the_newest_report_counts() -> None:
    demand = Demand()
    demand.report(report("w1", a=Load(2, 1, {"x": 2})), 0)
    demand.report(report("w2", a=Load(1, 0, {"y": 1})), 0)
    assert demand.load("a", 0) == Load(3, 1, {"x": 2, "y": 1})
    demand.report(report("w3", b=Load(0, 2, {}, 1.5)), 0)
    demand.report(report("w4", b=Load(0, 1, {}, 0.5)), 0)
    assert demand.load("b", 0) == Load(0, 3, {}, 1.5)  # who waits longest says how long
    assert demand.report(report("w1", seq=2), 1) == {"a"}
    assert demand.load("a", 1) == Load(1, 0, {"y": 1})
    assert demand.report(report("w1", seq=1, a=Load(9, 9, {})), 2) == set()


def test_a_missing_report_is_not_an_idle_one() -> None:
    demand = Demand()
    demand.report(report("w1", a=Load(2, 0, {"x": 2})), 0)
    assert demand.load("a", 1e6).in_flight == 2
    assert not demand.complete({"w1", "w2"}, "r")
    assert not demand.drained("a", "x", 0, {"w1", "w2"}, "r")
    assert demand.keep({"w2"}) == {"a"}
    assert demand.load("a", 1e6) == Load()


def test_drained_is_one_report_with_the_revision_and_nothing_in_flight() -> None:
    demand = Demand()
    demand.report(report(revision=10, a=Load(1, 0, {"y": 1})), 0)
    assert demand.drained("a", "x", 10, {"w1"}, "r")
    assert not demand.drained("a", "y", 10, {"w1"}, "r")
    assert not demand.drained("a", "x", 11, {"w1"}, "r")
    assert not demand.drained("a", "x", 10, {"w1"}, "another run")
    assert demand.missing(11, {"w1", "w3"}, "r") == {"w1", "w3"}
    assert demand.drained("a", "x", 10, set(), "r")


def test_a_wake_counts_until_every_worker_has_reported_since() -> None:
    demand = Demand()
    demand.report(report("w1"), 0)
    demand.report(report("w2"), 0)
    demand.hint("a", 1.0)
    assert demand.load("a", 1.0).held == 1
    assert demand.held("a", 1.0)
    demand.report(report("w1", seq=2), 1.4)
    assert demand.held("a", 1.4)
    demand.report(report("w2", seq=2), 1.5)
    assert not demand.held("a", 1.5)
    demand.hint("a", 2.0)
    assert demand.services(2.1) == {"a"}
    assert not demand.held("a", 9.0)
    assert demand.services(9.0) == set()


def test_a_report_on_its_way_does_not_take_a_wake_back() -> None:
    demand = Demand()
    demand.hint("a", 1.0)
    demand.report(report("w1"), 1.001)
    assert demand.held("a", 1.002)


def test_requests_between_two_reports_are_activity() -> None:
    demand = Demand()

    def counted(seq: int, now: float, **requests: int) -> None:
        demand.report(Report("w1", seq, "r", 1, {}, {name: Had(count) for name, count in requests.items()}), now)

    counted(1, 0, a=5)
    assert demand.active_at("a") is None  # the first count may be of long ago
    counted(2, 1, a=5)
    assert demand.active_at("a") is None
    counted(3, 2, a=6, b=1)
    assert (demand.active_at("a"), demand.active_at("b")) == (2, 2)
    demand.forget("a")
    assert demand.active_at("a") is None


@given(
    st.lists(st.tuples(st.sampled_from(["w1", "w2", "w3"]), st.integers(0, 5), st.integers(0, 5)), max_size=30),
    st.sets(st.sampled_from(["w1", "w2", "w3"])),
    st.integers(0, 6),
)
def test_drained_only_if_every_registered_worker_said_so(
    told: list[tuple[str, int, int]], registered: set[str], revision: int
) -> None:
    demand, last = Demand(), {}
    for seq, (worker, applied, busy) in enumerate(told, 1):
        demand.report(report(worker, seq, applied, a=Load(busy, 0, {"x": busy})), seq)
        last[worker] = (applied, busy)
    expected = all(w in last and last[w][0] >= revision and last[w][1] == 0 for w in registered)
    assert demand.drained("a", "x", revision, registered, "r") is expected


def test_who_was_held_before_is_not_calling() -> None:
    """A worker's word counts from the revision on that put the service to sleep, a wake from that moment on."""
    demand = Demand()
    demand.report(report(seq=1, revision=9, a=Load(0, 1)), 0.0)
    demand.hint("a", 0.0)
    assert demand.held("a", 0.1)
    assert not demand.called("a", 10, "r", 0.1, 0.2)
    demand.hint("a", 0.3)
    assert demand.called("a", 10, "r", 0.1, 0.4)
    demand.report(report(seq=2, revision=10), 5.0)
    assert not demand.called("a", 10, "r", 0.1, 6.0)
    demand.report(report(seq=3, revision=10, a=Load(0, 1)), 6.0)
    assert demand.called("a", 10, "r", 0.1, 6.0)
    assert not demand.called("a", 10, "another run", 0.1, 6.0)
