"""Breadth first over all reachable states of a scenario, and back from the state of rest.

States that differ only in numbers that mean the same (revisions, tokens, sequence numbers) are one state: only their
order counts, and whether two are equal.
"""

from __future__ import annotations

import bisect
import functools
import gc
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import control_twin
from control_twin import Copy, Rec, Told, Wish, Write
from sleep_parts import Control, Scenario, Worker, World, at_rest, nobody_waits
from sleep_world import Explored

from state.models import ReplicaState as R


class Found(AssertionError):
    """A law is broken: how it comes to that, step by step."""


@dataclass
class Result:
    """`worlds` by number, in the order in which they were found; `after`: the transitions from each that are no
    trouble; `how`: from which world, by what, each was first reached."""

    scenario: Scenario
    worlds: list[World] = field(default_factory=list)
    after: list[list[tuple[str, int]]] = field(default_factory=list)
    how: list[tuple[int, str]] = field(default_factory=list)
    transitions: int = 0
    seconds: float = 0.0

    def path(self, number: int) -> list[str]:
        steps: list[str] = []
        while number > 0:
            number, what = self.how[number]
            steps.append(what)
        return steps[::-1]


def explore(scenario: Scenario, limit: int = 1_000_000) -> Result:
    """Every state. Raises Found with the shortest way to a broken law."""
    gc.disable()  # nothing of what is made here is garbage, and there is much of it
    try:
        return _explore(scenario, limit)
    finally:
        gc.enable()


def _explore(scenario: Scenario, limit: int) -> Result:
    began = time.process_time()
    control_twin.MAX_REPLICAS[0] = scenario.max_replicas
    explored = Explored(scenario)
    first = canonical(scenario.first())
    result = Result(scenario, [first], [], [(-1, "")])
    numbers = {first: 0}
    waiting = deque([0])
    while waiting:
        number = waiting.popleft()
        after: list[tuple[str, int]] = []
        result.after.append(after)
        try:
            for what, world, trouble in explored.steps(result.worlds[number]):
                result.transitions += 1
                world = canonical(world)
                known = numbers.get(world)
                if known is None:
                    known = numbers[world] = len(result.worlds)
                    result.worlds.append(world)
                    result.how.append((number, what))
                    waiting.append(known)
                    if known > limit:
                        raise Found("there are too many states")
                if not trouble:
                    after.append((what, known))
        except AssertionError as broken:
            raise Found("\n".join([*result.path(number), f"→ {broken}"])) from broken
    result.seconds = time.process_time() - began
    return result


def settle(result: Result) -> None:
    """From every state all that are held are sent or answered, and all comes to rest. Raises Found with the shortest
    way to a state from which it does not."""
    _lead_all(result, nobody_waits, "somebody waits for ever")
    _lead_all(result, at_rest, "it never comes to rest")
    if result.scenario.apart:
        for number in range(result.scenario.workers):
            idle = (f"worker {number}", f"what worker {number}", f"the newer that worker {number}")
            others = functools.partial(_nobody_else_waits, number)
            _lead_all(result, others, f"somebody waits for ever, while worker {number} is stopped", idle)


def _nobody_else_waits(number: int, world: World) -> bool:
    return not any(w.plane.held for w in world.workers if w.number != number)


def _lead_all(result: Result, target: Callable[[World], bool], what: str, without: tuple[str, ...] = ()) -> None:
    good = lead_to(result, target, without)
    for number in range(len(result.worlds)):
        if number not in good:
            raise Found("\n".join([*result.path(number), f"→ {what}"]))


def lead_to(result: Result, target: Callable[[World], bool], idle: tuple[str, ...] = ()) -> set[int]:
    """The states from which, with no more trouble, some order of events leads to a state of `target`. `idle`: who
    does nothing any more, by the beginning of what they do."""
    before: list[list[int]] = [[] for _ in result.worlds]
    for number, after in enumerate(result.after):
        for what, following in after:
            if not (idle and what.startswith(idle)):
                before[following].append(number)
    good = {number for number, world in enumerate(result.worlds) if target(world)}
    waiting = deque(good)
    while waiting:
        for number in before[waiting.popleft()]:
            if number not in good:
                good.add(number)
                waiting.append(number)
    return good


# -- which states are one


_STALE: Final = -7
_ACKNOWLEDGED: Final = (R.DRAINING, R.STOPPING)


