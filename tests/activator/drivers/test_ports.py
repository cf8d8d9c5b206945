"""Where the replicas' ports come from."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activator.drivers.process.ports import NoPortError, Ports, bindable, local_port_range, own_range


@given(st.tuples(st.integers(1, 65_535), st.integers(1, 65_535)).map(sorted))
def test_never_a_port_of_the_kernel(local: list[int]) -> None:
    ports = own_range((local[0], local[1]))
    assert not any(local[0] <= port <= local[1] for port in ports)
    assert all(1024 < port <= 65_535 for port in ports)


def test_this_machine_has_some() -> None:
    assert len(own_range(local_port_range())) > 1000


def test_in_turn_and_not_those_in_use() -> None:
    ports = Ports(range(10, 14), free=lambda port: port != 11, start=3)
    assert [ports.allocate({12}) for _ in range(3)] == [13, 10, 13]


def test_none_left() -> None:
    with pytest.raises(NoPortError, match="10-11"):
        Ports(range(10, 12), free=lambda _: True).allocate({10, 11})


def test_a_range_that_somebody_filled_holds_the_loop_only_briefly() -> None:
    tried = list[int]()
    ports = Ports(range(20_000, 32_768), free=lambda port: bool(tried.append(port)), start=0)
    with pytest.raises(NoPortError, match="2000 of the ports 20000-32767 are in use"):
        ports.allocate(())
    with pytest.raises(NoPortError):
        ports.allocate(())
    assert tried == list(range(20_000, 24_000))  # the next replica's search goes on where this one's ended


def test_a_listening_port_is_not_free() -> None:
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen()
        assert not bindable(server.getsockname()[1])
