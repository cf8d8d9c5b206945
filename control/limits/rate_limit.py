"""How many requests a key may make, and all keys of a namespace: quotas for all nodes, kept in the store (`quota.lua`).

Laws kept here: reads go on without the store (law 1), so that a store which doesn't answer lets requests through, and
counts them (law 7); it is asked once per request, and whether the key has been revoked is part of the question, so that
a revoked key is refused on every node at once, however far behind its mirror is.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from importlib import resources
from typing import Final

from control.contract.problem import Problem
from control.credentials.auth import key_id, unauthorized
from control.ports import Objects
from control.services import names
from state.kinds import Kind
from state.models import ApiKey
from state.store import Store, StoreError, kind_key

DEFAULT: Final = 600  # requests of a key per WINDOW
WINDOW: Final = 60  # seconds
KEYS: Final = 10  # as many times a key's quota is what all keys of a namespace may make together

_PATIENCE: Final = 1.0  # seconds for the store's answer; it takes less than a millisecond
_PAUSE: Final = 2.0  # seconds without asking, after none came
_MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Quota:
    """What is left of a key's requests, and in how many seconds all of them are there again; or of its namespace's."""

    limit: int
    left: int
    whole_in: int
    name: str = "default"

    @property
    def headers(self) -> dict[str, str]:
        """draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4."""
        return {
            "RateLimit-Policy": f'"{self.name}";q={self.limit};w={WINDOW}',
            "RateLimit": f'"{self.name}";r={self.left};t={self.whole_in}',
        }


class RateLimit:
    """`limit`: requests of one key per minute, also at once; 0: any number. All keys of a namespace together have KEYS
    times that; one of every namespace counts for none."""

    def __init__(self, store: Store, objects: Objects, limit: int = DEFAULT) -> None:
        self._ask = store.script(resources.files("control.limits").joinpath("quota.lua").read_text())
        self._objects = objects
        self._limit = limit
        self._heard_at = -math.inf  # monotonic
        self._silent_until = 0.0
        self.refused = 0
        self.unlimited = 0  # let through, since the store didn't answer

    @property
    def silent(self) -> bool:
        """The store does not answer, as far as this node knows."""
        return not self._objects.connected or time.monotonic() < self._silent_until

    async def spend(self, key: ApiKey) -> Quota | None:
        """What is left after this request; None: no limit is known. Raises Problem 401, 429."""
        identity = key_id(key.namespace, key.name)
        answer = await self._answer(identity, key)
        if answer is None:
            self.unlimited += 1
            return None
        said, *numbers = answer
        match said, [int(number) for number in numbers]:
            case b"revoked", _:
                raise unauthorized("The key is unknown, revoked or expired.")
            case b"spent", [left, until_whole]:
                return Quota(self._limit, left, _seconds(until_whole))
            case b"refused", [until_next, _]:
                self.refused += 1
                raise _too_many("The key has", Quota(self._limit, 0, _seconds(until_next)))
            case b"crowded", [until_next, _]:
                self.refused += 1
                quota = Quota(self._limit * KEYS, 0, _seconds(until_next), "namespace")
                raise _too_many(f"All keys of {key.namespace} together have", quota)
            case _:
                return None

    async def _answer(self, identity: str, key: ApiKey) -> list[bytes] | None:
        """That of `quota.lua`; None: there is none, or the store was silent a moment ago."""
        if self.silent:
            return None
        shared = 0 if key.namespace == names.EVERY_NAMESPACE else self._limit * KEYS
        arguments = [identity, key.digest, self._limit, WINDOW * _MICRO, shared]
        clocks = [f"{{wg}}:quota:{identity}", f"{{wg}}:quota:{key.namespace}"]
        try:
            async with asyncio.timeout(_PATIENCE):
                answer: list[bytes] = await self._ask([kind_key(Kind.KEY), *clocks], arguments)
        except (StoreError, TimeoutError):
            now = time.monotonic()
            if now - self._heard_at >= _PATIENCE:  # else it answers others: a crowd must not get rid of its quotas
                self._silent_until = now + _PAUSE
            return None
        self._heard_at = time.monotonic()
        return answer


def _too_many(who: str, quota: Quota) -> Problem:
    wait = quota.whole_in
    detail = f"{who} made {quota.limit} requests within {WINDOW} s; the next one can follow in {wait} s."
    # the draft's section 4: nothing is left for as long as Retry-After says
    return Problem(429, detail, headers={"Retry-After": str(wait), **quota.headers})


def _seconds(micro: int) -> int:
    return max(1, math.ceil(micro / _MICRO))
