"""Places of a node that callers take for a while: streams, calls that wait, bytes on their way.

Law 7: only so many at once; and nobody's are all of them, so that one key, or one namespace with many keys, does not
shut out the others. Who has his share is told so (429); 503 is for those who meet a node that is full. A key of every
namespace counts for none.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from control.contract.problem import Problem
from control.services import names
from state.models import ApiKey

_MINE: Final = 429
_FULL: Final = 503


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many at once, on this node."""

    key: int
    namespace: int
    node: int


class Shares:
    """`what` they are of, in the plural, and after how many `seconds` to try again, is told to who is refused."""

    def __init__(self, what: str, bounds: Bounds, seconds: int) -> None:
        self.bounds = bounds
        self.total = 0
        self.refused = 0
        self._what = what
        self._headers = {"Retry-After": str(seconds)}
        self._keys: Counter[str] = Counter()
        self._namespaces: Counter[str] = Counter()

    @contextlib.contextmanager
    def held(self, caller: ApiKey, amount: int = 1) -> Iterator[None]:
        """Take so many for a while; what is more than a share fits if nothing else is held. Raises Problem 429, 503."""
        key, namespace = f"{caller.namespace}/{caller.name}", caller.namespace
        self._check(key, namespace, amount)
        self._count(key, namespace, amount)
        try:
            yield
        finally:
            self._count(key, namespace, -amount)

    def _check(self, key: str, namespace: str, amount: int) -> None:
        if _beyond(self._keys[key], amount, self.bounds.key):
            raise self._problem(_MINE, f"This key has its share of {self._what}")
        if namespace != names.EVERY_NAMESPACE and _beyond(self._namespaces[namespace], amount, self.bounds.namespace):
            raise self._problem(_MINE, f"The keys of {namespace} have their share of {self._what}")
        if _beyond(self.total, amount, self.bounds.node):
            raise self._problem(_FULL, f"This node has too many {self._what}")

    def _problem(self, status: int, reason: str) -> Problem:
        self.refused += 1
        return Problem(status, f"{reason} already; try again when some have ended.", headers=self._headers)

    def _count(self, key: str, namespace: str, amount: int) -> None:
        self.total += amount
        for counter, name in ((self._keys, key), (self._namespaces, namespace)):
            counter[name] += amount
            if not counter[name]:
                del counter[name]


def _beyond(held: int, amount: int, bound: int) -> bool:
    return held > 0 and held + amount > bound
