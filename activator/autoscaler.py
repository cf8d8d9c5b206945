"""How many replicas a service should have. Pure (law 5): values and `now` in, a decision out.

- Each signal asks for a count of replicas (`activator.signals`); the largest wins.
- Panic: when the averages over 6 s ask for twice what is ready, they rule, at once, and for a minute nothing goes down
  (but to zero: who was idle for the whole idle time-out has no panic left).
- Down by one step after `scale_down_delay` seconds of asking for fewer, and by the next after as many more. A step is
  half of what was too many all that time: fifty are ten within three delays. The last one goes by the idle time-out.
- To zero after `idle_timeout` seconds with nothing in flight or held, where `min_replicas` allows it and no request is
  expected (`Spec.reserve`).
- Whoever is held without a ready replica gets one.

Always within [min, max]; the last activity and every delay are on the caller's monotonic clock. Which replicas go is
decided where they are known (`activator.planning`): the least busy first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from activator.signals import Signals, Spec, Want, urgent, wanted

PANIC_FACTOR: Final = 2
PANIC_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Memory:
    """What one decision leaves to the next; times are monotonic, None = not so.

    `most`: the largest count that was asked for since `fewer_since`.
    """

    desired: int
    active_at: float
    panic_until: float | None = None
    fewer_since: float | None = None
    most: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """`reason` says why `memory.desired` is what it is, when it changed."""

    memory: Memory
    reason: str | None = None

    @property
    def desired(self) -> int:
        return self.memory.desired


def decide(spec: Spec, signals: Signals, memory: Memory, now: float) -> Decision:
    """The next decision; `memory` is the one before it."""
    memory = replace(memory, active_at=now if signals.busy else min(memory.active_at, now))
    want, hurry = wanted(spec, signals, memory.desired), urgent(spec, signals)
    if hurry.count >= PANIC_FACTOR * max(1, signals.ready):
        memory = replace(memory, panic_until=now + PANIC_SECONDS)
    if memory.panic_until is not None and now < memory.panic_until:
        want = max(hurry, want, key=lambda one: one.count)
        count = max(want.count, memory.desired)
    else:
        memory = replace(memory, panic_until=None)
        count = want.count
    # what the averages still remember wakes nobody
    count = max(count, 1) if signals.busy or memory.desired > 0 else 0
    return _step(spec, signals, memory, replace(want, count=_clamp(count, spec)), now)


def _step(spec: Spec, signals: Signals, memory: Memory, want: Want, now: float) -> Decision:
    if want.count > memory.desired:
        return Decision(replace(memory, desired=want.count, fewer_since=None), _why_more(spec, signals, memory, want))
    if memory.desired > spec.max_replicas:
        return Decision(replace(memory, desired=spec.max_replicas, fewer_since=None), "max_replicas is lower now")
    if not signals.complete:  # a missing report is not an idle one (law 2)
        return Decision(replace(memory, fewer_since=None))
    if _sleeps(spec, signals, memory, now):
        reason = f"no request for {now - memory.active_at:.0f} s"
        return Decision(replace(memory, desired=0, fewer_since=None, panic_until=None), reason)
    if want.count == memory.desired:
        return Decision(replace(memory, fewer_since=None))
    if memory.fewer_since is None:
        memory = replace(memory, fewer_since=now, most=want.count)
    return _step_down(spec, replace(memory, most=max(memory.most, want.count)), want, now)


def _step_down(spec: Spec, memory: Memory, want: Want, now: float) -> Decision:
    if memory.fewer_since is None or now - memory.fewer_since < spec.scale_down_delay:
        return Decision(memory)
    desired = (memory.desired + memory.most) // 2
    return Decision(replace(memory, desired=desired, fewer_since=now, most=want.count), want.reason)


def _why_more(spec: Spec, signals: Signals, memory: Memory, want: Want) -> str:
    if want.count == spec.min_replicas:
        return f"min_replicas is {spec.min_replicas}"
    if memory.desired == 0 and not signals.busy:
        return "requests are expected: in most weeks there were some in this hour"
    if memory.desired == 0 and want.count == 1:
        return "a request is waiting"
    return want.reason


def _sleeps(spec: Spec, signals: Signals, memory: Memory, now: float) -> bool:
    idle = not signals.busy and now - memory.active_at >= spec.idle_timeout
    return idle and spec.least == 0 and memory.desired > 0


def _clamp(wanted: int, spec: Spec) -> int:
    return max(spec.least, min(spec.max_replicas, wanted))
