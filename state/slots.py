"""Who owns how many slots of which replica: the store's side of exact `concurrency` (docs/concurrency.md).

- `{wg}:slots` (hash by service): one JSON document each, which only `slots.lua` changes: the limit and the ready
  replicas of the newest backend that a worker told of, and what each worker owns and wants.
- `{wg}:slots:claims` (hash by worker): the run of the store in which a worker has last said what it owns of every
  service; before all have, nothing is granted. The field "@": the newest run and when it began.
- `{wg}:slots:heard` (hash by worker): when the store last heard of a worker, ms of its own clock. Who was not heard of
  for long has lost what it owned, but at the replicas of its own node.

Laws kept here: 6 (every change is one script), 2 (a message is a level: it may be lost, repeated or late) and 7 (a
document is bounded by replicas times workers; those of services that are no more are removed by control).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from state.store import WORKERS_KEY, Store, script, translated

DOCUMENTS_KEY: Final = "{wg}:slots"
CLAIMS_KEY: Final = "{wg}:slots:claims"
HEARD_KEY: Final = "{wg}:slots:heard"
CHANNEL: Final = "wg:slots:"  # and the worker's registration
MOST_WANTED: Final = 64  # slots that one message can ask for


@dataclass(frozen=True, slots=True)
class Message:
    """What a worker says of a service. `seq` rises with each message of the worker.

    `holds`: slots by replica that it uses or keeps; of what it owns everything else is free again. `want`: requests
    that are held for want of a slot, `waited`: how long the first of them has been (ms). `limit`, `ready` (replica
    ids): as the service's record of revision `version` says. `shun`: replicas that it would not send to at present.
    `leaving`: it will take no more requests. `home`: of `ready`, those on the worker's own node.
    """

    seq: int
    holds: Mapping[str, int]
    want: int
    waited: int
    version: int
    limit: int
    ready: tuple[str, ...]
    shun: frozenset[str] = frozenset()
    leaving: bool = False
    home: frozenset[str] = frozenset()

    def encode(self) -> str:
        """JSON."""
        return json.dumps(
            {
                "seq": self.seq,
                "holds": dict(self.holds),
                "want": self.want,
                "waited": self.waited,
                "version": self.version,
                "limit": self.limit,
                "ready": list(self.ready),
                "shun": dict.fromkeys(self.shun, True),
                "leaving": self.leaving,
                "home": dict.fromkeys(self.home, True),
            },
            separators=(",", ":"),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What the store says to a message: `own` is exactly what the worker owns from now on, by replica.

    `run`: of the server. `want`: of what was asked for, what was not granted. `foreign`: slots that other workers want,
    the first of them for `waited` ms. `over`: by replica, how many more are owned by all than the limit allows.
    `claimed`, `registered`: whether the store knows the worker's claims of this run, and the worker.
    """

    run: str
    own: Mapping[str, int]
    want: int = 0
    foreign: int = 0
    waited: int = 0
    over: Mapping[str, int] = field(default_factory=dict)
    claimed: bool = True
    registered: bool = True


@dataclass(frozen=True, slots=True)
class Hint:
    """Not asked for: `own` is what the worker owns of the service, by replica, if message `seq` is the last that it
    sent; others want `want` slots, the first of them for `waited` ms."""

    service: str
    seq: int
    own: Mapping[str, int]
    want: int
    waited: int


class MalformedHint(ValueError):
    """The bytes are no hint."""


def decode_hint(data: bytes) -> Hint:
    """Raises MalformedHint."""
    try:
        raw: Any = json.loads(data)
        own = {str(replica): int(count) for replica, count in raw["own"].items()}
        return Hint(str(raw["service"]), int(raw["seq"]), own, int(raw["want"]), int(raw["waited"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MalformedHint(f"a hint about slots can't be read: {error!r}") from error


def decode_answer(data: bytes) -> Answer:
    raw: Any = json.loads(data)
    return Answer(
        raw["run"],
        raw["own"],
        raw["want"],
        raw["foreign"],
        raw["waited"],
        raw["over"],
        raw["claimed"],
        raw["registered"],
    )


class Slots:
    """The slots in a store. Everything raises Unavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._client: Any = store.client
        self._sync = self._client.register_script(script("slots.lua"))
        self._claim = self._client.register_script(script("claim.lua"))

    async def sync(self, service: str, worker: str, message: Message) -> Answer | None:
        """Say a message and learn what the worker owns. None: a later one was heard before."""
        keys = [DOCUMENTS_KEY, WORKERS_KEY, CLAIMS_KEY, HEARD_KEY]
        async with translated():
            answer: bytes = await self._sync(keys=keys, args=[service, worker, CHANNEL, message.encode()])
        return None if answer == b"stale" else decode_answer(answer)

    async def claimed(self, worker: str) -> tuple[str, bool]:
        """The run of the store, and whether it knows the claims of `worker` in it."""
        return await self._call_claim(worker, "")

    async def claim(self, worker: str, run: str) -> bool:
        """The worker has said what it owns of every service, in this run. False: it is over."""
        return (await self._call_claim(worker, run))[1]

    async def _call_claim(self, worker: str, run: str) -> tuple[str, bool]:
        async with translated():
            found, known = await self._claim(keys=[WORKERS_KEY, CLAIMS_KEY, HEARD_KEY], args=[worker, run])
        return found.decode(), known == b"1"

    async def told(self, worker: str) -> AsyncIterator[bytes]:
        """The hints for a worker, for ever; what comes while the store is out of reach is lost."""
        async for _, data in self._store.subscribe(CHANNEL + worker):
            yield data

    async def services(self) -> set[str]:
        """Those of which a document is kept."""
        async with translated():
            return {service.decode() for service in await self._client.hkeys(DOCUMENTS_KEY)}

    async def forget(self, services: Collection[str]) -> None:
        """They are no more."""
        if services:
            async with translated():
                await self._client.hdel(DOCUMENTS_KEY, *services)
