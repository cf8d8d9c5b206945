"""Who was right before."""

from __future__ import annotations

from control.credentials.acquaintances import Acquaintances
from control.credentials.failures import WINDOW, Failures


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


def test_a_client_that_has_failed_enough_waits_without_failing_again():
    failures = Failures(limit=2)
    for _ in range(2):
        assert failures.wait("192.0.2.1", 0.0) == 0
        assert failures.note("192.0.2.1", 0.0) == 0
    wait = failures.wait("192.0.2.1", 0.0)
    assert wait == failures.note("192.0.2.1", 0.0) == WINDOW / 2
    assert failures.wait("192.0.2.1", wait) == 0
    assert failures.wait("192.0.2.2", 0.0) == 0
    assert failures.wait(None, 0.0) == 0
