"""When a failed order is tried again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.backoff import FIRST, LONGEST, LONGEST_ASKED, retry_at
from certs.budget import DAY, HOUR, MINUTE
from state.certificates import Certificate

NOW = 1_900_000_000 * 1_000_000
SECOND = 1_000_000


def lasting(lifetime: int, left: int) -> Certificate:
    return Certificate(("a.test",), "chain", "sealed", "ca", True, NOW + left - lifetime, NOW + left)


@given(st.text(max_size=20), st.integers(1, 10_000))
def test_it_doubles_up_to_half_a_day_with_jitter(name: str, failures: int) -> None:
    pause = retry_at(name, failures, NOW) - NOW
    usual = min(FIRST * 2 ** min(failures - 1, 20), LONGEST)
    assert usual * 0.75 - 1 <= pause <= usual
    assert retry_at(name, failures, NOW) == NOW + pause


def test_those_that_failed_together_are_not_tried_together() -> None:
    assert len({retry_at(f"{number}.test", 3, NOW) for number in range(100)}) > 90


@given(st.floats(0, 1e9), st.integers(1, 20))
def test_the_word_of_the_ca_counts_up_to_a_week(seconds: float, failures: int) -> None:
    hurried = lasting(15 * SECOND, 2 * SECOND)
    pause = retry_at("a.test", failures, NOW, asked=seconds, certificate=hurried) - NOW
    assert min(seconds * SECOND - 1, LONGEST_ASKED) <= pause <= LONGEST_ASKED
    assert pause <= max(seconds * SECOND, SECOND) + MINUTE // 4


@pytest.mark.parametrize(
    ("lifetime", "left", "longest"),
    [
        (90 * DAY, 30 * DAY, LONGEST),
        (6 * DAY, 2 * DAY, 5 * HOUR),
        (6 * DAY, 5 * HOUR, 30 * MINUTE),
        (6 * DAY, -DAY, 30 * MINUTE),
        (15 * SECOND, 5 * SECOND, SECOND),
        (15 * SECOND, -5 * SECOND, SECOND),
    ],
)
def test_the_shorter_a_certificate_lasts_the_greater_the_haste(lifetime: int, left: int, longest: int) -> None:
    assert SECOND <= retry_at("a.test", 20, NOW, certificate=lasting(lifetime, left)) - NOW <= longest
