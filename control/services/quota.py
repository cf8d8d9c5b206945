"""How many services a namespace may have: a count in the store that goes along in the commit of each create and delete.

Laws kept here: 6 (the store itself adds and compares, so that creates at once, on whatever nodes, neither wait for each
other nor pass the bound together) and 7.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from control.contract.problem import FieldError, Problem, unprocessable
from control.ports import Objects
from control.services.catalogue import Catalogue
from state.kinds import Kind
from state.store import ABSENT, Change, Conflict, Full, Store


@dataclass(frozen=True, slots=True)
class Quota:
    """`most` services of a namespace; 0: any number."""

    store: Store
    objects: Objects
    catalogue: Catalogue
    most: int

    def one_more(self, namespace: str) -> Change:
        return Change(Kind.TALLY, namespace, None, step=1, most=self.most)

    async def mend(self, namespace: str) -> None:
        """Put the count right if the services say another: something wrote them that does not count.

        Every create and delete gives the count another version, so nothing is written over one that we don't know of.
        Raises StoreError.
        """
        record, found = self.objects.get(Kind.TALLY, namespace), self.catalogue.count(namespace)
        if not self.objects.connected or found == (0 if record is None else int(record.value)):
            return
        known = ABSENT if record is None else record.version
        with contextlib.suppress(Conflict):
            await self.store.commit([Change(Kind.TALLY, namespace, str(found).encode() if found else None, known)])

    def refusal(self, full: Full) -> Problem:
        what = f"has {full.found} services, and {self.most} are the most (--max-services): delete one first"
        return unprocessable([FieldError("namespace", what)])


def one_less(namespace: str) -> Change:
    return Change(Kind.TALLY, namespace, None, step=-1)
