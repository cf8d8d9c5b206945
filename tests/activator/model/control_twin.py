"""The deciding side of control without tasks, sockets and clocks, for exhaustive exploration.

What is stored of the one service is a value (`Copy`), what a control knows beyond it are others. Each function here
hands such values to the real code (`plan`, `decide`, `Outlooks`, `Demand`, `Census`, `Acknowledgements`, `verdicts`,
`changes`) and gives back what that decided. Time is what might have passed: whoever calls says which of the durations
are over (`Durations`). Answers are remembered.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, TypeVar

from worker_twin import BACKENDS, NOTHING

from activator import verdicts
from activator.acks import Acknowledgements, Roster
from activator.autoscaler import Memory
from activator.demand import Demand, Load, Report
from activator.gpu.levels import Levels
from activator.outlooks import Outlooks
from activator.placement import Fleet
from activator.planning import plan
from activator.settings import Settings
from activator.views import View, changes
from state.kinds import Kind
from state.models import (
    Backend,
    Deployment,
    DeploymentState,
    Offer,
    Reason,
    Replica,
    ReplicaState,
    RunSpec,
    Scale,
    Scaling,
    Service,
)
from state.store import ABSENT

R = ReplicaState
T = TypeVar("T")
SERVICE: Final = "s"
NODE: Final = "n"
NAMES: Final = ("a", "b", "c")
"""Ids of replicas; one is given again when nobody remembers who had it."""

_SETTINGS: Final = Settings(node=NODE)
_OFFERS: Final = {NODE: Offer("process", "us-east-1")}
_LONG_AGO: Final = -1e6
_NOW: Final = 1.0
_WHY: Final = Reason("it failed")


class Rec(NamedTuple):
    """A stored replica. `blamed`: it has a reason; `proven`: it was ready once; `cut`: its drain time was over (known
    to the explorer alone)."""

    name: str
    state: ReplicaState
    blamed: bool
    proven: bool
    cut: bool
    version: int


class Wish(NamedTuple):
    """What is stored of the service beside its replicas: scale and the service's own fields."""

    desired: int
    failures: int
    asleep: bool
    version: int
    deleted: bool = False
    forced: bool = False
    service_version: int = 1


class Copy(NamedTuple):
    """The store's content, or a mirror's. `backend`: its number in `BACKENDS`."""

    run: int
    rev: int
    recs: tuple[Rec, ...]
    wish: Wish | None
    backend: int
    backend_version: int


class Told(NamedTuple):
    """A worker's report."""

    seq: int
    run: int
    rev: int
    flight: tuple[tuple[str, int], ...]
    held: int


class Durations(NamedTuple):
    idle: bool = False  # the idle time-out
    fewer: bool = False  # the delay before scaling down
    drain: bool = False  # the drain time of whatever drains
    backoff: bool = False  # that of whatever failed
    since: bool = False  # for longer than the last wake: it has been put to sleep by its owner


MAX_REPLICAS: Final = [1]
"""Of the service that is explored."""


def view_of(copy: Copy) -> View:
    """What the catalog would show of it."""
    content = copy._replace(run=0, rev=0)
    return _view(content, MAX_REPLICAS[0])


@functools.cache
def _view(copy: Copy, max_replicas: int) -> View:
    wish = copy.wish
    assert wish is not None
    service = Service(
        id=SERVICE,
        namespace="acme",
        name="app",
        label="app-acme",
        run=RunSpec(repo="acme/app"),
        gpu="none",
        gpu_count=None,
        min_replicas=0,
        max_replicas=max_replicas,
        target_gpu_utilization=70,
        region="us-east-1",
        custom_domain=None,
        scaling=Scaling(target_concurrency=1),
        created_at=1,
        updated_at=1,
        latest="d",
        active="d",
        deleted_at=1 if wish.deleted else None,
        forced=wish.forced,
    )
    scale = Scale(wish.desired, None, wish.failures, "it failed" if wish.failures else None, wish.asleep)
    versions = {(Kind.REPLICA, r.name): r.version for r in copy.recs}
    versions |= {(Kind.SCALE, SERVICE): wish.version, (Kind.BACKEND, SERVICE): copy.backend_version}
    versions |= {(Kind.SERVICE, SERVICE): wish.service_version, (Kind.DEPLOYMENT, "d"): 1}
    deployment = Deployment("d", SERVICE, DeploymentState.ACTIVE, RunSpec(repo="acme/app"), 1, node=NODE, proven=True)
    replicas = {r.name: _replica(r) for r in copy.recs}
    return View(service, {"d": deployment}, replicas, scale, BACKENDS[copy.backend], versions)


