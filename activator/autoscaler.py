"""How many replicas a service should have. Pure (law 5): values and `now` in, a decision out.

- Concurrency: what is in flight and held, averaged over 60 s, divided by the target per replica.
- Panic: when the average over 6 s asks for twice what is ready, it rules, at once, and for a minute nothing goes down
  (but to zero: who was idle for the whole idle time-out has no panic left).
- Down by one step after `scale_down_delay` seconds of asking for fewer; the last one only by the idle time-out.
- To zero after `idle_timeout` seconds with nothing in flight or held, where `min_replicas` allows it.
- Whoever is held without a ready replica gets one.

Always within [min, max]; the last activity and every delay are on the caller's monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

STABLE_WINDOW: Final = 60.0
PANIC_WINDOW: Final = 6.0
PANIC_FACTOR: Final = 2
PANIC_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Spec:
    """What the owner asked for; `target` requests at once per replica, times in seconds."""

    min_replicas: int
    max_replicas: int
    target: float
    scale_down_delay: float
    idle_timeout: float

    @classmethod
    def of(cls, min_replicas: int, max_replicas: int, target: int, concurrency: int, delay: float, idle: float) -> Spec:
        """A replica can't be asked for more at once than its hard limit `concurrency` (0 = none)."""
        return cls(min_replicas, max_replicas, min(target, concurrency) if concurrency else target, delay, idle)


@dataclass(frozen=True, slots=True)
class Signals:
    """`busy`: anything in flight or held now. `complete`: every registered worker has been heard."""

    busy: bool
    stable: float  # average over STABLE_WINDOW
    panic: float  # average over PANIC_WINDOW
    ready: int
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Memory:
    """What one decision leaves to the next; times are monotonic, None = not so."""

    desired: int
    active_at: float
    panic_until: float | None = None
    fewer_since: float | None = None


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
    wanted = _replicas(signals.stable, spec)
    urgent = _replicas(signals.panic, spec)
    if urgent >= PANIC_FACTOR * max(1, signals.ready):
        memory = replace(memory, panic_until=now + PANIC_SECONDS)
    panics = memory.panic_until is not None and now < memory.panic_until
    if panics:
        wanted = max(wanted, urgent, memory.desired)
    else:
        memory = replace(memory, panic_until=None)
    # what the averages still remember wakes nobody
    wanted = max(wanted, 1) if signals.busy or memory.desired > 0 else 0
    decision = _step(spec, signals, memory, _clamp(wanted, spec), now)
    if panics and decision.desired > memory.desired:
        return replace(decision, reason=f"{signals.panic:.1f} at once over {PANIC_WINDOW:.0f} s")
    return decision


def _step(spec: Spec, signals: Signals, memory: Memory, wanted: int, now: float) -> Decision:
    if wanted > memory.desired:
        reason = _why_more(spec, signals, memory)
        return Decision(replace(memory, desired=wanted, fewer_since=None), reason)
    if memory.desired > spec.max_replicas:
        return Decision(replace(memory, desired=spec.max_replicas, fewer_since=None), "max_replicas is lower now")
    if not signals.complete:  # a missing report is not an idle one (law 2)
        return Decision(replace(memory, fewer_since=None))
    if _sleeps(spec, signals, memory, now):
        reason = f"no request for {now - memory.active_at:.0f} s"
        return Decision(replace(memory, desired=0, fewer_since=None, panic_until=None), reason)
    if wanted == memory.desired:
        return Decision(replace(memory, fewer_since=None))
    since = now if memory.fewer_since is None else memory.fewer_since
    if now - since < spec.scale_down_delay:
        return Decision(replace(memory, fewer_since=since))
    reason = f"{signals.stable:.1f} at once over {STABLE_WINDOW:.0f} s"
    return Decision(replace(memory, desired=memory.desired - 1, fewer_since=now), reason)


def _why_more(spec: Spec, signals: Signals, memory: Memory) -> str:
    if memory.desired < spec.min_replicas:
        return f"min_replicas is {spec.min_replicas}"
    if memory.desired == 0:
        return "a request is waiting"
    return f"{signals.stable:.1f} at once over {STABLE_WINDOW:.0f} s"


def _sleeps(spec: Spec, signals: Signals, memory: Memory, now: float) -> bool:
    idle = not signals.busy and now - memory.active_at >= spec.idle_timeout
    return idle and spec.min_replicas == 0 and memory.desired > 0


def _replicas(level: float, spec: Spec) -> int:
    # an average of a level that was whole is never meaningfully above it by a billionth
    return math.ceil(level / spec.target - 1e-9)


def _clamp(wanted: int, spec: Spec) -> int:
    return max(spec.min_replicas, min(spec.max_replicas, wanted))
