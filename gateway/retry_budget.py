"""How many requests of a service may be sent again: a fifth of those of the last ten seconds, and always 3 a second.

A retry helps when few requests fail. When many do, it multiplies the load of replicas that are failing under it, as do
the clients' own. So retries are bounded by a share of the traffic rather than by a number per request alone: Finagle's
`RetryBudget` (20 % over 10 s, and at least 10 a second), Linkerd's (20 %, 10 s, 10 a second), Envoy's `retry_budget`
(20 %, at least 3 at once). There the least comes on top of the share; here it counts in it, so that a busy service has
no more than its fifth.

Not asked for (`dispatch.py`): a connect that failed, because no byte has reached a replica and the failure takes that
replica out of the choice, which bounds them better (`health.py`: those in the air, `pacing.py`, then one per backoff,
and the hold time-out for each request); and the one fresh connection after a stale one, because it happens at most once
per request and uses up an idle connection.

Pure, one per service and worker. Times in seconds of one clock.
"""

from __future__ import annotations

from typing import Final

_SHARE: Final = 0.2
_RESERVE: Final = 3.0  # retries a second that are always allowed; so many at once
_SLICES: Final = 10  # of a second each


class RetryBudget:
    """Add to `requests` for each request that begins, after `turn_over` if the slice of time is over."""

    __slots__ = ("_asked_at", "_at", "_past_requests", "_past_retries", "_reserve", "_retries", "requests", "turn")

    def __init__(self) -> None:
        self.turn = 0.0  # when the slice that is being counted ends
        self.requests = 0  # in it
        self._retries = 0  # in it
        self._at = 0
        self._past_requests: list[int] = []  # the slices before, a ring; empty as long as there were none
        self._past_retries: list[int] = []
        self._reserve = _RESERVE
        self._asked_at = 0.0

    def turn_over(self, now: float) -> None:
        """The slice is over: begin the one that `now` is in."""
        passed = int(now - self.turn) + 1
        if passed >= _SLICES or not self._past_requests:
            self._past_requests = [0] * (_SLICES - 1)
            self._past_retries = [0] * (_SLICES - 1)
        if passed >= _SLICES:
            self.turn = now + 1.0
        else:
            self._shift(self.requests, self._retries)
            for _ in range(passed - 1):
                self._shift(0, 0)
            self.turn += float(passed)
        self.requests = 0
        self._retries = 0

    def _shift(self, requests: int, retries: int) -> None:
        self._past_requests[self._at] = requests
        self._past_retries[self._at] = retries
        self._at = (self._at + 1) % (_SLICES - 1)

    def withdraw(self, now: float) -> bool:
        """One more retry, if there is one left. False: the request ends with its failure."""
        if now >= self.turn:
            self.turn_over(now)
        self._reserve = min(_RESERVE, self._reserve + (now - self._asked_at) * _RESERVE)
        self._asked_at = now
        retries = self._retries + sum(self._past_retries)
        requests = self.requests + sum(self._past_requests)
        if self._reserve < 1.0 and retries + 1 > _SHARE * requests:
            return False
        self._reserve = max(0.0, self._reserve - 1.0)
        self._retries += 1
        return True

    def __repr__(self) -> str:
        requests, retries = self.requests + sum(self._past_requests), self._retries + sum(self._past_retries)
        return f"<RetryBudget {retries} of {requests}, reserve {self._reserve:.1f}>"
