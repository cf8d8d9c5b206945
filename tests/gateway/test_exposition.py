"""Totals over all workers: nothing goes backwards, nothing is counted twice."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from gateway import exposition
from gateway.exposition import Totals, grow
from gateway.histogram import bucket


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def counted(requests: int, namespace: str = "acme", name: str = "api", **more: Any) -> dict[str, Any]:
    return {"namespace": namespace, "name": name, "requests": {"200": requests}} | more


def report(
    seq: int = 1,
    services: dict[str, Any] | None = None,
    *,
    worker: str = "n/s/1/a",
    loads: dict[str, Any] | None = None,
    **own: int,
) -> dict[str, Any]:
    return {"worker": worker, "seq": seq, "services": loads or {}, "counters": {"services": services or {}, **own}}


def samples(totals: Totals) -> dict[tuple[str, ...], float]:
    """{(name, label values in the order of the label names…): value}, read back from the text."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(totals.expose().decode())
        for sample in family.samples
    }


def test_the_names_are_those_of_the_specification() -> None:
    totals = Totals()
    service = counted(
        7,
        bytes_in=10,
        bytes_out=20,
        retries=2,
        duration={str(bucket(0.004)): 5, str(bucket(2.0)): 1, str(bucket(9999.0)): 1},
        duration_sum=12.5,
        hold={str(bucket(0.2)): 1},
        hold_sum=0.2,
        errors={"connection_refused": 3},
    )
    loads = {"s": {"in_flight": 3, "held": 2, "held_ms": 5, "replicas": {"r": 3}}}
    totals.take(report(1, {"s": service}, loads=loads, connections=9, accepted=11, log_dropped=1))
    found = samples(totals)
    assert found["wakegate_requests_total", "200", "acme", "api"] == 7
    assert found["wakegate_request_duration_seconds_bucket", "0.0025"] == 0
    assert found["wakegate_request_duration_seconds_bucket", "0.005"] == 5
    assert found["wakegate_request_duration_seconds_bucket", "300.0"] == 6
    assert found["wakegate_request_duration_seconds_bucket", "+Inf"] == 7
    assert found["wakegate_request_duration_seconds_count",] == 7
    assert found["wakegate_request_duration_seconds_sum",] == 12.5
    assert found["wakegate_hold_seconds_bucket", "0.25"] == 1
    assert found["wakegate_in_flight",] == 3
    assert found["wakegate_held",] == 2
    assert found["wakegate_upstream_errors_total", "connection_refused"] == 3
    assert (found["wakegate_bytes_total", "in"], found["wakegate_bytes_total", "out"]) == (10, 20)
    assert found["wakegate_retries_total",] == 2
    assert (found["wakegate_connections",], found["wakegate_connections_accepted_total",]) == (9, 11)
    assert (found["wakegate_access_log_dropped_total",], found["wakegate_workers",]) == (1, 1)


def test_what_workers_count_of_themselves() -> None:
    totals = Totals()
    own: dict[str, Any] = {
        "shed": 2,
        "upstream_closed": 9,
        "slots": 6,
        "slots_recalled": 12,
        "slots_unanswered": 13,
        "spans_dropped": 3,
        "refused_full": 4,
        "refused_address": 5,
        "tls": {"handshakes": 10, "resumed": 4, "failed": {"unknown_name": 2}},
        "proxy_protocol": {"read": 6, "malformed": 1},
        "loop_lag": {"0": 90, "4": 7},
        "loop_lag_sum": 0.5,
        "loop_lag_cpu": {"0": 97},
    }
    totals.take(report(1, {"s": counted(1, retries_refused=7, ejections=8)}, **own))
    own["loop_lag"] = {"0": 91, "4": 7, "12": 1}
    own["tls"] = {"handshakes": 12, "resumed": 5, "proved": 1, "failed": {"unknown_name": 2, "left": 1}}
    totals.take(report(2, {}, **own))
    totals.take(report(1, {}, worker="n/s/2/b"))  # one without TLS
    found = samples(totals)
    assert (found["wakegate_connections_shed_total",], found["wakegate_spans_dropped_total",]) == (2, 3)
    assert found["wakegate_upstream_connections_shed_total",] == 9
    assert (found["wakegate_slots_recalled_total",], found["wakegate_slots_unanswered_total",]) == (12, 13)
    assert found["wakegate_slots_owned",] == 6, "now"
    refused = "wakegate_connections_refused_total"
    assert (found[refused, "worker"], found[refused, "address"]) == (4, 5)
    handshakes, failed = "wakegate_tls_handshakes_total", "wakegate_tls_handshake_failures_total"
    assert [found[handshakes, kind] for kind in ("full", "resumed", "acme")] == [7, 5, 1]
    assert (found[failed, "unknown_name"], found[failed, "left"]) == (2, 1)
    lag = "wakegate_loop_lag_seconds_bucket"
    assert [found[lag, "wall", le] for le in ("0.001", "0.01", "0.02", "2.5", "+Inf")] == [91, 91, 98, 98, 99]
    assert (found[lag, "cpu", "0.001"], found["wakegate_loop_lag_seconds_sum", "wall"]) == (97, 0.5)
    proxied = "wakegate_proxy_protocol_total"
    assert (found[proxied, "read"], found[proxied, "malformed"]) == (6, 1)
    assert (found["wakegate_retries_refused_total",], found["wakegate_ejections_total",]) == (7, 8)