def _replica(rec: Rec) -> Replica:
    ready_at = 1 if rec.proven else None
    reason = "it failed" if rec.blamed else None
    return Replica(rec.name, SERVICE, "d", NODE, rec.state, 1, port=1000, ready_at=ready_at, reason=reason)


class Write(NamedTuple):
    """A change that was decided on and is not made yet. `expected`: `(kind, id)` of what must still be as it was then.
    The versions of what it writes are set when it is made. `wish` None: nothing is left of the service."""

    expected: tuple[tuple[str, str], ...]
    recs: tuple[Rec, ...]
    wish: Wish | None
    backend: int


def write_of(
    copy: Copy, after: View | None, cut: frozenset[str] = frozenset(), *, ordered: bool = True
) -> Write | None:
    """The commit that leads to this view; None: there is nothing to do."""
    found = changes(view_of(copy), after, ordered=ordered)
    if not found:
        return None
    versions = _versions(copy)
    assert all(c.expect == versions.get((str(c.kind), c.id), ABSENT) for c in found)
    expected = tuple((str(c.kind), c.id) for c in found)
    if after is None:
        return Write(expected, (), None, -1)
    written = {c.id for c in found if c.kind is Kind.REPLICA}
    kept = {r.name: r for r in copy.recs}
    recs = tuple(
        _rec(r, (kept[r.id].cut if r.id in kept else False) or r.id in cut, None if r.id in written else kept[r.id])
        for r in sorted(after.replicas.values(), key=lambda r: r.id)
    )
    wish = copy.wish
    assert wish is not None
    if any(c.kind is Kind.SCALE for c in found):
        scale = after.scale
        wish = wish._replace(desired=scale.desired, failures=min(1, scale.failures), asleep=scale.asleep, version=-1)
    backend = -1 if not any(c.kind is Kind.BACKEND for c in found) else BACKENDS.id(after.derived())
    return Write(expected, recs, wish, backend)


def _rec(replica: Replica, cut: bool, kept: Rec | None) -> Rec:
    version = -1 if kept is None else kept.version
    proven = replica.ready_at is not None
    return Rec(replica.id, replica.state, replica.reason is not None, proven, cut, version)


def current(store: Copy, base: Copy, write: Write) -> bool:
    """Compare-and-set (`commit.lua`): whether the store has all the versions that were there when it was decided."""
    now, then = _versions(store), _versions(base)
    return all(now.get(key, ABSENT) == then.get(key, ABSENT) for key in write.expected)


@functools.cache
def _versions(copy: Copy) -> dict[tuple[str, str], int]:
    if copy.wish is None:
        return {}
    return {(str(kind), i): version for (kind, i), version in view_of(copy).versions.items()}


def made(copy: Copy, write: Write) -> Copy:
    """The store after the write."""
    rev = copy.rev + 1
    if write.wish is None:
        return Copy(copy.run, rev, (), None, NOTHING, rev)
    recs = tuple(r._replace(version=rev) if r.version == -1 else r for r in write.recs)
    wish = write.wish
    wish = wish._replace(version=rev) if wish.version == -1 else wish
    wish = wish._replace(service_version=rev) if wish.service_version == -1 else wish
    if write.backend == -1:
        return Copy(copy.run, rev, recs, wish, copy.backend, copy.backend_version)
    return Copy(copy.run, rev, recs, wish, write.backend, rev)


# -- who must acknowledge


class _Store:
    """A store that answers at once."""

    def __init__(self, run: int, registered: frozenset[str]) -> None:
        self._answer = str(run), set(registered)

    async def census(self) -> tuple[str, set[str]]:
        return self._answer

    async def unregister(self, workers: object) -> None: ...
    async def restore(self, workers: object) -> None: ...


