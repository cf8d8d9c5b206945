"""A model of exact concurrency: workers with the real `activator.slots.Account`, and the twin of the store's script.

A `State` is everything at one moment: requests at replicas and held, messages on their way, what the store keeps. Its
`acts` are all that can happen next, `after` is the state that follows one of them, `key` tells states apart. `explore`
goes through every state that can be reached, and holds each to the laws:

- no replica has more requests than its limit, those of a worker that was killed included while they may run;
- no worker believes to own what the store has given to another;
- who is cut off from the store gives up what others may be given in time, but at the replicas beside it (requests that
  are longer than that are not in the model);
- when what is on its way has arrived, it comes to rest, nobody waits while a replica that could take him is idle, and
  when all requests have ended nobody waits at all.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from activator.slots import Account, View
from state.slots import Answer, Hint, Message
from tests.state.slots_twin import LINGER, SETTLE, SILENT, World, empty, step

TICK = 250  # ms: a sweep
REST = 60  # steps in which a model must come to rest

Act = tuple[Any, ...]


@dataclass
class Worker:
    """`message` is on its way to the store, `answer` back; `ghosts` were given up and may still be heard.

    `cut_at`: since when (ms) it is cut off from the store; None: it is not.
    """

    account: Account = field(default_factory=Account)
    alive: bool = True
    seq: int = 0
    version: int = 1
    busy: dict[str, int] = field(default_factory=dict)
    held: list[int] = field(default_factory=list)  # when each came, ms
    message: Message | None = None
    answer: Answer | None = None
    ghosts: list[Message] = field(default_factory=list)
    hints: list[Hint] = field(default_factory=list)
    cut_at: int | None = None

    def copy(self) -> Worker:
        account = copy.copy(self.account)
        account.owned = dict(account.owned)
        account._over = dict(account._over)
        account._offered = dict(account._offered)
        return replace(
            self,
            account=account,
            busy=dict(self.busy),
            held=list(self.held),
            ghosts=list(self.ghosts),
            hints=list(self.hints),
        )

    def key(self) -> Any:
        account = self.account
        fields = [getattr(account, slot) for slot in Account.__slots__]
        return repr(
            (fields, self.alive, self.seq, self.version, self.busy, self.held, self.message, self.answer)
        ) + repr((self.ghosts, self.hints, self.cut_at))


@dataclass(frozen=True)
class Setting:
    """How much may happen. `limits` by version of the service's record; `faults`: how many of each kind. `home`: the
    replicas on the node of the first worker.
    """

    workers: int = 2
    replicas: tuple[str, ...] = ("r1",)
    limits: tuple[int, ...] = (1,)
    arrivals: int = 3
    ticks: int = 1
    faults: tuple[tuple[str, int], ...] = ()
    home: tuple[str, ...] = ()


@dataclass
class State:
    setting: Setting
    workers: list[Worker]
    world: World
    doc: dict[str, Any]
    arrivals: int
    ticks: int
    faults: dict[str, int]
    backup: dict[str, Any] | None = None  # an older document that a restarted store may have

    @classmethod
    def first(cls, setting: Setting) -> State:
        names = {f"w{number}" for number in range(setting.workers)}
        world = World(10_000, "run1", names, dict.fromkeys(names, "run1"), "run1", 0)
        workers = [Worker() for _ in range(setting.workers)]
        state = cls(setting, workers, world, empty(), setting.arrivals, setting.ticks, dict(setting.faults))
        for worker in workers:
            worker.account.settle(state.view(worker), state.seconds)
        return state

    def copy(self) -> State:
        world = replace(self.world, registered=set(self.world.registered), claims=dict(self.world.claims))
        doc, workers = copied(self.doc), [worker.copy() for worker in self.workers]
        return replace(self, workers=workers, world=world, doc=doc, faults=dict(self.faults))

    def key(self) -> Any:
        world = (sorted(self.world.registered), sorted(self.world.claims.items()), self.world.now, self.world.run)
        rest = (self.arrivals, self.ticks, sorted(self.faults.items()), self.backup)
        return hash((repr(self.doc), tuple(worker.key() for worker in self.workers), repr(world), repr(rest)))

    # What can happen

    def acts(self) -> Iterator[Act]:
        for number, worker in enumerate(self.workers):
            yield from (("ghost", number, at) for at in range(len(worker.ghosts)))
            if worker.alive:
                yield from self._of(number, worker)
            elif f"w{number}" in self.world.registered:
                yield "unregister", number
        if self.faults.get("restart"):
            yield "restart", "kept"
            if self.backup is not None:
                yield "restart", "older"
        if self.ticks and self.quiet:
            yield ("tick",)
        if self.faults.get("leap") and self.quiet and any(worker.cut_at is not None for worker in self.workers):
            yield ("leap",)

    def _of(self, number: int, worker: Worker) -> Iterator[Act]:
        if self.arrivals:
            yield "arrive", number
        yield from (("end", number, one) for one in worker.busy)
        if worker.cut_at is not None:
            yield "heal", number
            return
        if worker.message is not None:
            yield "heard", number
        if worker.answer is not None:
            yield "told", number
        if worker.hints:
            yield "hint", number
            if self.faults.get("hint"):
                yield "no hint", number
        if self.faults.get("lost") and (worker.message or worker.answer):
            yield "lost", number
            if worker.message is not None:
                yield "given up", number
        yield from ((fault, number) for fault in ("death", "cut") if self.faults.get(fault))
        if worker.version < len(self.setting.limits):
            yield "update", number
        if self._may_claim(number, worker):
            yield "claim", number

    def _may_claim(self, number: int, worker: Worker) -> bool:
        """As `gateway.slots` does: when the store has heard of everything that is owned."""
        said = worker.account.run == self.world.run or not worker.account.owned
        return said and not worker.account.waiting and self.world.claims.get(f"w{number}") != self.world.run

    @property
    def quiet(self) -> bool:
        """Nothing is on its way."""
        return not any(
            w.message or w.answer or w.ghosts or (w.hints and w.alive and w.cut_at is None) for w in self.workers
        )

    # What follows

    def after(self, act: Act) -> State:
        state = self.copy()
        kind = act[0].replace(" ", "_")
        getattr(state, "_" + kind)(*act[1:])
        return state

    def _arrive(self, number: int) -> None:
        self.arrivals -= 1
        self.world.now += 1
        worker = self.workers[number]
        worker.held.append(self.world.now)
        self.look(number, worker.account.lending)

    def _end(self, number: int, one: str) -> None:
        worker = self.workers[number]
        worker.busy[one] -= 1
        if not worker.busy[one]:
            del worker.busy[one]
        if worker.held or worker.account.lending:
            self.look(number, worker.account.lending)

    def _heard(self, number: int) -> None:
        worker = self.workers[number]
        assert worker.message is not None
        worker.answer, worker.message = self._step(number, worker.message), None
        assert worker.answer is not None, "the newest message is never stale"

    def _step(self, number: int, message: Message) -> Answer | None:
        self.backup = copied(self.doc) if self.faults.get("restart") else None
        self.world.heard = self._heard_of()
        answer, hints = step(self.doc, "s", f"w{number}", message, self.world)
        self.world.heard = {}
        for name, hint in hints.items():
            found = self.workers[int(name[1:])].hints
            if hint not in found:
                found.append(hint)
        if not self.doc["workers"]:
            self.doc = empty()
        return answer

    def _heard_of(self) -> dict[str, int]:
        """Whoever lives and is not cut off is heard of all the time."""
        now = self.world.now
        return {f"w{n}": now if w.cut_at is None else w.cut_at for n, w in enumerate(self.workers) if w.alive}

    def _ghost(self, number: int, at: int) -> None:
        self._step(number, self.workers[number].ghosts.pop(at))

    def _told(self, number: int) -> None:
        worker = self.workers[number]
        worker.account.answered(worker.answer, self.seconds)
        worker.answer = None
        self.look(number)

    def _hint(self, number: int) -> None:
        worker = self.workers[number]
        hint = worker.hints.pop(0)
        worker.account.hinted(hint, self.seconds)
        self.look(number)

    def _no_hint(self, number: int) -> None:
        self.faults["hint"] -= 1
        self.workers[number].hints.pop(0)

    def _lost(self, number: int) -> None:
        """The connection broke: the message was not heard, or its answer not."""
        self.faults["lost"] -= 1
        worker = self.workers[number]
        worker.message = worker.answer = None
        worker.account.failed(self.seconds)

    def _given_up(self, number: int) -> None:
        """The store did not answer in time, and may hear the message later."""
        worker = self.workers[number]
        assert worker.message is not None
        worker.ghosts.append(worker.message)
        self._lost(number)

    def _death(self, number: int) -> None:
        """Killed; what it had sent may still be heard, and its requests go on at the replicas for a while."""
        self.faults["death"] -= 1
        worker = self.workers[number]
        worker.alive = False
        if worker.message is not None:
            worker.ghosts.append(worker.message)
        worker.message = worker.answer = None
        worker.held.clear()
        worker.hints.clear()

    def _unregister(self, number: int) -> None:
        self.world.registered.discard(f"w{number}")

    def _restart(self, how: str) -> None:
        """A new run of the store, whose last writes may be missing; what it had published may still be read."""
        self.faults["restart"] -= 1
        if how == "older" and self.backup is not None:
            self.doc = self.backup
        self.backup = None
        self.world.run += "'"
        for worker in self.workers:
            worker.ghosts.clear()
            if worker.message is not None or worker.answer is not None:
                worker.message = worker.answer = None
                worker.account.failed(self.seconds)

    def _cut(self, number: int) -> None:
        """What it had sent may still be heard, and what was published for it is read when it is back."""
        self.faults["cut"] -= 1
        worker = self.workers[number]
        worker.cut_at = self.world.now
        if worker.message is not None:
            worker.ghosts.append(worker.message)
        if worker.message is not None or worker.answer is not None:
            worker.message = worker.answer = None
            worker.account.failed(self.seconds)

    def _heal(self, number: int) -> None:
        """As `gateway.slots` does."""
        worker = self.workers[number]
        worker.cut_at = None
        if worker.account.fenced:
            worker.account.doubt()
        self.look(number)

    def _leap(self) -> None:
        """So much time that who is cut off must be fenced off, while the requests that it had sent have ended."""
        self.faults["leap"] -= 1
        self._leaped()

    def _leaped(self) -> None:
        for worker in self.workers:
            if worker.cut_at is not None:
                worker.busy.clear()
                worker.account.fence()
        self.pass_time(SILENT)

    def _claim(self, number: int) -> None:
        if self.workers[number].account.run != self.world.run:
            self.workers[number].account.distrust()
        if self.world.claimed_run != self.world.run:
            self.world.claimed_run, self.world.since = self.world.run, self.world.now
        self.world.claims[f"w{number}"] = self.world.run

    def _update(self, number: int) -> None:
        self.workers[number].version += 1
        self.look(number)

    def _tick(self) -> None:
        self.ticks -= 1
        self.pass_time(TICK)

    def pass_time(self, ms: int) -> None:
        self.world.now += ms
        for number, worker in enumerate(self.workers):
            if worker.alive:
                self.look(number)
            elif ms >= LINGER:
                worker.busy.clear()  # the replicas have closed those connections

    # A worker, as the gateway has it

    @property
    def seconds(self) -> float:
        return self.world.now / 1000

    def view(self, worker: Worker) -> View:
        limit = self.setting.limits[worker.version - 1]
        waited = (self.world.now - worker.held[0]) / 1000 if worker.held else 0.0
        ready = self.setting.replicas
        home = frozenset(self.setting.home) if worker is self.workers[0] else frozenset[str]()
        held = len(worker.held)
        return View(worker.version, limit, ready, frozenset(ready), worker.busy, frozenset(), held, waited, home)

    def look(self, number: int, settle: bool = True) -> None:
        """Settle, send who can be sent, say what is to be said."""
        worker = self.workers[number]
        account = worker.account
        if settle:
            account.settle(self.view(worker), self.seconds)
        while worker.held and (free := self._free(worker)) is not None:
            worker.held.pop(0)
            worker.busy[free] = worker.busy.get(free, 0) + 1
        if account.run != self.world.run and account.owned:
            account.doubt()
        message = account.next(self.view(worker), worker.seq + 1, self.seconds)
        if message is not None:
            worker.seq += 1
            if worker.cut_at is None:
                worker.message = message
            else:
                account.failed(self.seconds)

    def _free(self, worker: Worker) -> str | None:
        for one in self.setting.replicas:
            if worker.busy.get(one, 0) < worker.account.owned.get(one, 0):
                return one
        return None

    # The laws

    def check(self) -> None:
        newest = self.setting.limits[-1]
        most = max(self.setting.limits)
        for one in self.setting.replicas:
            busy = sum(worker.busy.get(one, 0) for worker in self.workers)
            assert busy <= most, f"{busy} requests at {one}"
            owned = sum(worker.account.owned.get(one, 0) for worker in self.workers if worker.alive)
            assert owned <= most, f"{owned} slots owned of {one}"
        if newest == most:
            for worker in self.workers:
                for one, count in worker.busy.items():
                    assert count <= worker.account.owned.get(one, 0), f"{worker} uses more than it owns"

    def check_rest(self) -> None:
        """From here, without another request or fault, it comes to rest as it should."""
        state = self.copy()
        state.faults = {}
        state.settle()
        limit = self.setting.limits[-1]
        state.check_waiting()
        for number, worker in enumerate(state.workers):
            if worker.cut_at is not None:
                state._heal(number)
                state.settle()
                state.check_waiting()
        for _ in range(self.setting.arrivals + 1):
            for number, worker in enumerate(state.workers):
                for one in list(worker.busy) if worker.alive else ():
                    while worker.busy.get(one):
                        state._end(number, one)
            state.settle()
        assert not any(worker.held or worker.busy for worker in state.workers), "somebody is left"
        for one in self.setting.replicas:
            owned = sum(worker.account.owned.get(one, 0) for worker in state.workers if worker.alive)
            assert owned <= limit, f"{owned} slots of {one} are owned for ever"

    def check_waiting(self) -> None:
        """Nobody waits in vain, but who is cut off, or for a replica beside somebody who is."""
        away = any(worker.cut_at is not None for worker in self.workers)
        if any(worker.held and worker.cut_at is None for worker in self.workers):
            for one in self.setting.replicas:
                if not (away and one in self.setting.home):
                    busy = sum(worker.busy.get(one, 0) for worker in self.workers)
                    assert busy >= self.setting.limits[-1], f"somebody waits while {one} is idle"

    def settle(self) -> None:
        """Deliver everything and let time pass, by turns."""
        self.ticks = self.arrivals = 0
        if any(worker.cut_at is not None for worker in self.workers):
            self._deliver()
            self._leaped()
        for ms in (0, SETTLE, LINGER, LINGER, LINGER, TICK, TICK):
            self.pass_time(ms)
            self._deliver()

    def _deliver(self) -> None:
        for _ in range(REST):
            if (act := self._due()) is None:
                return
            getattr(self, "_" + act[0])(*act[1:])
            self.check()
        raise AssertionError("it does not come to rest")

    def _due(self) -> Act | None:
        free = ("ghost", "heard", "told", "hint", "unregister", "update", "claim")
        return next((act for act in self.acts() if act[0] in free), None)


def copied(doc: dict[str, Any]) -> dict[str, Any]:
    """As deep as it is changed in place."""
    workers = {name: {**one, "own": dict(one["own"])} for name, one in doc["workers"].items()}
    return {**doc, "workers": workers}


@dataclass
class Explored:
    """`states`, and of them those from which it was looked at how they come to rest."""

    states: int = 0
    quiet: int = 0


def explore(setting: Setting, most: int) -> Explored:
    """Every state that can be reached; AssertionError, with the acts that lead there, for one that breaks a law."""
    first = State.first(setting)
    seen = {first.key()}
    stack: list[tuple[State, tuple[Act, ...]]] = [(first, ())]
    found = Explored()
    while stack:
        state, story = stack.pop()
        found.states += 1
        assert found.states <= most, "more states than expected: the model is not finite, or has grown"
        try:
            state.check()
            if state.quiet:
                found.quiet += 1
                state.check_rest()
        except AssertionError as error:
            raise AssertionError(f"{error}\nafter {story}\n{state.workers}\n{state.doc}") from error
        for act in state.acts():
            following = state.after(act)
            key = following.key()
            if key not in seen:
                seen.add(key)
                stack.append((following, (*story, act)))
    return found
