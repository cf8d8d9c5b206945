"""Turns of the loop: so much in each, in order, and all of it in the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from memory_plane import SETTINGS, Plane, staged
from wire import get

from gateway.service import Service
from gateway.turns import Turns
from state.models import Endpoint

MANY = 200
A, B = Endpoint("a-1", "127.0.0.2", 1001, True), Endpoint("b-1", "127.0.0.3", 1002, True)


@pytest.fixture
def plane() -> Iterator[Plane]:
    with staged():
        yield Plane(dataclasses.replace(SETTINGS, hold_limit=10_000, address_limit=0))


def service(plane: Plane, host: str) -> Service:
    return next(one for one in plane.office.books if one.id == "s-" + host)


def in_flight(plane: Plane) -> tuple[int, int]:
    return service(plane, "a.test").in_flight, service(plane, "b.test").in_flight


def targets(plane: Plane, endpoint: Endpoint) -> list[bytes]:
    """Those that are on their way to a replica, in order."""
    waiting = [exchange for exchange, replica in plane.pending if replica.id == endpoint.id]
    queues = [replica.queue for replica in plane.replicas() if replica.id == endpoint.id]
    return [exchange.request.target for exchange in [*waiting, *queues[0]]]


def test_so_many_in_a_turn_and_the_rest_later(plane: Plane) -> None:
    turns = Turns(10)
    assert turns.take(7) == 7
    assert turns.take(7) == 3
    assert turns.take(7) == 0
    plane.run()
    assert turns.take(7) == 0, "nobody waits: nothing has been scheduled"
    rest: list[int] = []
    turns.later(lambda: rest.append(turns.take(7)))
    assert rest == []
    plane.run()
    assert rest == [7]
    assert turns.take(7) == 3


def test_who_waits_is_served_in_order_and_before_who_comes(plane: Plane) -> None:
    turns, done = Turns(3), []

    def work(number: int) -> None:
        done.append(turns.take(1) * number)

    turns.take(3)
    for number in range(1, 9):
        turns.later(lambda number=number: work(number))  # type: ignore[misc]
    for count in (3, 6):
        plane.soon.popleft()()
        assert done == list(range(1, count + 1))
        assert turns.take(1) == 0, "some are waiting"
    plane.run()
    assert done == list(range(1, 9))
    assert len(turns) == 0


def hold(plane: Plane, host: str, count: int = MANY) -> None:
    for number in range(count):
        plane.client().send(get(f"/{number}", host=host))
    plane.run()
    assert len(service(plane, host).room) == count


def test_held_requests_go_in_turns_that_services_share(plane: Plane) -> None:
    plane.serve("a.test")
    plane.serve("b.test")
    hold(plane, "a.test")
    hold(plane, "b.test")
    plane.reachable = False
    plane.serve("a.test", A)
    plane.serve("b.test", B)
    seen = [in_flight(plane)]
    while plane.soon:
        plane.soon.popleft()()
        seen.append(in_flight(plane))
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in zip([(0, 0), *seen], seen, strict=False)]
    assert max(sum(step) for step in steps) <= 32
    assert seen[-1] == (MANY, MANY)
    whose = [step[0] > 0 for step in steps if sum(step)]
    assert whose[:6] == [True, False, True, False, True, False] or whose[:6] == [True, True, False, True, False, True]
    for endpoint in (A, B):
        assert targets(plane, endpoint) == [b"/%d" % number for number in range(MANY)]


def test_as_many_go_in_a_turn_however_fast_the_replica_answers(plane: Plane) -> None:
    plane.serve("a.test")
    hold(plane, "a.test", 1000)
    plane.serve("a.test", A)
    arrived: list[bytes] = []
    answered = [0] * 1000  # by connection: heads that were answered
    while sum(answered) < 1000:
        plane.run()
        plane.wait(0.01)
        before = len(arrived)
        for at, wire in enumerate(plane.upstreams):
            heads = wire.received.count(b"\r\n\r\n")
            if heads > answered[at]:
                answered[at] = heads
                arrived.append(bytes(wire.received).split(b"\r\n\r\n")[heads - 1].split()[1])
                wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                assert plane.office.releases.left >= 0
        assert len(arrived) > before, "it goes on"
    assert sorted(arrived) == sorted(b"/%d" % number for number in range(1000))
    assert plane.log.ended[-1][1].status == 200


def test_heads_that_come_all_at_once_are_taken_in_turns_and_in_order(plane: Plane) -> None:
    plane.serve("a.test")
    clients = [plane.client() for _ in range(600)]
    for number, client in enumerate(clients):
        client.send(get(f"/{number}", host="a.test"))
    room = service(plane, "a.test").room
    assert len(room) == 256
    plane.soon.popleft()()
    assert len(room) == 512
    plane.run()
    assert [exchange.request.target for exchange in room] == [b"/%d" % number for number in range(600)]


def test_more_of_a_head_that_waits_for_its_turn_is_not_read_without_end(plane: Plane) -> None:
    plane.serve("a.test")
    for _ in range(256):
        plane.client().send(get(host="a.test"))
    late = plane.client()
    late.send(get(host="a.test"))
    assert late.reading
    late.send(get(host="a.test"))
    assert not late.reading
    late.send(get(host="a.test"))
    assert late.incoming
    plane.run()
    assert len(service(plane, "a.test").room) == 257


def test_clients_that_leave_all_at_once_are_closed_in_turns(plane: Plane) -> None:
    plane.serve("a.test")
    clients = [plane.client() for _ in range(600)]
    for client in clients:
        client.send(get(host="a.test"))
    plane.run()
    for client in clients:
        client.half_close()
    room = service(plane, "a.test").room
    left = len(room)
    assert 600 - left <= 64
    plane.soon.popleft()()
    assert left - len(room) <= 64
    plane.client().send(get("/late", host="a.test"))
    assert next(reversed(list(room))).request.target == b"/late", "no head waits behind them"
    plane.run()
    assert [exchange.request.target for exchange in room] == [b"/late"]
    assert plane.edge.connections == 1
    assert not any(client.open for client in clients)