class _Mirror:
    def __init__(self, run: int, rev: int) -> None:
        self.run_id, self.revision, self.connected = str(run), rev, True


class Known(NamedTuple):
    """What a control remembers of workers (`activator.census`): `runs` by worker (-1: heard only), and who ended."""

    runs: tuple[tuple[str, int], ...] = ()
    ended: frozenset[str] = frozenset()


class Reading(NamedTuple):
    """`restored`: those whose registrations it made again; `removed`: whose it ended."""

    workers: frozenset[str]
    as_of: int
    run: int
    known: Known
    restored: frozenset[str]
    removed: frozenset[str]


def _acks(run: int, rev: int, known: Known, demand: Demand, store: Any) -> Acknowledgements:
    acks = Acknowledgements(store, _Mirror(run, rev), demand)  # type: ignore[arg-type]
    census = acks._census
    census._runs = {worker: "" if of == -1 else str(of) for worker, of in known.runs}
    census._ended = dict.fromkeys(known.ended)
    return acks


def _known(acks: Acknowledgements) -> Known:
    runs = acks._census.known().items()
    return Known(tuple(sorted((w, int(r or -1)) for w, r in runs)), frozenset(acks._census._ended))


@functools.cache
def read_roster(run: int, rev: int, known: Known, store_run: int, registered: frozenset[str]) -> Reading:
    """By a control whose mirror is at `rev` of `run`."""
    calls: dict[str, frozenset[str]] = {"restored": frozenset(), "removed": frozenset()}

    class Answering(_Store):
        async def unregister(self, workers: Any) -> None:
            calls["removed"] = frozenset(workers)

        async def restore(self, workers: Any) -> None:
            calls["restored"] = frozenset(workers)

    acks = _acks(run, rev, known, Demand(), Answering(store_run, registered))
    roster = at_once(acks.roster())
    return Reading(roster.workers, roster.as_of, int(roster.run_id), _known(acks), calls["restored"], calls["removed"])


@functools.cache
def all_have(
    revision: int, run: int, rev: int, known: Known, store_run: int, registered: frozenset[str], told: Any
) -> bool:
    """Whether a keeper that asks now learns that every registered worker has `revision`."""
    acks = _acks(run, rev, known, _demand(told, hinted=False), _Store(store_run, registered))
    return at_once(acks._all_have(revision, "keeper"))


@functools.cache
def in_flight(told: tuple[tuple[str, Told], ...], replica: str) -> int:
    """As a keeper asks whose replica the store does not know."""
    return _demand(told, hinted=False).in_flight(replica)


@functools.cache
def heard(known: Known, worker: str, *, last: bool) -> Known:
    acks = _acks(1, 1, known, Demand(), None)
    acks.heard(Report(worker, 1, "1", 1, {}, last=last))
    return _known(acks)


