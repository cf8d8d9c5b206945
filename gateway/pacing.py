"""How many new connections a replica is given at a time: a slow start, as TCP has one, over its listen queue.

A wake lets go of hundreds of requests at once, and Python's own `http.server` has room for five that nobody has
accepted yet. Linux drops the SYN of one too many and sends it again after a second. So a replica starts with a few
connections that have not settled. One settles with its first byte of a response, which proves that it was accepted,
or after 5 ms: a slow answerer (an LLM) proves nothing for seconds. Each that settles opens the window by one, which
doubles it from round to round. A SYN without an answer closes it; from half of what it was then it opens slowly.

Pure: the caller counts, connects and reads the clock. Times in seconds.
"""

from __future__ import annotations

from typing import Final

_FIRST: Final = 2.0  # at the start and after a failure; every worker has its own
_WIDEST: Final = 128.0  # so that one wake doesn't keep the loop from everything else
_PATIENCE: Final = 0.025  # with a SYN, twice as long after each in vain
_LONGEST_PATIENCE: Final = 1.0  # the kernel sends it again after that itself


class Pacing:
    """Of one replica in this worker."""

    __slots__ = ("_handshake", "_stalled_at", "_threshold", "_vain", "unsettled", "window")

    def __init__(self) -> None:
        self.window = _FIRST
        self.unsettled = 0  # connections on the way, or too young to be trusted
        self._threshold = _WIDEST  # up to here the window opens fast
        self._stalled_at = -1.0
        self._handshake = 0.0
        self._vain = 0  # bursts of SYNs without an answer, in a row

    def may_connect(self) -> bool:
        """Whether there is room for one more."""
        return self.unsettled < int(self.window)

    def began(self) -> None:
        self.unsettled += 1

    def connected(self, took: float) -> None:
        """The replica's kernel has answered within `took`. It counts until it has settled."""
        self._handshake = took
        self._vain = 0

    def settled(self) -> None:
        """It was accepted, or has had the time to be."""
        self.unsettled -= 1
        if self.window < self._threshold:
            self.window += 1.0
        elif self.window < _WIDEST:
            self.window += 1.0 / self.window

    def patience(self) -> float:
        """How long to wait for the answer to a SYN; the same for all, so that nobody overtakes."""
        return min(_PATIENCE * 2.0 ** min(self._vain, 8), _LONGEST_PATIENCE) + 4.0 * self._handshake

    def stalled(self, began: float, now: float) -> None:
        """A SYN sent at `began` had no answer, and is sent anew. Those of one burst count as one."""
        if began > self._stalled_at:
            self._stalled_at = now
            self._vain += 1
            self._threshold = max(self.window / 2.0, 1.0)
            self.window = 1.0

    def failed(self) -> None:
        """No connection at all: begin anew."""
        self.unsettled -= 1
        self.window = _FIRST
        self._threshold = _WIDEST

    def __repr__(self) -> str:
        return f"<Pacing {self.unsettled}/{self.window:.1f}>"
