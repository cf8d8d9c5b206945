"""What a worker does with the slots that it owns of one service: use, keep, give back, ask for more. Pure.

A slot is the right to have one request at one replica of a service with `concurrency`. The store has who owns which
(`state/slots.py`); here is the worker's side, and these are its laws:

- What is in flight at a replica never rises above what is owned there. A slot that is given back is not used any more
  from that moment on, whenever the store hears of it.
- Only one message is under way at a time, and each says everything, so that any may be lost; what its answer says is
  exact, less what was given back meanwhile. Others only ever add to that: what a hint says is exact, too, if it is of
  the last message, so that a slot is used as soon as it is given.
- Who has not heard of the store for so long that others may be given what it owns (`fence`) sends nothing by it, but to
  the replicas on its own node, which are left to it, until the store has answered.
- A slot that nobody here needs is given to who waits elsewhere at once; one that becomes free goes to whoever waited
  longest, here or elsewhere. While nobody waits elsewhere, all are kept: then a request costs the store nothing.

Times are seconds of a clock that never goes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from state.slots import MOST_WANTED, Answer, Hint, Message

ASK: Final = 0.2  # until a want that was told is told again
CLEAR: Final = 0.02  # after a message, until it is told that nothing is wanted any more
RETRY: Final = 0.2  # after a message that the store did not answer


@dataclass(frozen=True, slots=True)
class View:
    """What the worker sees of the service now.

    `version`, `limit` (0: none), `ready` (replica ids): by the newest backend. `known`: those that are listed, the
    draining ones too. `busy`: requests at a replica, also those that were aborted and that it may still work on.
    `shun`: ready replicas that no request would be sent to now. `held`: waiting requests, the first of them for
    `waited` seconds. `home`: replicas on the worker's own node.
    """

    version: int
    limit: int
    ready: tuple[str, ...] = ()
    known: frozenset[str] = frozenset()
    busy: Mapping[str, int] = field(default_factory=dict)
    shun: frozenset[str] = frozenset()
    held: int = 0
    waited: float = 0.0
    home: frozenset[str] = frozenset()


class Account:
    """Mutable; `owned` by replica, zeros left out, is always the same dict.

    The order of calls: `settle` whenever a slot may have become free and before it is used, for a request that came or
    ended only while `lending`; `next` when all that could be sent was; `answered` or `failed` once for each message
    that `next` gave.
    """

    __slots__ = (
        "_asked_at",
        "_ending",
        "_excess",
        "_foreign",
        "_foreign_since",
        "_given",
        "_granted",
        "_limit",
        "_look",
        "_offered",
        "_over",
        "_retry_at",
        "_seq",
        "_told",
        "_version",
        "fenced",
        "leaving",
        "owned",
        "recalls",
        "run",
        "waiting",
    )

    def __init__(self) -> None:
        self.owned: dict[str, int] = {}
        self.waiting = False  # for an answer
        self.recalls = 0  # slots that were given to others who waited
        self.run = ""  # of the store that answered last
        self.leaving = False  # the worker ends
        self.fenced = False  # cut off for long: only what is in flight, and what is at home, is ours
        self._limit = 0  # as applied
        self._version = 0  # as told
        self._foreign = 0  # slots that others wait for
        self._foreign_since = 0.0
        self._over: dict[str, int] = {}  # by replica, slots that are to be given back for the limit is lower now
        self._seq = 0  # of the last message; 0: hints are not to be believed
        self._granted: Mapping[str, int] = {}  # what the last hint since that message says that we own
        self._offered: dict[str, int] = {}  # given back since that message
        self._ending = False  # something is in flight at a replica that is not listed any more
        self._excess = False  # more is owned of a replica than the limit allows, all of it in use
        self._given = False  # something was given back that no message has said
        self._look = False  # the store may know something that we don't
        self._told = 0  # what we want, as the store has it
        self._asked_at = float("-inf")
        self._retry_at = float("-inf")

    @property
    def lending(self) -> bool:
        """Whether there may be something to give back when a request comes or ends: then `settle` is to be called.

        As long as there is not, only a change of the service, an answer or a hint can make `settle` do anything.
        """
        return self._foreign > 0 or bool(self._over) or self._ending or self._excess or self.leaving or self.fenced

    @property
    def said(self) -> bool:
        """Whether the store knows of everything that was given back."""
        return not self.waiting and not self._given

    def settle(self, view: View, now: float) -> bool:
        """Give back what others need more. True: `owned` has changed."""
        before = sum(self.owned.values())
        if view.limit and not self._limit:
            self._begin(view)
        self._limit = view.limit
        self._drop(view)
        self._shed(view)
        if self._foreign:
            self._lend(view, now)
        return sum(self.owned.values()) != before

    def _begin(self, view: View) -> None:
        """A limit is set on a service that had none: what is in flight counts as owned."""
        self.distrust()
        self.owned.clear()
        self.owned.update({replica: count for replica, count in view.busy.items() if count})
        self._look = bool(self.owned)

    def _drop(self, view: View) -> None:
        """What can't be used any more."""
        for replica in list(self.owned):
            if not view.limit:
                self._give(replica, self.owned[replica])
            elif self.leaving or replica not in view.known or (self.fenced and replica not in view.home):
                self._give(replica, self._idle(view, replica))
        self._ending = any(replica not in view.known for replica in self.owned)

    def _shed(self, view: View) -> None:
        """What the limit does not allow any more."""
        for replica in list(self.owned):
            idle, over = self._idle(view, replica), self._over.get(replica, 0)
            count = min(idle, max(over, self.owned[replica] - view.limit))
            if count > 0:
                self._give(replica, count)
                self._over[replica] = over - count
        self._over = {replica: over for replica, over in self._over.items() if over > 0 and replica in self.owned}
        self._excess = any(count > view.limit for count in self.owned.values())

    def _lend(self, view: View, now: float) -> None:
        """What others wait for: all that nobody waits for here, and one at a time if they have waited longer."""
        idle = {replica: self._idle(view, replica) for replica in view.ready if replica in self.owned}
        useful = sum(count for replica, count in idle.items() if replica not in view.shun)
        if view.held and useful and self._foreign_since < now - view.waited:
            useful -= 1
        count = min(sum(idle.values()) - min(useful, view.held), self._foreign)
        for replica in sorted(idle, key=lambda one: (one not in view.shun, -idle[one])):
            part = min(idle[replica], count)
            if part > 0:
                self._give(replica, part)
                count -= part
                self._foreign -= part
                self.recalls += part

    def _idle(self, view: View, replica: str) -> int:
        return max(0, self.owned[replica] - view.busy.get(replica, 0))

    def _give(self, replica: str, count: int) -> None:
        if count <= 0:
            return
        left = self.owned[replica] - count
        if left:
            self.owned[replica] = left
        else:
            del self.owned[replica]
        self._offered[replica] = self._offered.get(replica, 0) + count
        self._given = True

    def next(self, view: View, seq: int, now: float) -> Message | None:
        """The message that is to be sent now; `seq` is its number. None: there is nothing to say, or not yet."""
        if self.waiting or now < self._retry_at:
            return None
        want = self._want(view)
        if not self._due(view, want, now):
            return None
        self.waiting = True
        self._given = self._look = False
        self._seq, self._granted = seq, {}
        self._offered.clear()
        self._version, self._asked_at, self._told = view.version, now, want
        waited = int(view.waited * 1000) if want else 0
        return Message(
            seq,
            dict(self.owned),
            want,
            waited,
            view.version,
            view.limit,
            view.ready,
            view.shun,
            self.leaving,
            view.home.intersection(view.ready),
        )

    def _want(self, view: View) -> int:
        if not view.limit or self.leaving or not view.ready:
            return 0
        usable = sum(self._idle(view, one) for one in view.ready if one in self.owned and one not in view.shun)
        return max(0, min(view.held - usable, MOST_WANTED))

    def _due(self, view: View, want: int, now: float) -> bool:
        if self._given or self._look:
            return True
        if want:
            return not self._told or now - self._asked_at >= ASK or view.version != self._version
        if self._told:
            return now - self._asked_at >= CLEAR
        return bool(self.owned) and view.version != self._version

    def again(self) -> float | None:
        """When `next` may have something to say although nothing happens; None: never."""
        if self.waiting:
            return None
        if self._given or self._look:
            return self._retry_at
        return max(self._retry_at, self._asked_at + CLEAR) if self._told else None

    def answered(self, answer: Answer | None, now: float) -> None:
        """None: the message was overtaken by a later one, which can't be."""
        self.waiting = False
        if answer is None:
            self._look = True
            return
        stored = {**answer.own, **self._granted}  # a hint that overtook the answer says more
        self.fenced = False
        self._own({one: max(count, answer.own.get(one, 0)) for one, count in stored.items()})
        self.run = answer.run
        self._told = answer.want
        self._foreign = answer.foreign
        self._foreign_since = now - answer.waited / 1000
        self._over = dict(answer.over)

    def _own(self, stored: Mapping[str, int]) -> None:
        """As the store has it since our last message, less what was given back since then."""
        left = {replica: count - self._offered.get(replica, 0) for replica, count in stored.items()}
        self.owned.clear()
        self.owned.update({replica: count for replica, count in left.items() if count > 0})

    def failed(self, now: float) -> None:
        """The message may have been heard, or not; what it gave back is not ours any more in either case."""
        self.waiting = False
        self._given = True
        self._retry_at = now + RETRY

    def hinted(self, hint: Hint, now: float) -> None:
        """What the store says unasked. What it gives may be used at once; soon it is told who waits here then."""
        if self.waiting or hint.own != self.owned:
            self._look = True
        if hint.seq == self._seq:
            self._granted = hint.own
            self._own(hint.own)
        self._foreign, self._foreign_since = hint.want, now - hint.waited / 1000

    def distrust(self) -> None:
        """Hints that are on their way may be about what is no more."""
        self._seq = 0

    def doubt(self) -> None:
        """The store may not know what we own: say it."""
        self._look = True

    def fence(self) -> None:
        """The store was not heard of for long: from now on `settle` gives up what is idle, but at home."""
        self.distrust()
        self.fenced = True

    def forfeit(self, busy: Mapping[str, int]) -> None:
        """Others may have been given what we owned: only what is in flight is left."""
        self.distrust()
        for replica in list(self.owned):
            self._give(replica, self.owned[replica] - busy.get(replica, 0))

    def __repr__(self) -> str:
        return f"<Account {self.owned} told={self._told} foreign={self._foreign} waiting={self.waiting}>"
