"""Knative's algorithm as its source has it."""

from __future__ import annotations

from simulate.knative import Config, Knative
from simulate.policies import Report

CONFIG = Config(concurrency=10, max_replicas=100)


def heard(*means: float) -> Knative:
    policy = Knative(CONFIG)
    for second, mean in enumerate(means):
        policy.hear(Report(mean=mean), float(second))
    return policy


def test_a_request_at_zero_wakes_one() -> None:
    assert Knative(CONFIG).desired(Report(held=1), 0, 0, 0.0) == 1


def test_seventy_percent_of_the_concurrency_is_the_target() -> None:
    assert heard(*[7.0] * 60).desired(Report(7), 1, 1, 60.0) == 1
    assert heard(*[7.1] * 60).desired(Report(7), 1, 1, 60.0) == 2
    assert heard(*[70.0] * 60).desired(Report(70), 8, 8, 60.0) == 10


def test_twice_what_is_ready_is_a_panic_in_which_nothing_goes_down() -> None:
    policy = heard(*[7.0] * 54, *[70.0] * 6)
    assert policy.desired(Report(70), 1, 1, 60.0) == 10
    for second in range(60, 120):
        policy.hear(Report(mean=7.0), float(second))
    assert policy.desired(Report(7), 10, 10, 119.0) == 10
    assert policy.desired(Report(7), 10, 10, 121.0) == 5  # half of what is ready at most


def test_to_zero_after_a_silent_window_and_the_grace() -> None:
    policy = heard(7.0, *[0.0] * 59)
    assert policy.desired(Report(), 1, 1, 60.0) == 1
    policy.hear(Report(), 60.0)
    assert policy.desired(Report(), 1, 1, 61.0) == 1
    assert policy.desired(Report(), 1, 1, 90.0) == 1
    assert policy.desired(Report(), 1, 1, 91.0) == 0
