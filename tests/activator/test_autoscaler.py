"""The autoscaler's decisions, and what holds for all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activator.autoscaler import Memory, decide
from activator.signals import Averages, Signals, Spec

SPEC = Spec(min_replicas=0, max_replicas=10, target_concurrency=10, scale_down_delay=60, idle_timeout=300)


def signals(level: float, *, panic: float | None = None, ready: int = 1, **more: bool) -> Signals:
    return Signals(level > 0, Averages(level, level if panic is None else panic), ready, **more)


def desired(spec: Spec, told: Signals, memory: Memory, now: float = 1000.0) -> int:
    return decide(spec, told, memory, now).desired


def test_whoever_is_held_wakes_one() -> None:
    decision = decide(SPEC, Signals(True, Averages(), ready=0), Memory(0, 0.0), 1000.0)
    assert (decision.desired, decision.reason) == (1, "a request is waiting")


def test_what_the_averages_remember_wakes_nobody() -> None:
    assert desired(SPEC, Signals(False, Averages(50.0, 0.0), ready=0), Memory(0, 0.0)) == 0


@pytest.mark.parametrize(("level", "count"), [(0.1, 1), (10, 1), (10.1, 2), (35, 4), (1000, 10)])
def test_up_at_once_by_the_target(level: float, count: int) -> None:
    assert desired(SPEC, signals(level, panic=0), Memory(1, 999.0)) == count


def test_panic_rules_and_nothing_goes_down_while_it_lasts() -> None:
    memory = Memory(2, 1000.0)
    decision = decide(SPEC, signals(15, panic=80, ready=2), memory, 1000.0)
    assert (decision.desired, decision.reason) == (8, "80.0 requests at once over 6 s")
    later = decision.memory
    for now in range(1001, 1060):
        later = decide(SPEC, signals(5, panic=5, ready=8), later, float(now)).memory
        assert later.desired == 8
    for now in range(1060, 1119):
        later = decide(SPEC, signals(5, panic=5, ready=8), later, float(now)).memory
        assert later.desired == 8  # from here on the delay runs
    assert decide(SPEC, signals(5, panic=5, ready=8), later, 1125.0).desired == 4


def test_down_by_half_of_what_is_too_many_after_each_delay_and_not_to_zero() -> None:
    memory, counts = Memory(10, 0.0), {}
    for now in range(0, 400, 10):
        memory = decide(SPEC, signals(1, panic=0), memory, float(now)).memory
        counts[now] = memory.desired
    assert [counts[now] for now in (0, 50, 60, 110, 120, 180, 240, 300, 390)] == [10, 10, 5, 5, 3, 2, 1, 1, 1]


def test_a_step_down_leaves_what_was_asked_for_during_the_delay() -> None:
    memory = Memory(10, 0.0)
    for now, level in ((0.0, 10.0), (20.0, 78.0), (40.0, 10.0), (60.0, 10.0)):
        memory = decide(SPEC, signals(level, panic=0), memory, now).memory
    assert memory.desired == 9
    assert decide(SPEC, signals(10, panic=0), memory, 120.0).desired == 5


def test_to_zero_after_the_idle_timeout_only() -> None:
    idle = Signals(False, Averages(), ready=1)
    memory = Memory(1, active_at=700.5)
    assert desired(SPEC, idle, memory) == 1
    slept = decide(SPEC, idle, memory, 1000.5)
    assert (slept.desired, slept.reason) == (0, "no request for 300 s")
    assert desired(replace(SPEC, min_replicas=1), idle, memory, 9999.0) == 1


def test_silence_of_a_worker_is_not_idleness() -> None:
    idle = Signals(False, Averages(), ready=3, complete=False)
    memory = Memory(3, active_at=0.0)
    for now in range(1000, 2000, 50):
        memory = decide(SPEC, idle, memory, float(now)).memory
        assert memory.desired == 3


def test_a_changed_maximum_counts_at_once() -> None:
    assert desired(replace(SPEC, max_replicas=2), signals(90), Memory(8, 999.0)) == 2


LEVELS = st.floats(0, 1e5)
SPECS = st.builds(
    lambda low, more, target, delay, idle, *targets: Spec(low, max(1, low + more), target, delay, idle, *targets),
    st.integers(0, 5),
    st.integers(0, 20),
    st.integers(1, 200),
    st.integers(0, 120),
    st.integers(1, 600),
    st.none() | st.floats(0.1, 1000),
    st.none() | st.floats(0.1, 60),
    st.none() | st.integers(10, 95),
)
SIGNALS = st.builds(
    Signals,
    st.booleans(),
    st.builds(Averages, LEVELS, LEVELS),
    st.integers(0, 25),
    st.booleans(),
    st.none() | st.builds(Averages, LEVELS, LEVELS),
    st.integers(0, 1000),
    st.none() | st.floats(0, 600),
    st.none() | st.floats(0, 100),
)


@given(SPECS, st.lists(st.tuples(st.floats(0, 30), SIGNALS), max_size=60))
def test_the_laws(spec: Spec, told: list[tuple[float, Signals]]) -> None:
    now, memory, last_down = 0.0, Memory(spec.min_replicas, 0.0), float("-inf")
    for pause, signal in told:
        now += pause
        before, memory = memory, decide(spec, signal, memory, now).memory
        assert spec.min_replicas <= memory.desired <= spec.max_replicas
        if signal.busy:
            assert memory.desired >= 1
        if memory.desired == 0 and before.desired > 0:
            assert not signal.busy
            assert signal.complete
            assert now - before.active_at >= spec.idle_timeout
        elif memory.desired < before.desired:
            assert memory.desired >= before.desired // 2
            assert signal.complete
            assert memory.panic_until is None
            assert now - last_down >= spec.scale_down_delay
            last_down = now


@given(SPECS, st.lists(st.tuples(st.floats(0, 30), SIGNALS), max_size=60))
def test_whoever_is_idle_sleeps_whatever_its_gpus_do(spec: Spec, told: list[tuple[float, Signals]]) -> None:
    now, memory = 0.0, Memory(spec.max_replicas, 0.0)
    for pause, signal in told:
        now += pause
        memory = decide(spec, replace(signal, busy=False, complete=True), memory, now).memory
        if now >= spec.idle_timeout:
            assert memory.desired == spec.min_replicas or spec.min_replicas > 0


@given(SPECS, SIGNALS, st.integers(1, 20), st.data())
def test_more_load_never_means_fewer(spec: Spec, signal: Signals, desired: int, data: st.DataObject) -> None:
    """Each signal alone, from the same memory."""

    def grown(level: float | None) -> float | None:
        return None if level is None else level + data.draw(st.floats(0, 100))

    more = replace(signal, queue_delay=grown(signal.queue_delay), gpu_utilization=grown(signal.gpu_utilization))
    memory = Memory(desired, 1000.0)
    assert decide(spec, more, memory, 1000.0).desired >= decide(spec, signal, memory, 1000.0).desired
    more = replace(signal, concurrency=Averages(signal.concurrency.stable + 1, signal.concurrency.panic + 1))
    assert decide(spec, more, memory, 1000.0).desired >= decide(spec, signal, memory, 1000.0).desired


@settings(max_examples=50)
@given(SPECS, st.floats(0.01, 2000), st.floats(0, 4000), st.integers(0, 20))
def test_constant_load_comes_to_rest(spec: Spec, concurrency: float, gpu_work: float, ready: int) -> None:
    """What a count does to the signals never asks for another count: GPUs share the work, and nothing is held."""
    memory, now, counts = Memory(max(spec.min_replicas, min(ready, spec.max_replicas), 1), 0.0), 0.0, []
    for _ in range(60):
        now += max(2.0, spec.scale_down_delay)
        gpu = min(100.0, gpu_work / memory.desired)
        told = Signals(True, Averages(concurrency, concurrency), memory.desired, gpu_utilization=gpu)
        memory = decide(spec, told, memory, now).memory
        counts.append(memory.desired)
    assert len(set(counts[-20:])) == 1