def canonical(world: World) -> World:
    """Numbers by what they mean.

    A revision that somebody has applied matters only in so far as it is behind or before what must be acknowledged:
    it becomes the place of the last such one. A version matters for compare-and-set only, where it is that of the store
    or is not.
    """
    store, token, saved, one, late, workers, processes, trouble = world
    marks = _marks(world)
    now = store.run, store.backend_version
    tokens = _tokens(world)
    if one is not None:
        copy, roster, hinted, own, write = one
        one = Control(
            None if copy is None else _copy(copy, marks, now),
            None if roster is None else (_floor(roster[0], marks), roster[1]),
            hinted,
            tokens[own],
            None if write is None else _write(write, marks),
        )
    if saved is not None:
        saved = _copy(saved[0], marks, now), tokens[saved[1]]
    if late is not None:
        late = _write(late[0], marks), tokens[late[1]], _copy(late[2], marks, now)
    told = tuple(_worker(w, marks) for w in workers)
    return World(_copy(store, marks, now), tokens[token], saved, one, late, told, processes, trouble)


def _marks(world: World) -> tuple[int, ...]:
    """The revisions that must be acknowledged, now, by a control that is behind, or once the store has fallen back."""
    one, store = world.control, world.store
    copies = [store]
    if one is not None and one.copy is not None and one.copy != store:
        copies.append(one.copy)
    if world.saved is not None:
        copies.append(world.saved[0])
    if world.late is not None:
        copies.append(world.late[2])
    marks = {0}
    for copy in copies:
        for rec in copy.recs:
            if rec.state in _ACKNOWLEDGED:
                marks.add(rec.version)
        if copy.wish is not None and copy.wish.asleep:
            marks.add(copy.wish.version)
    if one is not None and one.copy is not None:
        known = {rec.name for rec in one.copy.recs}.intersection(rec.name for rec in store.recs)
        if any(name not in known for name, _ in world.processes):
            marks.update((one.copy.rev, store.rev))
    return tuple(sorted(marks))


def _floor(revision: int, marks: tuple[int, ...]) -> int:
    return revision if revision < 0 else bisect.bisect_right(marks, revision) - 1


@functools.lru_cache(200_000)
def _copy(copy: Copy, marks: tuple[int, ...], now: tuple[int, int]) -> Copy:
    version = 0 if (copy.run, copy.backend_version) == now else _STALE
    wish = None if copy.wish is None else _wish(copy.wish, marks)
    recs = tuple(_rec(rec, marks) for rec in copy.recs)
    return Copy(copy.run, _floor(copy.rev, marks), recs, wish, copy.backend, version)


def _rec(rec: Rec, marks: tuple[int, ...]) -> Rec:
    if rec.version < 0:
        return rec
    return rec._replace(version=marks.index(rec.version) if rec.state in _ACKNOWLEDGED else 0)


def _wish(wish: Wish, marks: tuple[int, ...]) -> Wish:
    version = wish.version
    if version >= 0:
        version = marks.index(version) if wish.asleep else 0
    return wish._replace(version=version, service_version=min(wish.service_version, int(wish.deleted)))


@functools.lru_cache(200_000)
def _write(write: Write, marks: tuple[int, ...]) -> Write:
    wish = None if write.wish is None else _wish(write.wish, marks)
    return write._replace(recs=tuple(_rec(rec, marks) for rec in write.recs), wish=wish)


@functools.lru_cache(200_000)
def _worker(w: Worker, marks: tuple[int, ...]) -> Worker:
    told, heard = w.told, w.heard
    if told or heard is not None:
        seqs = sorted({*(t.seq for t in told), *(() if heard is None else (heard.seq,))})
        told = tuple(_told(t, seqs, marks) for t in told)
        heard = None if heard is None else _told(heard, seqs, marks)
    return w._replace(rev=_floor(w.rev, marks), told=told, heard=heard)


def _told(told: Told, seqs: list[int], marks: tuple[int, ...]) -> Told:
    return told._replace(seq=seqs.index(told.seq) + 1, rev=_floor(told.rev, marks))


def _tokens(world: World) -> dict[int, int]:
    found = {0, world.token}
    if world.control is not None:
        found.add(world.control.token)
    if world.saved is not None:
        found.add(world.saved[1])
    if world.late is not None:
        found.add(world.late[1])
    return {token: rank for rank, token in enumerate(sorted(found))}
