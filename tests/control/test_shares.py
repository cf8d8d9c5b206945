"""Places of a node: of one key, of one namespace, of all; and who is told what."""

from __future__ import annotations

import contextlib

import pytest

from control.contract.problem import Problem
from control.limits.shares import Bounds, Shares
from control.services.waiting import BOUNDS as WAITING
from control.streaming.sending import BOUNDS as SENDING
from control.streaming.streams import BOUNDS as STREAMS
from state.models import ApiKey


def key(name: str, namespace: str = "acme") -> ApiKey:
    return ApiKey(name, namespace, "read", "", 0)


def refusal(shares: Shares, caller: ApiKey, amount: int = 1) -> int | None:
    """The status that a caller gets; None: there is room."""
    try:
        with shares.held(caller, amount):
            return None
    except Problem as problem:
        return problem.status if problem.headers == {"Retry-After": "7"} else 0


@pytest.mark.parametrize("bounds", [SENDING, STREAMS, WAITING])
def test_nobody_has_all(bounds):
    assert bounds.key * 2 <= bounds.namespace
    assert bounds.namespace * 2 <= bounds.node


def test_a_key_a_namespace_and_a_node_have_bounds():
    shares = Shares("things", Bounds(key=2, namespace=3, node=5), seconds=7)
    with contextlib.ExitStack() as held:
        for name in ("a", "a"):
            held.enter_context(shares.held(key(name)))
        assert refusal(shares, key("a")) == 429
        held.enter_context(shares.held(key("b")))
        assert refusal(shares, key("c")) == 429, "another key of the namespace"
        assert refusal(shares, key("a", "other")) is None, "a key of that name elsewhere"
        for _ in range(2):
            held.enter_context(shares.held(key("a", "other")))
        assert refusal(shares, key("a", "other")) == 429
        assert refusal(shares, key("a", "third")) == 503
        assert shares.total == 5
    assert shares.total == 0
    assert (len(shares._keys), len(shares._namespaces)) == (0, 0), "nothing is remembered of who has left"


def test_a_node_is_full():
    shares = Shares("things", Bounds(key=2, namespace=2, node=2), seconds=7)
    with shares.held(key("a", "one")), shares.held(key("a", "two")):
        assert refusal(shares, key("a", "three")) == 503
        assert shares.refused == 1


def test_keys_of_every_namespace_share_no_namespace():
    shares = Shares("things", Bounds(key=1, namespace=1, node=9), seconds=7)
    with shares.held(key("a", "*")), shares.held(key("b", "*")):
        assert refusal(shares, key("a", "*")) == 429
        assert refusal(shares, key("c", "*")) is None


def test_what_is_larger_than_a_share_fits_alone():
    shares = Shares("bytes", Bounds(key=10, namespace=20, node=40), seconds=7)
    with shares.held(key("a"), 100):
        assert refusal(shares, key("a")) == 429
        assert refusal(shares, key("a", "other")) == 503
    assert refusal(shares, key("a"), 100) is None
