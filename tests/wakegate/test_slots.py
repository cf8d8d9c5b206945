"""A place that is kept filled: real processes, a clock of our own."""

import os
import signal
import subprocess

import pytest

from wakegate.children import Process
from wakegate.slots import Slot


class Sleepers:
    """Starts `sleep`; knows all that it started."""

    def __init__(self) -> None:
        self.now = 0.0
        self.started: list[Process] = []

    def start(self) -> Process:
        process = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL)
        self.started.append(Process(process, "sleep", self.now))
        return self.started[-1]

    def end(self, process: Process) -> None:
        process.kill()
        process.ended(os.waitpid(process.pid, 0)[1])
        assert process.status == -signal.SIGKILL


@pytest.fixture
def sleepers():
    sleepers = Sleepers()
    yield sleepers
    for process in sleepers.started:
        if process.status is None:
            sleepers.end(process)


def test_it_is_filled_once_and_again_with_backoff(sleepers):
    slot = Slot("sleep", sleepers.start)
    slot.fill(0.0)
    slot.fill(0.0)
    assert len(sleepers.started) == 1
    delays = []
    for _ in range(4):
        assert slot.process is not None
        sleepers.end(slot.process)
        delays.append(slot.ended(slot.process, sleepers.now))
        slot.fill(sleepers.now + delays[-1] - 0.01)
        assert slot.process is None
        sleepers.now += delays[-1]
        slot.fill(sleepers.now)
    assert delays == [0, 0.5, 1, 2]
    assert not slot.hopeless
    sleepers.end(slot.process)
    slot.ended(slot.process, sleepers.now)
    assert slot.hopeless


def test_who_was_told_to_leave_is_no_failure(sleepers):
    slot = Slot("sleep", sleepers.start)
    slot.fill(0.0)
    slot.process.leave(5.0)
    sleepers.end(slot.process)
    assert slot.ended(slot.process, 1.0) == 0
    assert slot.failures == 0


def test_a_rolling_replacement(sleepers):
    slot = Slot("sleep", sleepers.start)
    slot.fill(0.0)
    first = slot.process
    second = slot.fill_beside()
    assert slot.holds(first)
    assert slot.holds(second)
    assert slot.replace() is first
    assert slot.process is second
    assert not slot.holds(first)


def test_an_incoming_process_that_ends_leaves_the_present_one(sleepers):
    slot = Slot("sleep", sleepers.start)
    slot.fill(0.0)
    first, second = slot.process, slot.fill_beside()
    sleepers.end(second)
    slot.ended(second, 0.0)
    assert (slot.process, slot.incoming) == (first, None)


def test_the_present_one_that_ends_is_succeeded_by_the_incoming(sleepers):
    slot = Slot("sleep", sleepers.start)
    slot.fill(0.0)
    first, second = slot.process, slot.fill_beside()
    sleepers.end(first)
    slot.ended(first, 0.0)
    assert slot.process is second
    assert slot.incoming is None


def test_a_start_that_is_not_possible_is_a_failure():
    def start() -> Process:
        raise OSError("no more processes")

    slot = Slot("sleep", start)
    with pytest.raises(OSError, match="no more processes"):
        slot.fill(0.0)
    assert [slot.failed(0.0), slot.failed(0.0)] == [0, 0.5]


def test_replaced_ones_are_known_until_they_end_and_surplus_beyond_two(sleepers):
    slot = Slot("sleep", sleepers.start)
    slot.fill(0.0)
    for generation in range(1, 4):
        assert len(slot.replaced) == generation - 1
        slot.fill_beside()
        slot.replace()
    first, second, third, present = sleepers.started
    assert slot.process is present
    assert slot.replaced == [first, second, third]
    assert slot.surplus() == [first, second], "one place is needed for the next"
    sleepers.end(first)
    assert slot.replaced == [second, third]
    assert slot.surplus() == [second]
    sleepers.end(second)
    assert slot.surplus() == []


def test_a_replacement_of_nobody_leaves_nobody(sleepers):
    slot = Slot("sleep", sleepers.start)
    slot.fill_beside()
    assert slot.replace() is None
    assert slot.replaced == []
