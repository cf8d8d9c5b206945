"""Everything that takes part in sleep and wake of one service, as one value, and how its parts change.

The parts: the store with a point on its disk to which it may fall back, one control (and the unfinished write of the
one before), up to two workers, the replicas' processes.

`Broken` is raised where a law would be broken by what happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import control_twin as control
from control_twin import Copy, Durations, Known, Rec, Told, Write
from worker_twin import Plane

from state.models import ReplicaState as R


class Broken(AssertionError):
    """A law does not hold."""


# how far a worker is
UNBORN: Final = 0
JOINED: Final = 1  # registered, has not read anything yet
SERVING: Final = 2
LEAVING: Final = 3  # takes no new requests
ENDED: Final = 4  # its last report is said
DEAD: Final = 5  # it was killed, and is registered still
KNOWN: Final = 6  # registered, and it has what was stored then: about to serve

# processes of replicas
UP: Final = 1  # accepts connections
ENDING: Final = 2  # asked to end (SIGTERM), accepts them still
SEEN: Final = 3  # ended by itself, and somebody saw how
GONE: Final = 4  # ended, and nobody knows how


class Worker(NamedTuple):
    """`told`: reports on their way, oldest first. `heard`: the newest that control has. `saved`: whether it is
    registered on the store's disk. `rostered`: control counts it."""

    life: int = UNBORN
    run: int = 0
    rev: int = 0
    plane: Plane = Plane()
    registered: bool = False
    saved: bool = False
    told: tuple[Told, ...] = ()
    heard: Told | None = None
    known: int | None = None  # as in `Known.runs`
    ended: bool = False  # as in `Known.ended`
    rostered: bool = False
    number: int = 0  # where it matters which one it is


FRESH: Final = Worker()


class Control(NamedTuple):
    """`copy`: its mirror, None before the first snapshot. `roster`: as_of and run of the last reading. `token`: of its
    lease, 0: it doesn't lead. `write`: decided on, and under way to the store."""

    copy: Copy | None = None
    roster: tuple[int, int] | None = None
    hinted: bool = False
    token: int = 0
    write: Write | None = None


class World(NamedTuple):
    """`saved`: what the store would have after a crash, with its lease's token; None: all that it has. `late`: a write
    of a control that is no more, with its token and what it was decided on. `up`: processes by replica."""

    store: Copy
    token: int
    saved: tuple[Copy, int] | None
    control: Control | None
    late: tuple[Write, int, Copy] | None
    workers: tuple[Worker, ...]
    processes: tuple[tuple[str, int], ...]
    trouble: tuple[int, ...]  # what is left of each kind that is counted, by `Scenario.counted`


@dataclass(frozen=True)
class Scenario:
    """What may happen: names of events, and how often those may that are counted. Everything else is unlimited.

    `requests`: held or in flight at once, in all. `slow`: what takes time, so that anything may happen meanwhile; all
    else is taken to happen at once: "mirror" (control hears of commits), "report" and "reports" (a worker's, on its way
    to control; two of which may overtake each other), "roster" (of registered workers, until it is read again),
    "commit" (from a decision on), "process" (from the launch, or SIGTERM, to what follows).
    `apart`: it matters which worker is which; one that does nothing any more (SIGSTOP) is nothing to the others.
    """

    name: str
    workers: int = 1
    alive: int = 1  # of the workers, at the beginning
    max_replicas: int = 1
    names: int = 2
    requests: int = 1
    slow: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()
    counted: tuple[tuple[str, int], ...] = ()
    apart: bool = False

    def first(self) -> World:
        """Asleep, with living workers of which the first `alive` serve."""
        copy = control.ASLEEP
        plane = Plane(copy.backend)
        serving = Worker(SERVING, copy.run, copy.rev, plane, registered=True, saved=True)
        workers = tuple(serving if number < self.alive else FRESH for number in range(self.workers))
        if self.apart:
            workers = tuple(one._replace(number=number) for number, one in enumerate(workers))
        trouble = tuple(count for _, count in self.counted)
        led = Control(copy, None, False, 1, None)
        return World(copy, 1, None, led, None, tuple(sorted(workers, key=_order)), (), trouble)


def at_rest(world: World) -> bool:
    """Everything is back at zero."""
    busy = any(w.plane.held or w.plane.flight or w.plane.down for w in world.workers)
    asleep = world.store.wish is None or world.store.wish.desired == 0
    return asleep and not busy and not world.store.recs and not world.processes


def nobody_waits(world: World) -> bool:
    return not any(w.plane.held for w in world.workers)


def _order(one: Worker) -> tuple[object, ...]:
    """Workers are alike: which is which makes no difference."""
    return (one.number, one.life, one.run, one.rev, one.registered, one.saved, one.rostered, hash(one))


def in_order(world: World) -> World:
    if len(world.workers) < 2:
        return world
    return world._replace(workers=tuple(sorted(world.workers, key=_order)))


def with_worker(world: World, number: int, one: Worker, *, ordered: bool = True) -> World:
    workers = (*world.workers[:number], one, *world.workers[number + 1 :])
    return in_order(world._replace(workers=workers)) if ordered else world._replace(workers=workers)


def living(world: World) -> list[Worker]:
    return [one for one in world.workers if one.life in (KNOWN, SERVING, LEAVING)]


