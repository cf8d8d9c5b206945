"""How many requests a key may make: one quota for all nodes, kept in the store (`quota.lua`).

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

from control.auth import key_id, unauthorized
from control.ports import Objects
from control.problem import Problem
from state.kinds import Kind
from state.models import ApiKey
from state.store import Store, StoreError, kind_key

DEFAULT: Final = 600  # requests of a key per WINDOW
WINDOW: Final = 60  # seconds

_PATIENCE: Final = 1.0  # seconds for the store's answer; it takes less than a millisecond
_PAUSE: Final = 2.0  # seconds without asking, after none came
_MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Quota:
    """What is left of a key's requests, and in how many seconds all of them are there again."""

    limit: int
    left: int
    whole_in: int

    @property
    def headers(self) -> dict[str, str]:
        """draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4."""
        return {
            "RateLimit-Policy": f'"default";q={self.limit};w={WINDOW}',
            "RateLimit": f'"default";r={self.left};t={self.whole_in}',
        }


class RateLimit:
    """`limit`: requests of one key per minute, also at once; 0: any number."""

    def __init__(self, store: Store, objects: Objects, limit: int = DEFAULT) -> None:
        self._ask = store.script(resources.files("control").joinpath("quota.lua").read_text())
        self._objects = objects
        self._limit = limit
        self._heard_at = -math.inf  # monotonic
        self._silent_until = 0.0
        self.refused = 0
        self.unlimited = 0  # let through, since the store didn't answer

    async def spend(self, key: ApiKey) -> Quota | None:
        """What is left after this request; None: no limit is known. Raises Problem 401, 429."""
        identity = key_id(key.namespace, key.name)
        answer = await self._answer(identity, key.digest)
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
                raise self._too_many(_seconds(until_next))
            case _:
                return None

    async def _answer(self, identity: str, digest: str) -> list[bytes] | None:
        """That of `quota.lua`; None: there is none, or the store was silent a moment ago."""
        if not self._objects.connected or time.monotonic() < self._silent_until:
            return None
        arguments = [identity, digest, self._limit, WINDOW * _MICRO]
        try:
            async with asyncio.timeout(_PATIENCE):
                answer: list[bytes] = await self._ask([kind_key(Kind.KEY), f"{{wg}}:quota:{identity}"], arguments)
        except (StoreError, TimeoutError):
            now = time.monotonic()
            if now - self._heard_at >= _PATIENCE:  # else it answers others: a crowd must not get rid of its quotas
                self._silent_until = now + _PAUSE
            return None
        self._heard_at = time.monotonic()
        return answer

    def _too_many(self, wait: int) -> Problem:
        detail = f"The key has made {self._limit} requests within {WINDOW} s; the next one can follow in {wait} s."
        # the draft's section 4: nothing is left for as long as Retry-After says
        headers = {"Retry-After": str(wait), **Quota(self._limit, 0, wait).headers}
        return Problem(429, detail, headers=headers)


def _seconds(micro: int) -> int:
    return max(1, math.ceil(micro / _MICRO))
