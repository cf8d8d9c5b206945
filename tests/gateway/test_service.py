"""What a service makes of its backend: who is warm, who is forgiven, whom a cookie names."""

from __future__ import annotations

from parts import an_exchange, an_office

from gateway.affinity import token
from gateway.health import GOOD, IN_A_ROW, WARMING
from gateway.messages import Request
from gateway.replica import Replica
from gateway.service import Service
from state.models import Backend, Endpoint, Phase, StartPhases


def backend(*replicas: str, draining: tuple[str, ...] = (), affinity: str = "none") -> Backend:
    endpoints = tuple(Endpoint(name, "127.0.0.1", 1000, name not in draining) for name in replicas)
    return Backend("s", "acme", "a", Phase.SERVING, None, 1, endpoints, 0, None, affinity)


def a_service(*replicas: str, affinity: str = "none") -> Service:
    service = Service("s", 10, 1.0)
    service.apply(backend(*replicas, affinity=affinity), 1.0, 100.0)
    return service


def cold(service: Service, now: float) -> set[str]:
    return {replica.id for replica in service.ready if replica.warm_at > now}


def eject(replica: Replica, now: float) -> None:
    for _ in range(IN_A_ROW):
        replica.failed(now, True, False)


def test_who_comes_to_others_starts_slowly_and_who_comes_first_does_not() -> None:
    service = a_service("a", "b")
    assert cold(service, 100.0) == set()
    service.apply(backend("a", "b", "c"), 1.0, 200.0)
    assert cold(service, 200.0 + WARMING - 0.1) == {"c"}
    assert cold(service, 200.0 + WARMING) == set()
    service.apply(backend("a", "b", "c", draining=("b",)), 1.0, 300.0)
    service.apply(backend("a", "b", "c"), 1.0, 400.0)
    assert cold(service, 400.0) == {"b"}
    service.apply(backend("a", "b", "c"), 1.0, 401.0)
    assert cold(service, 401.0) == {"b"}, "what does not change is not new"
    service.apply(backend(), 1.0, 500.0)
    service.apply(backend("d"), 1.0, 501.0)
    assert cold(service, 501.0) == set()


def test_who_is_ready_again_has_failed_at_nothing() -> None:
    service = a_service("a", "b")
    eject(service.replicas["a"], 100.0)
    service.apply(backend("a", "b"), 1.0, 100.0)
    assert service.replicas["a"].health != GOOD
    service.apply(backend("a", "b", draining=("a",)), 1.0, 100.0)
    service.apply(backend("a", "b"), 1.0, 100.0)
    assert (service.replicas["a"].health, service.replicas["a"].failures) == (GOOD, 0)


def test_another_address_is_another_replica() -> None:
    service = a_service("a", "b")
    old = service.replicas["a"]
    moved = Backend("s", "acme", "a", endpoints=(Endpoint("a", "127.0.0.1", 2000), Endpoint("b", "127.0.0.1", 1000)))
    assert service.apply(moved, 1.0, 200.0) == [old], "so that its idle connections are closed"
    assert [replica.port for replica in service.ready] == [2000, 1000]


def test_a_cookie_names_the_ready_ones_as_long_as_it_is_on() -> None:
    service = a_service("a", "b", affinity="cookie")
    assert {value: replica.id for value, replica in service.tokens.items()} == {
        token("s", "a"): "a",
        token("s", "b"): "b",
    }
    service.apply(backend("a", "b", draining=("a",), affinity="cookie"), 1.0, 200.0)
    assert list(service.tokens) == [token("s", "b")]
    service.apply(backend("a", "b"), 1.0, 300.0)
    assert (service.tokens, [replica.token for replica in service.ready]) == ({}, [b"", b""])


def test_the_client_of_an_ejected_replica_is_not_its_probation() -> None:
    service = a_service("a", "b", affinity="cookie")
    office, exchange = an_office(), an_exchange()
    exchange.token = token("s", "a")
    exchange.request = Request(b"POST", b"/", False)
    for _ in range(20):
        chosen = office.pick(exchange, service, 100.0)
        assert chosen is service.replicas["a"]
    eject(service.replicas["a"], 100.0)
    for _ in range(20):
        chosen = office.pick(exchange, service, service.replicas["a"].until + 0.5)
        assert chosen is service.replicas["b"]


def test_a_start_is_news_only_to_who_knew_the_service_before() -> None:
    phases = StartPhases(ready=4_000)
    first, second = (Endpoint(name, "127.0.0.1", 1000, True, 5, phases) for name in "ab")
    service = Service("s", 10, 1.0)
    service.apply(Backend("s", "acme", "a", endpoints=(first,)), 1.0, 100.0, news=False)
    assert service.replicas["a"].start is None, "it may have been ready for long"
    service.apply(Backend("s", "acme", "a", endpoints=(first, second)), 1.0, 200.0)
    assert service.replicas["a"].start is None
    start = service.replicas["b"].start
    assert start is not None
    assert start.since == 200.0
