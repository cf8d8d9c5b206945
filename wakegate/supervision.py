"""What the supervisor decides: when to restart, when to give a child up, who serves for whom. Pure functions.

Silence is measured on a clock of attention, not of the wall: it counts only time during which the supervisor itself
ran, so that its own stalls (SIGSTOP, a paused machine) never count against a child.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PING_INTERVAL = 0.25  # s
ADOPT_AFTER = 1.0  # s of silence after which neighbours accept for a worker
KILL_AFTER = 10.0  # s of silence after which a child is killed and replaced
KILL_UNACKNOWLEDGED = 3.0  # s, for a worker that a committed change waits for
START_PATIENCE = 60.0  # s until the first answer of a new child: it imports, on a busy machine
STEADY_AFTER = 10.0  # s of life after which a child's earlier failures are forgotten
LONGEST_BACKOFF = 30.0  # s
RELOAD_LIMIT = 3600.0  # s for which a worker that a reload replaced may finish what it has: tunnels, streams
GENERATIONS = 2  # workers at most that were replaced and still do so, per place
ENDING_MARGIN = 20.0  # s for control beyond drain times: adoption, commits, acknowledgements, the replicas' grace
HOPELESS_STARTS = 5  # failures in a row, before a child was ever ready, after which `serve` gives up


def attended(elapsed: float) -> float:
    """How much of the time since the last tick counts: a tick that comes late was our own stall."""
    return min(elapsed, 2 * PING_INTERVAL)


def backoff(failures: int) -> float:
    """Seconds before a restart after `failures` in a row: the first is immediate, then 0.5 s doubling to 30 s."""
    return 0.0 if failures <= 1 else min(LONGEST_BACKOFF, 0.5 * 2.0 ** (min(failures, 16) - 2))


def finishing_time(drained: float, drain_timeout: float, now: float) -> float:
    """Seconds that a worker told to drain at `drained` still has when its place is needed for a younger one."""
    return max(0.0, drained + drain_timeout - now)


def ending_time(drain_timeout: float, *, evacuating: bool) -> float:
    """Seconds that control may take to end the replicas; `evacuating`: once other nodes have them, and what was in
    flight at ours has ended."""
    return 2 * drain_timeout + ENDING_MARGIN if evacuating else max(drain_timeout, ENDING_MARGIN)


def failures_after(failures: int, lived: float, was_ready: bool) -> int:
    """The count of failures in a row after one more end of a child that lived for `lived` seconds."""
    return 1 if was_ready and lived >= STEADY_AFTER else failures + 1


@dataclass(frozen=True, slots=True)
class Hearing:
    """What the supervisor has heard of a child: `silence` in attended seconds since its last answer (or its start)."""

    silence: float
    answered: bool  # at least once
    ready: bool


def accepts(hearing: Hearing | None) -> bool:
    """Whether a worker can be trusted to accept on its own sockets; None: there is no process."""
    return hearing is not None and hearing.ready and hearing.silence < ADOPT_AFTER


def lost(hearing: Hearing, *, waited_for: bool) -> bool:
    """Whether a child is to be killed and replaced. `waited_for`: a committed change lacks its acknowledgement."""
    if not hearing.answered:
        return hearing.silence >= START_PATIENCE
    return hearing.silence >= (KILL_UNACKNOWLEDGED if waited_for else KILL_AFTER)


def adoptions(accepting: Sequence[bool]) -> list[tuple[int, ...]]:
    """For each worker the others whose sockets it accepts on as well, by index.

    Both nearest accepting neighbours on the ring serve a worker that doesn't accept, so that one of them may fall
    silent too. A worker that doesn't accept is given nothing new: it may not be listening to us either.
    """
    count = len(accepting)
    adopted: list[set[int]] = [set() for _ in range(count)]
    for index in range(count):
        if accepting[index]:
            continue
        for step in (1, -1):
            neighbours = ((index + step * distance) % count for distance in range(1, count))
            neighbour = next((other for other in neighbours if accepting[other]), None)
            if neighbour is not None:
                adopted[neighbour].add(index)
    return [tuple(sorted(numbers)) for numbers in adopted]
