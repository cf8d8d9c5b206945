"""When certificates are renewed: decisions as functions of what is stored and of the time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.authority import DAY, LEAF_LIFETIME, ROOT_LIFETIME, Pair, make_leaf, make_root, term
from certs.renewal import leaves_due, over, renew_at, root_due
from state.certificates import Authority, Certificate

NAMES = ("apps.example.com", "*.apps.example.com")
NOW = 1_900_000_000 * 1_000_000


def authority(pair: Pair) -> Authority:
    counts = term(pair.certificate)
    return Authority(pair.certificate, "sealed", counts.not_before, counts.not_after)


def certificate(pair: Pair, names: tuple[str, ...] = NAMES) -> Certificate:
    counts = term(pair.certificate)
    return Certificate(names, pair.certificate, "sealed", "internal", False, counts.not_before, counts.not_after)


SIGNER = make_root(NOW)
ROOT = authority(SIGNER)
LEAF = certificate(make_leaf(SIGNER, NAMES, NOW))
BOTH = dict.fromkeys(NAMES, LEAF)


@given(st.text(max_size=20), st.integers(0, 2**50), st.integers(1_000_000, 2**50))
def test_renewal_lies_around_a_third_of_the_lifetime(chain: str, start: int, lifetime: int):
    moment = renew_at(Certificate(NAMES, chain, "", "internal", False, start, start + lifetime))
    left = (start + lifetime - moment) / lifetime
    assert 1 / 3 - 1e-5 <= left <= 1 / 3 + 1 / 20 + 1e-5


def test_those_made_together_are_not_renewed_at_once():
    moments = {renew_at(replace(LEAF, chain=str(number))) for number in range(100)}
    assert max(moments) - min(moments) > 3 * DAY
    assert renew_at(LEAF) == renew_at(replace(LEAF))


@pytest.mark.parametrize(
    ("root", "now", "due"),
    [
        (None, NOW, True),
        (ROOT, NOW, False),
        (ROOT, NOW - 3000 * DAY, False),  # our clock went back: no reason to have everybody trust another
        (ROOT, NOW + ROOT_LIFETIME - LEAF_LIFETIME - DAY, False),
        (ROOT, NOW + ROOT_LIFETIME - LEAF_LIFETIME + DAY, True),
    ],
)
def test_a_root(root: Authority | None, now: int, due: bool):
    assert root_due(root, now, LEAF_LIFETIME) is due


@pytest.mark.parametrize(
    ("stored", "names", "now", "due"),
    [
        (BOTH, NAMES, NOW, False),
        (BOTH, NAMES, NOW + 50 * DAY, False),
        (BOTH, NAMES, NOW + 61 * DAY, True),
        (BOTH, NAMES, NOW + 1000 * DAY, True),
        (BOTH, NAMES, NOW - DAY // 2, True),  # made by a clock that was ahead
        (BOTH, NAMES, NOW - 3000 * DAY, False),
        ({}, NAMES, NOW, True),
        ({NAMES[0]: LEAF}, NAMES, NOW, True),
        ({NAMES[1]: LEAF}, NAMES, NOW, True),
        (BOTH, ("apps.example.org", "*.apps.example.org"), NOW, True),
        (BOTH | {NAMES[1]: certificate(make_leaf(SIGNER, NAMES, NOW))}, NAMES, NOW, True),
        (dict.fromkeys(NAMES, certificate(make_leaf(SIGNER, NAMES[:1], NOW), NAMES[:1])), NAMES, NOW, True),
        (dict.fromkeys(NAMES, certificate(make_leaf(make_root(NOW), NAMES, NOW))), NAMES, NOW, True),
    ],
)
def test_leaves(stored: dict[str, Certificate | None], names: tuple[str, ...], now: int, due: bool):
    assert leaves_due(ROOT, stored, names, now) is due


def test_the_end():
    assert not over(LEAF, LEAF.not_after - 1)
    assert over(LEAF, LEAF.not_after)
