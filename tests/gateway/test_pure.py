"""The small pure parts: balancing, histogram, table, sweep, answers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway import histogram
from gateway.access_log import AccessLog
from gateway.answers import proxy_status
from gateway.dispatch import Dispatcher
from gateway.errors import Failure
from gateway.http1.upstream import UpstreamConnection
from gateway.negotiation import prefers_html
from gateway.replica import Replica
from gateway.service import Service
from gateway.settings import GatewaySettings
from gateway.sweep import Sweep, Timed, format_date
from gateway.table import Table, Unserved, plain_host
from state.models import Backend, Phase, Route


@given(st.floats(1e-5, 1e4))
def test_buckets_are_two_percent_wide(seconds: float) -> None:
    index = histogram.bucket(seconds)
    upper = histogram.upper(index)
    assert upper / histogram.GROWTH * 0.999999 <= seconds <= upper * 1.000001


def test_plain_host() -> None:
    assert plain_host(b"A.Test:80") == b"a.test"
    assert plain_host(b"a.test.") == b"a.test"
    assert plain_host(b"a.test.:80") == b"a.test"
    assert plain_host(b"[::1]") == b"[::1]"
    assert plain_host(b"[::1]:80") == b"[::1]"


class Source:
    def __init__(self) -> None:
        self.routes = {"a.test": Route("s", "acme", "a"), "b.test": Route("t", "acme", "b", deleted_at=1)}
        self.asked = 0

    def route(self, host: str) -> Route | None:
        self.asked += 1
        return self.routes.get(host)

    def backend(self, service_id: str) -> Backend | None:
        return None


def test_table_remembers_and_forgets() -> None:
    source = Source()
    table = Table(source)
    first = table.find(b"a.test")
    assert table.find(b"A.test:80") is first
    asked = source.asked
    assert table.find(b"a.test") is first
    assert source.asked == asked
    gone = table.find(b"b.test")
    assert isinstance(gone, Unserved)
    assert gone.failure.details == "deleted"
    assert table.find(b"c.test") is None
    del source.routes["a.test"]
    table.forget_host("a.test")
    assert table.find(b"a.test") is None
    assert table.find(b"A.test:80") is None


def test_a_route_that_changes_costs_what_it_changes() -> None:
    source = Source()
    table = Table(source)
    found = {id(table.find(b"a.test:%d" % port)) for port in range(1, 1000)}
    assert len(found) == 1
    assert source.asked == 1
    assert len(table._spelled) == 8
    table.forget_host("a.test")
    assert not table._spelled
    assert not table._hosts_of


def test_hosts_that_are_remembered_are_bounded() -> None:
    source = Source()
    source.routes = {f"{at}.test": Route("s", "acme", "a") for at in range(20_001)}
    table = Table(source)
    for host in source.routes:
        assert table.find(host.encode()) is table.services["s"]
    assert len(table._hosts) == len(table._spelled) == len(table._hosts_of["s"]) == 1


def test_a_deleted_service_is_forgotten_when_nothing_of_it_is_left() -> None:
    table = Table(Source())
    service = table.find(b"a.test")
    assert isinstance(service, Service)
    service.in_flight = 1
    service.remove()
    table.leave("s", 100.0)
    table.tend(200.0)
    assert table.find(b"a.test") is service
    service.in_flight = 0
    table.tend(259.0)
    assert "s" in table.services
    table.tend(260.0)
    assert not table.services
    assert not table.hosts()
    table.tend(261.0)


def test_a_deleted_service_that_comes_back_stays() -> None:
    table = Table(Source())
    service = table.find(b"a.test")
    assert isinstance(service, Service)
    service.remove()
    table.leave("s", 100.0)
    service.apply(Backend("s", "acme", "a", Phase.SERVING, None, 1, (), 0, None), 1.0, 0.0)
    table.tend(200.0)
    service.remove()
    table.tend(300.0)
    assert table.services == {"s": service}


class Quiet:
    def wake(self, service_id: str) -> None: ...
    def changed(self, service_id: str) -> None: ...
    def answered(self, replica_id: str, first_byte: int) -> None: ...


def test_sweep() -> None:
    """Told by idle connections, which leave their replica when they expire."""
    sweep = Sweep(100.0)
    office = Dispatcher(GatewaySettings(), Table(Source()), AccessLog(None), Quiet(), sweep)
    replica = Replica("r", "127.0.0.1", 1000)
    early, late, moved, left = (UpstreamConnection(office, replica) for _ in range(4))
    for connection in (early, late, moved, left):
        office.connections.pool.give(replica, connection, 100.0, 0)
    sweep.arm(early, 101.0)
    sweep.arm(late, 105.0)
    sweep.arm(moved, 101.0)
    sweep.arm(moved, 103.0)
    sweep.arm(left, 101.0)
    sweep.disarm(left)
    sweep.arm(late, 104.0)
    gone: dict[UpstreamConnection, float] = {}
    for at in range(400, 440):
        sweep.run(at / 4)
        for connection in (early, late, moved, left):
            if connection not in replica.idle:
                gone.setdefault(connection, at / 4)
    assert gone == {early: 101.25, late: 104.25, moved: 103.25}


def test_answers() -> None:
    assert not prefers_html(b"")
    assert not prefers_html(b"*/*")
    assert not prefers_html(b"application/json, text/html;q=0.5")
    assert prefers_html(b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
    assert proxy_status(Failure(503, "x", 'a "b"\n\\')) == b"Proxy-Status: wakegate; error=x; details=\"a 'b'''\""
    assert format_date(784111777) == b"Sun, 06 Nov 1994 08:49:37 GMT"


def test_the_sweep_keeps_nothing_of_who_is_in_it_no_more() -> None:
    sweep = Sweep(100.0)
    some = [Timed() for _ in range(100)]
    for number, timed in enumerate(some):
        sweep.arm(timed, 110.0 + number)
    for timed in some:
        sweep.disarm(timed)
    assert sweep._buckets == {}
