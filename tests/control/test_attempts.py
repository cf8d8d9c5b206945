"""The bound on being wrong."""

from __future__ import annotations

import pytest

from control.attempts import Acquaintances, Attempts, network


def test_a_limit_at_once_and_as_many_again_in_the_window():
    attempts = Attempts(3, window=60.0)
    for _ in range(3):
        assert attempts.wait("a", 0.0) == 0
        attempts.failed("a", 0.0)
    assert attempts.wait("a", 0.0) == pytest.approx(20.0)
    assert attempts.wait("b", 0.0) == 0
    assert attempts.wait("a", 20.0) == 0
    attempts.failed("a", 20.0)
    assert attempts.wait("a", 20.0) == pytest.approx(20.0)
    assert attempts.wait("a", 1000.0) == 0


def test_it_remembers_only_so_many():
    attempts = Attempts(1, keys=100)
    for number in range(10_000):
        attempts.failed(str(number), 0.0)
    assert len(attempts) == 100
    assert attempts.wait("9999", 0.0) > 0
    assert attempts.wait("0", 0.0) == 0


def test_acquaintances_are_known_for_a_while():
    known = Acquaintances(kept=10.0, keys=2)
    known.met("a", 0.0)
    assert known.known("a", 10.0)
    assert not known.known("a", 10.1)
    assert not known.known("b", 0.0)
    for name in ("b", "c"):
        known.met(name, 1.0)
    assert not known.known("a", 1.0)
    assert known.known("c", 1.0)


@pytest.mark.parametrize(
    ("address", "stands_for"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
        ("somewhere", "somewhere"),
    ],
)
def test_whom_an_address_stands_for(address, stands_for):
    assert network(address) == stands_for
