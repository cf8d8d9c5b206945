"""`state/slots.lua` in Python: equal to it, as `test_slots_twin.py` shows, so that models of the protocol run fast.

A document is what the store keeps, as decoded JSON; `step` changes it in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from state.slots import Answer, Hint, Message

LINGER, PATIENCE, REPEAT, SETTLE, SILENT = 5000, 2000, 100, 1000, 25_000  # ms

Document = dict[str, Any]


@dataclass
class World:
    """What else the script looks at. `claims` by worker; `since`: when the newest run was first claimed in (ms);
    `heard`: of whom when (ms), `step` notes the speaker.
    """

    now: int = 0
    run: str = "run"
    registered: set[str] = field(default_factory=set)
    claims: dict[str, str] = field(default_factory=dict)
    claimed_run: str = ""
    since: int = 0
    heard: dict[str, int] = field(default_factory=dict)


def empty() -> Document:
    return {"run": "", "open": False, "version": 0, "limit": 0, "ready": [], "workers": {}}


def step(
    doc: Document, service: str, worker: str, message: Message, world: World
) -> tuple[Answer | None, dict[str, Hint]]:
    """The answer, and what others are told."""
    now, run, registered = world.now, world.run, world.registered
    heard = {**world.heard, worker: now}
    if worker in registered:
        world.heard[worker] = now
    if doc["run"] != run:
        doc.update(run=run, open=False, version=0, limit=0, ready=[])
    entry = _take_in(doc, worker, message, now, run)
    if entry is None:
        return None, {}
    if message.version >= doc["version"]:
        doc.update(version=message.version, limit=message.limit, ready=list(message.ready))
    _bury(doc, worker, registered, heard, now)
    if not doc["open"] and worker in registered:
        _open(doc, world, heard)
    total, waiting = _totals(doc), _wanting(doc, registered, now)
    gained: set[str] = set()
    if doc["open"]:
        _grant(doc, waiting, total, gained)
        unmet = any(doc["workers"][one]["want"] for one in waiting)
        if not unmet and worker in registered and not message.leaving:
            _spread(doc, entry, total, len(registered))
    hints = _hints(doc, service, waiting, worker, gained, now)
    count, waited = _foreign(doc, waiting, worker, now)
    over = {r: total[r] - doc["limit"] for r in entry["own"] if doc["version"] and total[r] > doc["limit"]}
    answer = Answer(
        run,
        dict(entry["own"]),
        entry["want"],
        count,
        waited,
        over,
        world.claims.get(worker) == run,
        worker in registered,
    )
    if not sum(entry["own"].values()) and not entry["want"]:
        del doc["workers"][worker]
    return answer, hints


def _take_in(doc: Document, worker: str, message: Message, now: int, run: str) -> Document | None:
    entry: Document | None = doc["workers"].get(worker)
    if entry is not None and entry["run"] == run and message.seq <= entry["seq"]:
        return None
    if entry is not None and entry["run"] == run and not entry.get("lapsed"):
        held = {replica: min(count, message.holds.get(replica, 0)) for replica, count in entry["own"].items()}
        entry["own"] = {replica: count for replica, count in held.items() if count > 0}
    else:
        entry = doc["workers"][worker] = {"own": dict(message.holds), "told": 0}
    entry.update(seq=message.seq, run=run, at=now)
    entry.update(want=message.want, since=now - message.waited, shun=dict.fromkeys(message.shun, True))
    entry["home"] = dict.fromkeys(message.home, True)
    return entry


def _silent(heard: Mapping[str, int], worker: str, now: int, limit: int) -> bool:
    return worker in heard and now - heard[worker] >= limit


def _lapse(doc: Document, worker: str, entry: Document) -> None:
    left = {replica: count for replica, count in entry["own"].items() if replica in entry["home"]}
    entry.update(own=left, want=0, lapsed=True)
    if not left:
        del doc["workers"][worker]


def _bury(doc: Document, speaker: str, registered: set[str], heard: Mapping[str, int], now: int) -> None:
    for worker, entry in list(doc["workers"].items()):
        quiet = worker in registered and _silent(heard, worker, now, SILENT)
        if worker in registered and not quiet:
            entry.pop("dead", None)
        elif "dead" not in entry or worker == speaker:
            entry["dead"] = now
        elif quiet:
            if now - entry["dead"] >= 2 * LINGER:
                _lapse(doc, worker, entry)
        elif now - entry["dead"] >= LINGER:
            del doc["workers"][worker]


def _open(doc: Document, world: World, heard: Mapping[str, int]) -> None:
    if world.claimed_run != world.run or world.now - world.since < SETTLE:
        return
    long = SILENT + 2 * LINGER
    for worker in world.registered:
        gone = world.now - world.since >= long and _silent(heard, worker, world.now, long)
        if world.claims.get(worker) != world.run and not gone:
            return
    doc["open"] = True
    for worker, entry in list(doc["workers"].items()):
        if entry["run"] != world.run and worker in world.registered:
            if world.claims.get(worker) == world.run:
                del doc["workers"][worker]
            else:
                _lapse(doc, worker, entry)


def _totals(doc: Document) -> dict[str, int]:
    total = dict.fromkeys(doc["ready"], 0)
    for entry in doc["workers"].values():
        for replica, count in entry["own"].items():
            total[replica] = total.get(replica, 0) + count
    return total


def _wanting(doc: Document, registered: set[str], now: int) -> list[str]:
    found = [
        worker
        for worker, entry in doc["workers"].items()
        if worker in registered and entry["want"] > 0 and now - entry["at"] <= PATIENCE
    ]
    return sorted(found, key=lambda worker: (doc["workers"][worker]["since"], worker))


def _choose(doc: Document, entry: Mapping[str, Any], total: Mapping[str, int]) -> str | None:
    able = [one for one in doc["ready"] if total[one] < doc["limit"] and one not in entry["shun"]]
    return min(able, key=total.__getitem__, default=None)


def _give(entry: Document, replica: str, count: int, total: dict[str, int]) -> None:
    entry["own"][replica] = entry["own"].get(replica, 0) + count
    total[replica] += count


def _grant(doc: Document, waiting: list[str], total: dict[str, int], gained: set[str]) -> None:
    going = True
    while going:
        going = False
        for worker in waiting:
            entry = doc["workers"][worker]
            replica = _choose(doc, entry, total) if entry["want"] > 0 else None
            if replica is not None:
                _give(entry, replica, 1, total)
                entry["want"] -= 1
                gained.add(worker)
                going = True


def _spread(doc: Document, entry: Document, total: dict[str, int], workers: int) -> None:
    usable = [replica for replica in doc["ready"] if replica not in entry["shun"]]
    if not usable:
        return
    share = doc["limit"] * len(usable) // workers
    each = -(-share // len(usable))
    left = share - sum(entry["own"].get(replica, 0) for replica in usable)
    for replica in sorted(usable, key=total.__getitem__):
        count = min(doc["limit"] - total[replica], each - entry["own"].get(replica, 0), left)
        if count > 0:
            _give(entry, replica, count, total)
            left -= count


def _foreign(doc: Document, waiting: list[str], worker: str, now: int) -> tuple[int, int]:
    others = [doc["workers"][one] for one in waiting if one != worker and doc["workers"][one]["want"] > 0]
    return sum(one["want"] for one in others), max([now - one["since"] for one in others], default=0)


def _hints(doc: Document, service: str, waiting: list[str], worker: str, gained: set[str], now: int) -> dict[str, Hint]:
    found: dict[str, Hint] = {}
    for other, entry in doc["workers"].items():
        count, waited = _foreign(doc, waiting, other, now)
        own = sum(entry["own"].values())
        due = count > 0 and own > 0 and now - entry["told"] >= REPEAT
        if other != worker and (other in gained or due):
            found[other] = Hint(service, entry["seq"], dict(entry["own"]), count, waited)
        if count == 0:
            entry["told"] = 0
        elif other == worker or other in found:
            entry["told"] = now
    return found
