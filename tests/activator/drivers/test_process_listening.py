"""Who listens on a port: both ways of asking the kernel give the same answer, and the quick one gives it quickly."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest

from activator.drivers.process.listening import Listeners, asked, listeners, tabled

Asking = Callable[[], Listeners]


@pytest.fixture(params=[asked, tabled, listeners], ids=["asked", "tabled", "either"])
def asking(request: pytest.FixtureRequest) -> Asking:
    found: Asking = request.param
    return found


@pytest.fixture(params=["127.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1"])
def listening(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    address: str = request.param
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        if ":" in address:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, 0))
        listener.listen()
        yield listener


def test_a_listener_that_loopback_reaches_is_found(asking: Asking, listening: socket.socket) -> None:
    assert asking()[listening.getsockname()[1]] == {os.geteuid()}


def test_a_bound_port_and_a_connection_are_no_listeners(asking: Asking, listening: socket.socket) -> None:
    with socket.create_connection(("127.0.0.1", listening.getsockname()[1])) as client, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert client.getsockname()[1] not in asking()
        assert bound.getsockname()[1] not in asking()


def test_another_address_of_loopback_is_not_the_replicas(asking: Asking) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.2", 0))
        listener.listen()
        assert listener.getsockname()[1] not in asking()


def test_one_that_only_ipv6_reaches_takes_nothing_from_a_replica(asking: Asking) -> None:
    with socket.socket(socket.AF_INET6) as listener:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(("::", 0))
        listener.listen()
        assert (listener.getsockname()[1] in asking()) == (asking is tabled)  # which can't tell


@pytest.mark.root
def test_the_uid_is_that_of_the_sockets_owner(asking: Asking) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        os.fchown(listener.fileno(), 61999, 61999)
        assert asking()[listener.getsockname()[1]] == {61999}


def test_many_listeners_come_in_many_messages() -> None:
    made = [socket.socket() for _ in range(400)]
    try:
        for each in made:
            each.bind(("127.0.0.1", 0))
            each.listen()
        found = asked()
        assert all(found[each.getsockname()[1]] == {os.geteuid()} for each in made[::40])
    finally:
        for each in made:
            each.close()