def killed(one: Worker) -> Worker:
    return one._replace(life=DEAD, plane=Plane(), run=0, rev=0)


def unregistered(world: World, number: int) -> World:
    """The supervisor's word: `Registrations`. What it says ends in the store, and its report counts no more."""
    one = world.workers[number]
    gone = one._replace(registered=False, told=(), heard=None, rostered=False, known=None, ended=False)
    return with_worker(world, number, gone)


def knowledge(world: World) -> Known:
    runs = tuple((str(n), w.known) for n, w in enumerate(world.workers) if w.known is not None)
    return Known(runs, frozenset(str(n) for n, w in enumerate(world.workers) if w.ended))


def knowing(world: World, known: Known, *, ordered: bool = True) -> World:
    runs = dict(known.runs)
    workers = tuple(
        w._replace(known=runs.get(str(n)), ended=str(n) in known.ended) for n, w in enumerate(world.workers)
    )
    then = world._replace(workers=workers)
    return in_order(then) if ordered else then


def unrostered(world: World) -> World:
    return world._replace(workers=tuple(w._replace(rostered=False) for w in world.workers))


def roster_read(world: World, one: Control) -> World:
    """The leader reads the roster, and keeps the reports of those on it."""
    copy = one.copy
    assert copy is not None
    registered = frozenset(str(n) for n, w in enumerate(world.workers) if w.registered)
    reading = control.read_roster(copy.run, copy.rev, knowledge(world), world.store.run, registered)
    workers = tuple(
        w._replace(
            rostered=str(n) in reading.workers,
            heard=w.heard if str(n) in reading.workers else None,
            registered=(w.registered or str(n) in reading.restored) and str(n) not in reading.removed,
        )
        for n, w in enumerate(world.workers)
    )
    read = world._replace(workers=workers, control=one._replace(roster=(reading.as_of, reading.run)))
    return in_order(knowing(read, reading.known, ordered=False))


def without_control(world: World, one: Control) -> World:
    """Nothing is left of it but a write that may still arrive."""
    workers = tuple(w._replace(heard=None, known=None, ended=False, rostered=False, told=()) for w in world.workers)
    late = world.late if one.write is None or one.copy is None else (one.write, one.token, one.copy)
    return in_order(world._replace(control=None, late=late, workers=workers))


def committed(world: World, write: Write, token: int, base: Copy) -> World:
    """As `commit.lua` does it."""
    if token != world.token or not control.current(world.store, base, write):
        return world
    return world._replace(store=control.made(world.store, write))


def with_process(world: World, name: str, life: int) -> World:
    rest = tuple(p for p in world.processes if p[0] != name)
    return world._replace(processes=tuple(sorted((*rest, (name, life)))))


def record(copy: Copy, name: str) -> Rec | None:
    return next((r for r in copy.recs if r.name == name), None)


def forced(world: World) -> bool:
    return world.store.wish is None or world.store.wish.forced


def stands(world: World, copy: Copy, name: str) -> bool:
    """As `Ledger.stands`."""
    return copy.run == world.store.run and record(copy, name) == record(world.store, name)


def carried_out(world: World, name: str) -> World:
    """No store comes back from before a stop that was carried out (docs: what is assumed)."""
    before = None if world.saved is None else record(world.saved[0], name)
    if before is not None and before.state is not R.STOPPING:
        return world._replace(saved=None)
    return world


def may_stop(world: World, name: str) -> None:
    rec = record(world.store, name)
    for one in living(world):
        if name in one.plane.ready:
            raise Broken(f"{name} is stopped while a worker may send to it")
        if dict(one.plane.flight).get(name) and not (rec is not None and rec.cut) and not forced(world):
            raise Broken(f"{name} is stopped with a request in flight")


def free_names(world: World, names: tuple[str, ...]) -> tuple[str, ...]:
    """Names that nobody remembers."""
    used = {name for name, _ in world.processes}
    copies = [world.store, *([world.saved[0]] if world.saved else [])]
    if world.control is not None and world.control.copy is not None:
        copies.append(world.control.copy)
    used |= {rec.name for copy in copies for rec in copy.recs}
    if world.late is not None:
        used |= {rec.name for rec in world.late[0].recs}
    for one in world.workers:
        used |= one.plane.listed | {name for name, _ in one.plane.flight}
        for told in (*one.told, *([one.heard] if one.heard else [])):
            used |= {name for name, _ in told.flight}
    return tuple(name for name in names if name not in used)


def durations(copy: Copy) -> Iterator[Durations]:
    """Those that make a difference."""
    states = {rec.state for rec in copy.recs}
    wish = copy.wish
    assert wish is not None
    down = (False, True) if wish.desired > 0 else (False,)
    for idle in down:
        for fewer in down if wish.desired > 1 else (False,):
            for drain in (False, True) if R.DRAINING in states else (False,):
                for backoff in (False, True) if R.FAILED in states else (False,):
                    for since in (False, True) if wish.asleep else (False,):
                        yield Durations(idle, fewer, drain, backoff, since)


def told_over(over: Durations) -> str:
    names = [name for name, value in over._asdict().items() if value]
    return f" ({', '.join(names)} over)" if names else ""
