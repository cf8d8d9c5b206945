"""Whether a replica is in the choice: what its failures do to it, and what lets it back. Pure, one per replica.

As the design of every gateway that ejects (Envoy's outlier detection, HAProxy's `observe layer7`, nginx's `max_fails`):

- A connect that fails takes it out at once: nothing listens there, and nobody can be served (`DOWN`). 0.25 s doubling
  to 4 s, until a connect succeeds.
- Requests that fail before their final head, five in a row, eject it (`EJECTED`): it closed or reset the connection,
  sent what is no HTTP, or nothing within the response time-out. 0.25 s doubling to 30 s with each time that follows;
  ten seconds of good service take one doubling back.
- An answer is no failure, whatever its status. A 500 for one client's bad request says nothing of the next request, a
  502 or 504 of an application is about the service behind it, and a 503 is its own way of saying that it is busy; who
  judges the application itself is control, with its health checks.
- When the time is over, one request at a time is let through on probation. If that succeeds the replica is back, with a
  slow start; if it fails, it is out for longer; if its client leaves, the next one tries.

What `EJECTED` means for all replicas together (at most half of them; never the last) is decided in `balance.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.exchange import Exchange

# States.
GOOD: Final = 0
DOWN: Final = 1  # a connect failed
EJECTED: Final = 2  # it is reached, and fails

# Events.
UNREACHED: Final = 0  # a connect failed
REACHED: Final = 1  # a connect succeeded
EJECT: Final = 2  # a request failed, once too often
ANSWERED: Final = 3  # a request on probation had its final head

TRANSITIONS: Final = {
    (GOOD, UNREACHED): DOWN,
    (GOOD, EJECT): EJECTED,
    (DOWN, UNREACHED): DOWN,
    (DOWN, REACHED): GOOD,
    (EJECTED, UNREACHED): DOWN,
    (EJECTED, EJECT): EJECTED,
    (EJECTED, ANSWERED): GOOD,
}

IN_A_ROW: Final = 5  # requests that fail before the replica is ejected, as in Envoy
WARMING: Final = 10.0  # seconds of slow start
_FIRST: Final = 0.25  # seconds out, doubling
_LONGEST_DOWN: Final = 4.0  # held requests may wait for it alone
_LONGEST_EJECTED: Final = 30.0
_MOST_DOUBLINGS: Final = 7  # 32 s
_FORGIVEN: Final = 10.0  # seconds of service that take back one doubling
_COURAGE: Final = 1.0  # seconds for which the probation waits for a request that can be sent again


class Health:
    """Mutable. `now`: seconds of `time.monotonic`."""

    __slots__ = ("doublings", "failures", "health", "probe", "returned", "until", "warm_at")

    def __init__(self) -> None:
        self.health = GOOD
        self.failures = 0  # in a row: connects if it is down, else requests
        self.until = 0.0  # when its probation begins, if it is not good
        self.probe: Exchange | None = None  # the request that is on probation
        self.warm_at = 0.0  # until then it starts slowly
        self.doublings = 0  # of the time of the next ejection
        self.returned = 0.0  # when it was let back

    def due(self, now: float) -> bool:
        """While it is not good: may one more request try it?"""
        return self.until <= now and self.probe is None

    def daring(self, now: float) -> bool:
        """While it is due: has it waited long enough for a request that can be sent again, so that any will do?

        A replica that is down gets no byte before a connect has succeeded.
        """
        return self.health == DOWN or self.until + _COURAGE <= now

    def unreached(self, now: float) -> bool:
        """A connect failed. True: this took it out of the choice."""
        if self.health == DOWN and now < self.until:
            return False  # begun before it was known to be down
        was_good = self.health == GOOD
        if self.health != DOWN:
            self.failures = 0
        self.health = TRANSITIONS[self.health, UNREACHED]
        self.until = now + min(_FIRST * 2.0 ** min(self.failures, _MOST_DOUBLINGS), _LONGEST_DOWN)
        self.failures += 1
        return was_good

    def reached(self, now: float) -> None:
        """A connect succeeded: whatever it was that failed to listen is over."""
        if self.health == DOWN:
            self.health = TRANSITIONS[self.health, REACHED]
            self._back(now)

    def renewed(self) -> None:
        """Somebody who knows says that it is well."""
        self.health = GOOD
        self.failures = 0
        self.doublings = 0

    def failed(self, now: float, may_eject: bool, probing: bool) -> bool:
        """A request that had reached it got no final head. True: the replica is ejected, or stays so for longer.

        `probing`: it was the one on probation; what others do that were sent before the ejection changes nothing.
        """
        if self.health == GOOD:
            self.failures += 1
            if self.failures < IN_A_ROW or not may_eject:
                return False
        elif self.health == DOWN or not probing:
            return False
        self._forgive(now)
        self.health = TRANSITIONS[self.health, EJECT]
        self.until = now + min(_FIRST * 2.0**self.doublings, _LONGEST_EJECTED)
        self.doublings = min(self.doublings + 1, _MOST_DOUBLINGS)
        return True

    def answered(self, now: float, probing: bool) -> bool:
        """A request had its final head. True: this lets the replica back."""
        if self.health == GOOD:
            self.failures = 0
        elif self.health == EJECTED and probing:
            self.health = TRANSITIONS[self.health, ANSWERED]
            self._back(now)
            return True
        return False

    def _back(self, now: float) -> None:
        self.failures = 0
        self.probe = None  # it may go on for long; the next ejection has its own
        self.until = 0.0
        self.returned = now
        self.warm_at = now + WARMING

    def _forgive(self, now: float) -> None:
        if self.health == GOOD:
            self.doublings = max(0, self.doublings - int((now - self.returned) / _FORGIVEN))