@functools.cache
def newest(before: Told | None, report: Told) -> Told:
    """Which of the two counts, if the second one comes in now."""
    if before is None:
        return report
    demand = Demand()
    demand.report(_report("w", before), 0)
    demand.report(_report("w", report), 1)
    return report if demand.heard("w") == 1 else before


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """What it returns; it must not have to wait for anything."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits")


def _report(worker: str, told: Told) -> Report:
    load = Load(sum(n for _, n in told.flight), told.held, dict(told.flight))
    services = {SERVICE: load} if load.busy else {}
    return Report(worker, told.seq, str(told.run), told.rev, services)


def _demand(told: tuple[tuple[str, Told], ...], *, hinted: bool) -> Demand:
    demand = Demand()
    for worker, report in told:
        demand.report(_report(worker, report), 2 * _LONG_AGO)
    if hinted:
        demand.hint(SERVICE, _NOW)
    return demand


# -- deciding


@functools.cache
def decide(
    copy: Copy,
    max_replicas: int,
    roster: tuple[frozenset[str], int, int] | None,
    told: tuple[tuple[str, Told], ...],
    hinted: bool,
    over: Durations,
    fresh: tuple[str, ...],
) -> Write | None:
    """A leader looks at the service. `roster`: workers, as_of, run; `told`: the newest report of each worker that it
    heard; `fresh`: names for new replicas. There is no room for more than these."""
    decided, cut = _planned(copy, roster, told, hinted, over, fresh, frozenset({NODE}))
    if decided is not None and "" in decided.replicas:
        decided, cut = _planned(copy, roster, told, hinted, over, (), frozenset())
    return write_of(copy, decided, cut)


def _planned(
    copy: Copy,
    roster: tuple[frozenset[str], int, int] | None,
    told: tuple[tuple[str, Told], ...],
    hinted: bool,
    over: Durations,
    fresh: tuple[str, ...],
    room: frozenset[str],
) -> tuple[View | None, frozenset[str]]:
    """The next view, and those whose drain time is over. `room`: nodes that take another replica."""
    view = view_of(copy)
    demand = _demand(told, hinted=hinted)
    mirror = _Mirror(copy.run, copy.rev)
    acks = Acknowledgements(None, mirror, demand)  # type: ignore[arg-type]
    outlooks = Outlooks(mirror, demand, acks, _SETTINGS, lambda: Fleet(_OFFERS, room, {}), {}, Levels(1.0))  # type: ignore[arg-type]
    if roster is not None:
        outlooks.roster = Roster(roster[0], roster[1], str(roster[2]))
    watch = outlooks.watch(view, _NOW)
    watch.memory = Memory(
        view.scale.desired,
        active_at=_LONG_AGO if over.idle else _NOW,
        fewer_since=_LONG_AGO if over.fewer else None,
    )
    for name, state in watch.since:
        if (state is R.DRAINING and over.drain) or (state is R.FAILED and over.backoff):
            watch.since[name, state] = _LONG_AGO
    if watch.asleep_at is not None:
        watch.asleep_at = _LONG_AGO if over.since or not view.replicas else 2 * _NOW
    outlook = outlooks.outlook(view, watch, demand.load(SERVICE, _NOW), _NOW)
    names = itertools.chain(fresh, itertools.repeat(""))
    planned = plan(view, outlook, names.__next__)
    cut = frozenset(n.replica for n in planned.notes if n.kind == "replica.cut" and n.replica is not None)
    return planned.view, cut


STEPS: Final[dict[str, Callable[[View, str], View]]] = {
    "started": lambda view, name: verdicts.started(view, name, "127.0.0.1", 1000, 1),
    "passed": lambda view, name: verdicts.passed(view, name, 1),
    "broke": lambda view, name: verdicts.broke(view, name, _WHY, 1),
    "lost": lambda view, name: verdicts.lost(view, name),
    "ailed": lambda view, name: verdicts.ailed(view, name, _WHY),
    "condemned": lambda view, name: verdicts.condemned(view, name, _WHY, 1),
    "usurped": lambda view, name: verdicts.usurped(view, name, _WHY),
    "removed": lambda view, name: verdicts.removed(view, name),
}


@functools.cache
def found(copy: Copy, max_replicas: int, what: str, name: str) -> Write | None:
    """A keeper found something out about its replica."""
    view = view_of(copy)
    after = STEPS[what](view, name)
    # as `Keeper` asks for it
    return None if after is view else write_of(copy, after, ordered=what != "started")


def spoken(copy: Copy, **fields: Any) -> Write:
    """What the API writes: nothing but the wish, at the version that it looked at."""
    wish = copy.wish
    assert wish is not None
    if "deleted" in fields:
        expected = ((str(Kind.SERVICE), SERVICE),)
        fields["service_version"] = -1
    else:
        expected = ((str(Kind.SCALE), SERVICE),)
        fields["version"] = -1
    return Write(expected, copy.recs, wish._replace(**fields), -1)


EMPTY: Final = BACKENDS.id(Backend(SERVICE, "acme", "app"))
ASLEEP: Final = Copy(1, 1, (), Wish(0, 0, False, 1), EMPTY, 1)
"""The store at the beginning: a service that sleeps."""