def test_a_snapshot_is_of_its_moment() -> None:
    totals = Totals()
    totals.take(report(1, {"s": counted(1, duration={"0": 1}, duration_sum=1.0)}, accepted=1))
    snapshot = totals.snapshot()
    before = snapshot.text()
    totals.take(report(2, {"s": counted(9, duration={"0": 9}, duration_sum=9.0), "t": counted(1)}, accepted=9))
    assert snapshot.text() == before
    assert totals.expose() != before


def test_nothing_counted_is_zero_and_not_absent() -> None:
    found = samples(Totals())
    assert (
        found["wakegate_in_flight",]
        == found["wakegate_hold_seconds_count",]
        == found["wakegate_bytes_total", "in"]
        == 0
    )


def test_what_others_collect_comes_along() -> None:
    assert b"wakegate_other 1.0" in Totals().expose([GaugeMetricFamily("wakegate_other", "", value=1)])


def test_workers_add_up_and_a_replaced_one_keeps_its_share() -> None:
    clock = Clock()
    totals = Totals(clock)
    totals.take(report(5, {"s": counted(10)}, worker="n/s/1/a", loads={"s": {"in_flight": 1, "held": 4}}))
    totals.take(report(9, {"s": counted(20)}, worker="n/s/2/b", loads={"s": {"in_flight": 2, "held": 0}}))
    assert samples(totals)["wakegate_in_flight",] == 3
    clock.now += 11
    totals.take(report(1, {"s": counted(1)}, worker="n/s/1/c"))  # number 1 was killed and replaced, 2 is silent
    found = samples(totals)
    assert found["wakegate_requests_total", "200", "acme", "api"] == 31
    assert (found["wakegate_in_flight",], found["wakegate_held",], found["wakegate_workers",]) == (0, 0, 1)
    clock.now += 60
    totals.take(report(2, {"s": counted(3)}, worker="n/s/1/c"))  # the dead one is forgotten, its share is not
    totals.take(report(10, {"s": counted(22)}, worker="n/s/2/b"))  # the silent one was cut off only
    assert samples(totals)["wakegate_requests_total", "200", "acme", "api"] == 35


def test_a_service_that_a_report_leaves_out_keeps_its_counters() -> None:
    totals = Totals()
    totals.take(report(1, {"s": counted(10)}))
    totals.take(report(2, {}))
    totals.take({"worker": "n/s/1/a", "seq": 3, "services": {}})  # a hurried report carries no counters
    totals.take(report(4, {"s": counted(12)}))
    assert totals.requests_of("s") == {"200": 12}
    assert totals.requests_of("t") == {}


def test_an_old_report_is_left_out() -> None:
    totals = Totals()
    totals.take(report(2, {"s": counted(10)}))
    totals.take(report(1, {"s": counted(9)}))
    assert totals.requests_of("s") == {"200": 10}


def test_a_recreated_service_goes_on_under_its_name() -> None:
    totals = Totals()
    totals.take(report(1, {"old": counted(10), "new": counted(5)}))
    assert samples(totals)["wakegate_requests_total", "200", "acme", "api"] == 15


def test_quiet_services_are_folded_into_their_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "SERVICES", 3)
    totals = Totals()
    for number in range(8):
        totals.take(report(number + 1, {f"s{number}": counted(1, name=f"api{number}")}))
    found = samples(totals)
    assert {key[3]: value for key, value in found.items() if key[0] == "wakegate_requests_total"} == {
        "api6": 1,
        "api7": 1,
        "": 6,
    }


def test_many_workers_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "WORKERS", 3)
    totals = Totals()
    for number in range(8):
        totals.take(report(1, {"s": counted(1)}, worker=f"n/s/{number}/i"))
    found = samples(totals)
    assert (found["wakegate_workers",], found["wakegate_requests_total", "200", "acme", "api"]) == (3, 8)


@pytest.mark.parametrize("wrong", [{}, {"worker": "x", "seq": 1, "services": {}}, {"worker": "n/s/1/i", "seq": "x"}])
def test_what_is_not_a_report_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError)):
        Totals().take(wrong)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.booleans(), st.booleans()), max_size=40))
def test_whatever_is_lost_or_replaced_the_total_is_what_was_counted(
    events: list[tuple[int, int, bool, bool]],
) -> None:
    """Workers count, some of their reports are lost, some are replaced after a last report that arrived."""
    totals, life, count, seq = Totals(), [0] * 4, [0] * 4, 0
    ended = reported = 0
    for worker, more, lost, replaced in events:
        count[worker] += more
        seq += 1
        if not lost or replaced:
            totals.take(report(seq, {"s": counted(count[worker])}, worker=f"n/s/{worker}/{life[worker]}"))
        if replaced:
            ended += count[worker]
            life[worker] += 1
            count[worker] = 0
        now = totals.requests_of("s").get("200", 0)
        assert now >= reported
        reported = now
    for worker in range(4):
        totals.take(report(seq + 1, {"s": counted(count[worker])}, worker=f"n/s/{worker}/{life[worker]}"))
    assert totals.requests_of("s").get("200", 0) == ended + sum(count)


def test_growing_by_fractions_and_from_anew() -> None:
    totals: dict[str, Any] = {}
    grow(totals, {"sum": 1.5, "by": {"a": 2}}, {})
    grow(totals, {"sum": 2.0, "by": {"a": 1, "b": 4}}, {"sum": 1.5, "by": {"a": 2}})
    assert math.isclose(totals["sum"], 2.0)
    assert totals["by"] == {"a": 3, "b": 4}
