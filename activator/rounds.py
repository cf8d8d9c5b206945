"""When to look at which repository: bookkeeping of rounds, a logarithmic time per step. Pure (law 5).

Each has a period of its own. Looks are spread over it from the first on, so that a thousand repositories are no
thousand processes at once, and never come to beat together. All of them share one pace: if there are too many, the
round takes longer, and each has its turn. One that fails is looked at less and less often. Times are monotonic seconds.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass
from typing import Final

LONGEST_BACKOFF: Final = 3600.0
_DOUBLINGS: Final = 10
_JITTER: Final = 0.1  # of the period, either way


@dataclass(slots=True)
class _Turn:
    """One repository. `due_at` None: it is being looked at."""

    period: float
    due_at: float | None
    failures: int = 0


class Rounds:
    """`put` what is to be looked at, `take` what is due, and say `done` of each that was taken.

    `pace`: seconds between two looks, whatever they are at.
    """

    def __init__(self, pace: float, chance: random.Random | None = None) -> None:
        self._pace = pace
        self._chance = chance or random.Random()
        self._turns: dict[str, _Turn] = {}
        self._queue: list[tuple[float, str]] = []
        self._under_way: set[str] = set()
        self._next_at = float("-inf")

    def __len__(self) -> int:
        return len(self._turns)

    def put(self, repo: str, period: float, now: float) -> None:
        """Look at it every `period` seconds, first at some moment within the next one."""
        turn = self._turns.get(repo)
        if turn is None:
            self._turns[repo] = _Turn(period, None)
            if repo not in self._under_way:  # dropped and put again while it was looked at: planned when that is done
                self._plan(repo, now + self._chance.random() * period)
        elif turn.period != period:
            longer, turn.period = period > turn.period, period
            if turn.due_at is not None and (longer or turn.due_at > now + period):
                self._plan(repo, now + self._chance.random() * period)

    def drop(self, repo: str) -> None:
        self._turns.pop(repo, None)

    def clear(self) -> None:
        self._turns.clear()
        self._queue.clear()

    def wait(self, now: float) -> float | None:
        """Seconds until the next may be taken; None: nothing waits."""
        self._skip_the_stale()
        return max(0.0, self._queue[0][0] - now, self._next_at - now) if self._queue else None

    def take(self, now: float) -> str | None:
        """One that is due, if the pace allows for one."""
        if self.wait(now) != 0.0:
            return None
        _, repo = heapq.heappop(self._queue)
        self._turns[repo].due_at = None
        self._under_way.add(repo)
        self._next_at = now + self._pace
        return repo

    def done(self, repo: str, now: float, *, failed: bool) -> None:
        """It was looked at; one that was dropped meanwhile stays so."""
        self._under_way.discard(repo)
        turn = self._turns.get(repo)
        if turn is None or turn.due_at is not None:
            return
        turn.failures = turn.failures + 1 if failed else 0
        after = turn.period * 2 ** min(max(0, turn.failures - 1), _DOUBLINGS)
        after = min(after, max(turn.period, LONGEST_BACKOFF))
        self._plan(repo, now + after * self._chance.uniform(1 - _JITTER, 1 + _JITTER))

    def _plan(self, repo: str, at: float) -> None:
        self._turns[repo].due_at = at
        heapq.heappush(self._queue, (at, repo))
        if len(self._queue) > 2 * len(self._turns) + 16:
            self._queue = [(turn.due_at, name) for name, turn in self._turns.items() if turn.due_at is not None]
            heapq.heapify(self._queue)

    def _skip_the_stale(self) -> None:
        """What was planned anew or dropped is still in the queue under its old time."""
        while self._queue:
            at, repo = self._queue[0]
            turn = self._turns.get(repo)
            if turn is not None and turn.due_at == at:
                return
            heapq.heappop(self._queue)
