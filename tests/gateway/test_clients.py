"""How many connections: of a worker, of one client; who makes room, who is turned away; all of it counted."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable

import pytest
from wire import Conversation, Peer, Starter, get, ok, until

import gateway.sides
from gateway.clients import NEVER, Clients, client_of
from gateway.http1.server import ServerConnection
from gateway.sides import Downstream

plain = pytest.mark.skipif(
    gateway.sides.__file__.endswith(".so"), reason="a compiled class can't be the base of one of Python's"
)

Make = Callable[[], ServerConnection]


@pytest.fixture
def down(talk: Conversation) -> Make:
    """Makes connections that nobody has connected: never idle."""
    return lambda: ServerConnection(talk.edge._office, False)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("unknown", "unknown", True),
        ("not:an:address", "not:an:address", True),
    ],
)
def test_a_client_is_an_ipv4_address_or_an_ipv6_network(one: str, other: str, same: bool) -> None:
    assert (client_of(one) == client_of(other)) is same


def test_one_client_has_a_limit_and_gives_its_places_back(down: Make) -> None:
    clients = Clients(100, (), 2)
    mine = [down() for _ in range(3)]
    assert [clients.opened(one, "192.0.2.1", False) for one in mine] == [True, True, False]
    assert clients.opened(down(), "192.0.2.2", False)
    clients.closed(mine[2])  # never had a place
    assert not clients.opened(down(), "192.0.2.1", False)
    clients.closed(mine[0])
    clients.closed(mine[0])
    assert clients.opened(down(), "192.0.2.1", False)
    assert clients.counters()["refused_address"] == 2


def test_the_table_of_clients_is_no_longer_than_that_of_connections(down: Make) -> None:
    clients = Clients(10_000, (), 2)
    for number in range(5000):
        one = down()
        clients.opened(one, f"2001:db8:{number:x}::1", False)
        if number % 2:
            clients.closed(one)
    assert len(clients._addresses) == len(clients) == 2500
    for one in clients.all():
        clients.closed(one)
    assert clients._addresses == {}
    assert len(clients) == 0


def test_a_told_address_counts_instead_of_the_peers(down: Make) -> None:
    clients = Clients(100, (ipaddress.ip_network("127.0.0.0/8"),), 1)
    behind_proxy = [down() for _ in range(3)]
    assert all(clients.opened(one, "127.0.0.1", clients.trusts("127.0.0.1")) for one in behind_proxy)
    assert clients.claim(behind_proxy[0], "192.0.2.1")
    assert clients.claim(behind_proxy[1], "192.0.2.2")
    assert not clients.claim(behind_proxy[2], "192.0.2.1")
    clients.closed(behind_proxy[0])
    assert clients.claim(behind_proxy[2], "192.0.2.1")


def test_the_operator_is_told_rarely(down: Make) -> None:
    said: list[str] = []
    clients = Clients(0, (), 0)
    clients.complain = said.append
    for _ in range(1000):
        one = down()
        assert not clients.opened(one, "192.0.2.1", False)
        clients.closed(one)
    assert len(said) == 10
    assert said[0] == "0 client connections, none of them idle: closing new ones (1 so far)"
    assert clients.counters()["refused_full"] == 1000


async def test_who_has_been_idle_longest_makes_room(conversation: Starter) -> None:
    talk = await conversation(connection_limit=24, shed_age=0.0)
    talk.serve()  # held
    busy = [await talk.client() for _ in range(4)]
    for client in busy:
        await client.send(get())
    await until(lambda: talk.held == 4)
    for _ in range(20):
        await answered(talk, await talk.client())
    idle = [one for one in talk.edge._office.clients.all() if one.idle_since() < NEVER]
    assert len(idle) == 20
    for number, one in enumerate(idle):
        one.deadline -= number  # the later it came, the longer it has been idle
    await answered(talk, await talk.client())
    assert talk.edge.counters()["shed"] == 8
    left = talk.edge._office.clients.all()
    assert [one in left for one in idle] == [True] * 12 + [False] * 8
    assert talk.held == 4


async def answered(talk: Conversation, client: Peer) -> None:
    await client.send(get(host="nobody.test"))
    assert (await client.head()).startswith(b"HTTP/1.1 404 ")


async def test_an_idle_connection_makes_room_for_a_new_one(conversation: Starter) -> None:
    talk = await conversation(connection_limit=3, shed_age=0.0)
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    busy = await talk.client()
    await busy.send(get())
    replica = await origin.peer()
    first = await talk.client()
    await answered(talk, first)
    second = await talk.client()
    await second.send(b"GET / HT")  # has begun a head: that is no request yet
    await until(lambda: talk.edge.connections == 3)
    third = await talk.client()
    await answered(talk, third)
    for closed in (first, second):
        await closed.rest()
    await replica.head()
    await replica.send(ok(b"x"))
    await busy.head()
    await busy.expect(b"x")
    assert talk.edge.counters()["shed"] == 2


async def test_who_came_a_moment_ago_is_not_idle(conversation: Starter) -> None:
    """Its request may be on the way."""
    talk = await conversation(connection_limit=1, shed_age=0.5)
    first = await talk.client()
    await until(lambda: talk.edge.connections == 1)
    late = await talk.client()
    await late.closed()
    await answered(talk, first)
    await asyncio.sleep(1.0)
    await answered(talk, await talk.client())
    assert talk.edge.counters()["shed"] == 1


async def test_when_all_are_busy_a_new_one_is_closed(conversation: Starter) -> None:
    talk = await conversation(connection_limit=2)
    talk.serve()  # held
    for _ in range(2):
        client = await talk.client()
        await client.send(get())
    await until(lambda: talk.held == 2)
    late = await talk.client()
    await late.closed()
    assert talk.edge.counters()["refused_full"] == 1
    assert talk.held == 2


async def test_too_many_from_one_address(conversation: Starter) -> None:
    talk = await conversation(address_limit=2)
    clients = [await talk.client() for _ in range(2)]
    for client in clients:
        await answered(talk, client)
    late = await talk.client()
    await late.closed()
    assert talk.edge.counters()["refused_address"] == 1
    clients[0].close()
    await until(lambda: talk.edge.connections == 1)
    await answered(talk, await talk.client())


async def test_a_client_with_too_many_loses_its_own_idle_ones_first(conversation: Starter) -> None:
    talk = await conversation(address_limit=2, shed_age=0.0)
    talk.serve()  # held
    busy, idle = await talk.client(), await talk.client()
    await busy.send(get())
    await answered(talk, idle)
    await until(lambda: talk.held == 1)
    await answered(talk, await talk.client())
    await idle.rest()
    counters = talk.edge.counters()
    assert (counters["shed"], counters["refused_address"], talk.held) == (1, 0, 1)


async def test_nobody_makes_room_for_another_clients_limit(down: Make) -> None:
    clients = Clients(100, (), 1)
    mine, other = down(), down()
    assert clients.opened(other, "192.0.2.2", False)
    assert clients.opened(mine, "192.0.2.1", False)
    assert not clients.opened(down(), "192.0.2.1", False)
    assert other in clients.all()


async def test_a_trusted_proxy_may_have_more(conversation: Starter) -> None:
    talk = await conversation(address_limit=1, trusted_proxies=(ipaddress.ip_network("127.0.0.0/8"),))
    for _ in range(3):
        await answered(talk, await talk.client())
    assert talk.edge.counters()["refused_address"] == 0


@plain
def test_of_thousands_that_are_not_read_a_thousand_are_looked_at_each_time() -> None:
    clients = Clients(10_000, ())

    class Paused(Downstream):
        """Not being read; notes how often it was looked at."""

        looks = 0

        def look_for_leaving(self) -> None:
            self.looks += 1

    paused = [Paused() for _ in range(2500)]
    clients.paused.update(dict.fromkeys(paused))
    for tick, looked in enumerate((1000, 2000, 2500), start=1):
        clients.tend(0.0)
        assert sum(one.looks > 0 for one in paused) == looked
        assert sum(one.looks for one in paused) == 1000 * tick
    assert len(clients.paused) == 2500


@plain
def test_who_leaves_may_let_others_be_read_again() -> None:
    clients = Clients(10, ())
    looked_at: list[Downstream] = []

    class Paused(Downstream):
        """Not being read; has left, which frees a place for the next one."""

        def look_for_leaving(self) -> None:
            looked_at.append(self)
            del clients.paused[self]
            clients.paused.pop(second, None)

    first, second, third = Paused(), Paused(), Paused()
    clients.paused.update(dict.fromkeys((first, second, third)))
    clients.tend(0.0)
    assert looked_at == [first, third]
    assert not clients.paused
