"""All that may happen next in a world of sleep and wake.

`Explored.steps` names each event that is possible in a state, the state after it, and whether it is trouble: an event
that nobody owes to happen (a crash, a new request…). What the parts decide is decided by the real code (`control_twin`,
`worker_twin`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import control_twin as control
import worker_twin as worker
from control_twin import NAMES, Copy, Rec, Told, Write
from sleep_parts import (
    DEAD,
    ENDED,
    ENDING,
    FRESH,
    GONE,
    JOINED,
    KNOWN,
    LEAVING,
    SEEN,
    SERVING,
    UNBORN,
    UP,
    Broken,
    Control,
    Scenario,
    Worker,
    World,
    carried_out,
    committed,
    durations,
    forced,
    free_names,
    in_order,
    killed,
    knowing,
    knowledge,
    living,
    may_stop,
    record,
    roster_read,
    stands,
    told_over,
    unregistered,
    unrostered,
    with_process,
    with_worker,
    without_control,
)
from worker_twin import Plane, react

from state.models import ReplicaState as R

_FINDINGS: Final = (
    ((R.STARTING,), "start fails", ("broke",)),
    ((R.READY, R.UNHEALTHY), "replica ails", ("ailed", "condemned")),
    ((R.STARTING, R.READY, R.DRAINING), "port is taken", ("usurped",)),
)
"""In which states of a replica, by which trouble, its keeper finds what."""


Step = tuple[str, World, bool]
"""What happened, the world after it, whether that was trouble."""


class Explored:
    """One scenario's `steps`."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._slow = scenario.slow
        self._channel = 2 if "reports" in scenario.slow else 1
        self._names = NAMES[: scenario.names]
        self._counted = {name: number for number, (name, _) in enumerate(scenario.counted)}

    def steps(self, world: World) -> Iterator[Step]:
        """All that may happen next. Raises Broken."""
        if world.control is not None and "mirror" not in self._slow and world.control.copy != world.store:
            world = world._replace(control=world.control._replace(copy=world.store))
        for number in range(len(world.workers)):
            yield from self._worker(world, number)
        yield from self._store(world)
        yield from self._processes(world)
        if world.control is not None:
            yield from self._leads(world, world.control)
            yield from self._keeps(world, world.control)
        yield from self._outside(world)

    def _trouble(self, world: World, what: str) -> World | None:
        """The world in which one such trouble less is to come; None: there may be none."""
        if what in self._scenario.may:
            return world
        number = self._counted.get(what)
        if number is None or world.trouble[number] == 0:
            return None
        left = list(world.trouble)
        left[number] -= 1
        return world._replace(trouble=tuple(left))

    # -- workers

    def _worker(self, world: World, number: int) -> Iterator[Step]:
        one = world.workers[number]
        where = f"worker {number}"
        if one.life == UNBORN:
            if (then := self._trouble(world, "worker comes")) is not None:
                yield (
                    f"{where} registers",
                    with_worker(then, number, one._replace(life=JOINED, registered=True)),
                    True,
                )
            return
        if one.life == DEAD:
            return
        if (then := self._trouble(world, "worker dies")) is not None:
            yield f"{where} dies", with_worker(then, number, killed(one)), True
        yield from self._works(world, number)

    def _works(self, world: World, number: int) -> Iterator[Step]:
        one, where = world.workers[number], f"worker {number}"
        applied = self._applied(world, number)
        if applied != world:
            yield f"{where} applies", applied, False
        if one.life == JOINED and one.registered and one.run and applied == world:
            yield f"{where} is known", self._introduced(world, number), False
        if one.life == KNOWN:
            yield f"{where} serves", with_worker(world, number, one._replace(life=SERVING)), False
        if one.life in (SERVING, LEAVING):
            yield from self._requests(world, number)
            yield from self._reports(world, number)
        if one.life == LEAVING and not one.plane.flight and not one.plane.held and one.registered:
            yield f"{where} says its last", self._last(world, number), False
        if one.life == ENDED:
            yield f"{where} leaves", with_worker(world, number, killed(one)._replace(registered=False)), False
        if one.run == world.store.run and not one.registered and one.life != ENDED:
            yield f"{where} registers again", with_worker(world, number, one._replace(registered=True)), False
        if one.life == SERVING and (then := self._trouble(world, "worker drains")) is not None:
            yield f"{where} drains", with_worker(then, number, one._replace(life=LEAVING)), True

    def _reports(self, world: World, number: int) -> Iterator[Step]:
        one, where = world.workers[number], f"worker {number}"
        said = self._says(one) if len(one.told) < self._channel else None
        if said is None:
            return
        then = with_worker(world, number, said, ordered=False)
        if self._slow & {"report", "reports"}:
            yield f"{where} reports", in_order(then), False
        elif world.control is not None:
            yield f"{where} reports", self._heard(then, number, 0), False

    def _introduced(self, world: World, number: int) -> World:
        """It has what the store had after its registration, and whoever listens has heard of it."""
        one = world.workers[number]
        said = self._says(one._replace(life=KNOWN, told=(), heard=None)) or one
        then = with_worker(world, number, said, ordered=False)
        return (
            self._heard(then, number, 0)
            if world.control is not None
            else with_worker(world, number, said._replace(told=()))
        )

    def _applied(self, world: World, number: int) -> World:
        one = world.workers[number]
        store, plane = world.store, one.plane
        if store.backend != plane.backend:
            plane = self._react(world, plane, "told", store.backend)
        return with_worker(world, number, one._replace(run=store.run, rev=store.rev, plane=plane))

    def _requests(self, world: World, number: int) -> Iterator[Step]:
        one, where = world.workers[number], f"worker {number}"
        under_way = sum(w.plane.held + sum(n for _, n in w.plane.flight) for w in world.workers)
        if one.life == SERVING and under_way < self._scenario.requests:
            first = self._react(world, one.plane, "request", 0)
            second = self._react(world, one.plane, "request", 1) if len(one.plane.ready) > 1 else first
            for plane in {first, second}:
                yield f"{where} gets a request", with_worker(world, number, one._replace(plane=plane)), True
        for name, _ in one.plane.flight:
            plane = self._react(world, one.plane, "end", name)
            yield f"{where}: {name} answers", with_worker(world, number, one._replace(plane=plane)), False
        if one.plane.held and one.plane.down:
            plane = self._react(world, one.plane, "tend")
            if plane != one.plane:
                yield f"{where} tries again", with_worker(world, number, one._replace(plane=plane)), False
        if one.plane.held and (then := self._trouble(world, "client leaves")) is not None:
            plane = self._react(world, one.plane, "leave")
            yield f"{where}: a client leaves", with_worker(then, number, one._replace(plane=plane)), True

    def _react(self, world: World, plane: Plane, what: str, detail: object = None) -> Plane:
        up = frozenset(name for name, life in world.processes if life in (UP, ENDING))
        reaction = react(plane, up, what, detail)
        if 502 in reaction.answers or 504 in reaction.answers:
            raise Broken(f"a request that may be sent again was lost: {reaction.answers}")
        if 503 in reaction.answers and not worker.refusing(reaction.plane):
            raise Broken("a request was refused by a worker that was told to hold")
        return reaction.plane

    def _says(self, one: Worker) -> Worker | None:
        """None: it would say what is on its way, or was heard, already."""
        seq = max([0, *(t.seq for t in one.told), one.heard.seq if one.heard is not None else 0]) + 1
        said = Told(seq, one.run, one.rev, one.plane.flight, one.plane.held)
        before = one.told[-1] if one.told else one.heard
        if before is not None and before[1:] == said[1:]:
            return None
        return one._replace(told=(*one.told, said))

    def _last(self, world: World, number: int) -> World:
        """Its last report, if anybody hears it, and nothing of it comes after."""
        one = world.workers[number]
        then = with_worker(world, number, one._replace(life=ENDED, told=()), ordered=False)
        if world.control is not None:
            then = knowing(then, control.heard(knowledge(world), str(number), last=True), ordered=False)
        return in_order(then)

    # -- the store

    def _store(self, world: World) -> Iterator[Step]:
        if world.saved is None and (then := self._trouble(world, "restart")) is not None:
            saved = then._replace(saved=(world.store, world.token))
            workers = tuple(w._replace(saved=w.registered) for w in world.workers)
            yield "the store's disk falls behind", saved._replace(workers=workers), True
        if world.saved is not None:
            copy, token = world.saved
            run = world.store.run + 1
            workers = tuple(w._replace(registered=w.saved) for w in world.workers)
            fallen = world._replace(store=copy._replace(run=run), token=token, saved=None, workers=workers)
            yield "the store falls back", fallen, True
            yield "the store's disk catches up", world._replace(saved=None), False

    # -- processes

    def _processes(self, world: World) -> Iterator[Step]:
        for name, life in world.processes:
            if life == ENDING:
                yield f"{name} ends", self._ends(world, name), False
            if life == UP and (then := self._trouble(world, "replica crashes")) is not None:
                yield f"{name} crashes", self._breaks(then, name, SEEN), True
                yield f"{name} vanishes", self._breaks(then, name, GONE), True

    def _breaks(self, world: World, name: str, life: int) -> World:
        """What was in flight there is sent again."""
        world = with_process(world, name, life)
        for number, one in enumerate(world.workers):
            if one.life in (SERVING, LEAVING):
                plane = one.plane
                for _ in range(dict(plane.flight).get(name, 0)):
                    plane = self._react(world, plane, "lost", name)
                world = with_worker(world, number, one._replace(plane=plane), ordered=False)
        return in_order(world)

    def _ends(self, world: World, name: str) -> World:
        """It was asked to, and does."""
        rec = record(world.store, name)
        cut = rec is not None and rec.cut
        for one in living(world):
            if dict(one.plane.flight).get(name) and not cut and not forced(world):
                raise Broken(f"{name} ended with a request in flight")
        return self._breaks(world, name, GONE)

    # -- the control that decides

    def _leads(self, world: World, one: Control) -> Iterator[Step]:
        copy = one.copy
        if copy != world.store and one.write is None:
            yield "control applies", world._replace(control=one._replace(copy=world.store)), False
        if copy is None:
            return
        if one.token != world.token or one.token == 0:
            led = one._replace(token=world.token + 1, roster=None, write=None)
            yield "control takes the lease", unrostered(world)._replace(control=led, token=world.token + 1), False
            return
        if one.write is not None:
            then = world._replace(control=one._replace(write=None))
            yield "control commits", committed(then, one.write, one.token, copy), False
            return
        read = roster_read(world, one)
        if "roster" not in self._slow and read.control is not None:
            world, one = read, read.control
        elif read != world:
            yield "control reads who is registered", read, False
        if copy.wish is not None:
            yield from self._decides(world, one, copy)
        if one.hinted:
            yield "the wake is old", world._replace(control=one._replace(hinted=False)), False

    def _decides(self, world: World, one: Control, copy: Copy) -> Iterator[Step]:
        told = self._told(world)
        workers = frozenset(str(n) for n, w in enumerate(world.workers) if w.rostered)
        roster = None if one.roster is None else (workers, *one.roster)
        seen: set[Write] = set()
        for over in durations(copy):
            write = control.decide(
                copy, self._scenario.max_replicas, roster, told, one.hinted, over, free_names(world, self._names)
            )
            if write is not None and write not in seen:
                seen.add(write)
                what = f"control decides{told_over(over)}"
                if "commit" in self._slow:
                    yield what, world._replace(control=one._replace(write=write)), False
                elif control.current(world.store, copy, write):
                    yield what, committed(world, write, one.token, copy), False

    # -- the control that looks after its replicas

    def _keeps(self, world: World, one: Control) -> Iterator[Step]:
        copy = one.copy
        if copy is None or one.write is not None:
            return
        processes = dict(world.processes)
        for rec in copy.recs:
            yield from self._keeps_one(world, copy, rec, processes.get(rec.name))
        stored = {rec.name for rec in copy.recs}
        for name, life in world.processes:
            if name not in stored:
                yield from self._knows_not(world, copy, name, life)
        for number in range(len(world.workers)):
            yield from self._hears(world, number)
            yield from self._buries(world, number)

    def _hears(self, world: World, number: int) -> Iterator[Step]:
        for place in range(len(world.workers[number].told)):
            what = "what" if place == 0 else "the newer that"
            yield f"{what} worker {number} said comes in", self._heard(world, number, place), False

    def _buries(self, world: World, number: int) -> Iterator[Step]:
        """Of a worker that ended: its registration by the supervisor's word, in the end its name."""
        one = world.workers[number]
        if one.life != DEAD:
            return
        if one.registered or one.known is not None:
            yield f"the supervisor tells that worker {number} is dead", unregistered(world, number), False
        elif one.heard is None and not one.rostered and not one.saved:
            yield f"worker {number} is forgotten", with_worker(world, number, FRESH._replace(number=one.number)), False

    def _heard(self, world: World, number: int, place: int) -> World:
        one = world.workers[number]
        told = one.told[:place] + one.told[place + 1 :]
        report = one.told[place]
        then = with_worker(
            world, number, one._replace(told=told, heard=control.newest(one.heard, report)), ordered=False
        )
        return in_order(knowing(then, control.heard(knowledge(world), str(number), last=False), ordered=False))

    def _keeps_one(self, world: World, copy: Copy, rec: Rec, life: int | None) -> Iterator[Step]:
        name = rec.name
        if rec.state in (R.STOPPING, R.FAILED):
            yield from self._stops(world, copy, rec, life)
        elif rec.state is R.INTENT:
            if life is None and "process" in self._slow:
                yield f"{name} is launched", with_process(world, name, UP), False
            else:
                launched = with_process(world, name, UP) if life is None else world
                yield from self._finds(launched, copy, "started", name)
        elif life == SEEN:
            yield from self._finds(world, copy, "broke", name)
        elif life in (None, GONE):
            yield from self._finds(world, copy, "lost", name)
        elif life == UP:
            yield from self._watches(world, copy, rec)

    def _stops(self, world: World, copy: Copy, rec: Rec, life: int | None) -> Iterator[Step]:
        name = rec.name
        if life == UP:
            if rec.state is R.FAILED or stands(world, copy, name):
                yield f"{name} is asked to end", self._stopped(world, name), False
        elif life != ENDING and rec.state is R.STOPPING and self._all_have(world, rec.version):
            yield f"{name} is removed", self._removed(world, copy, name), False

    def _watches(self, world: World, copy: Copy, rec: Rec) -> Iterator[Step]:
        """What a keeper may find out by its checks."""
        if rec.state in (R.STARTING, R.UNHEALTHY):
            yield from self._finds(world, copy, "passed", rec.name)
        for states, trouble, findings in _FINDINGS:
            if rec.state in states and (then := self._trouble(world, trouble)) is not None:
                for what in findings:
                    yield from self._finds(then, copy, what, rec.name, trouble=True)

    def _finds(self, world: World, copy: Copy, what: str, name: str, *, trouble: bool = False) -> Iterator[Step]:
        write = control.found(copy, self._scenario.max_replicas, what, name)
        if write is not None and control.current(world.store, copy, write):
            yield f"{name} {what}", world._replace(store=control.made(world.store, write)), trouble

    def _stopped(self, world: World, name: str) -> World:
        """Law 3, at the moment of SIGTERM."""
        may_stop(world, name)
        world = carried_out(world, name)
        world = with_process(world, name, ENDING)
        return world if "process" in self._slow else self._ends(world, name)

    def _knows_not(self, world: World, copy: Copy, name: str, life: int) -> Iterator[Step]:
        """It runs, and the store does not know it."""
        if life == ENDING or not self._all_have(world, copy.rev) or not stands(world, copy, name):
            return
        if life == UP:
            if control.in_flight(self._told(world), name) == 0:
                yield f"{name}, which nobody knows, is asked to end", self._stopped(world, name), False
        else:
            yield f"{name}, which nobody knows, is forgotten", self._forgotten(world, name), False

    def _removed(self, world: World, copy: Copy, name: str) -> World:
        freed = self._forgotten(world, name)
        write = control.found(copy, self._scenario.max_replicas, "removed", name)
        if write is not None and control.current(world.store, copy, write):
            return freed._replace(store=control.made(world.store, write))
        return freed

    def _forgotten(self, world: World, name: str) -> World:
        """Its address is free for others, of whichever tenant."""
        world = carried_out(world, name)
        for one in living(world):
            if name in one.plane.ready or dict(one.plane.flight).get(name):
                raise Broken(f"the address of {name} is free while a worker may send to it")
        return world._replace(processes=tuple(p for p in world.processes if p[0] != name))

    def _all_have(self, world: World, revision: int) -> bool:
        one = world.control
        assert one is not None
        assert one.copy is not None
        registered = frozenset(str(n) for n, w in enumerate(world.workers) if w.registered)
        copy, told = one.copy, self._told(world)
        return control.all_have(revision, copy.run, copy.rev, knowledge(world), world.store.run, registered, told)

    def _told(self, world: World) -> tuple[tuple[str, Told], ...]:
        """The newest report of each worker that was heard."""
        return tuple((str(n), w.heard) for n, w in enumerate(world.workers) if w.heard is not None)

    # -- what comes from outside

    def _outside(self, world: World) -> Iterator[Step]:
        one = world.control
        if one is None:
            yield "a control starts", world._replace(control=Control()), False
        else:
            if (then := self._trouble(world, "control dies")) is not None:
                yield "control dies", without_control(then, one), True
            if one.copy is not None and not one.hinted:
                yield from self._wakes(world, one)
        if world.late is not None:
            then = world._replace(late=None)
            yield "a dead control's write comes in", committed(then, *world.late), False
        if world.store.wish is not None and not world.store.wish.deleted:
            for what, fields in (
                ("owner sleeps", {"desired": 0, "asleep": True}),
                ("owner deletes", {"deleted": True}),
                ("owner deletes by force", {"deleted": True, "forced": True}),
            ):
                if (then := self._trouble(world, what)) is not None:
                    store = control.made(world.store, control.spoken(world.store, **fields))
                    yield what, then._replace(store=store), True

    def _wakes(self, world: World, one: Control) -> Iterator[Step]:
        if "wake" in self._scenario.may and any(w.plane.held for w in living(world)):
            yield "a wake comes in", world._replace(control=one._replace(hinted=True)), False
        elif (then := self._trouble(world, "late wake")) is not None:
            yield "a late wake comes in", then._replace(control=one._replace(hinted=True)), True
