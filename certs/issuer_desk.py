"""What orders are made with: the store, the CAs, the keys, and whom to tell."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from certs.acme import chain as chains
from certs.acme.errors import AcmeError
from certs.budget import NAMESPACE_ORDERS
from certs.due import Ca, Situation, room_at
from certs.issuer_account import Accounts
from certs.issuer_proofs import TxtRecords
from certs.issuer_records import Records, Seen
from certs.spending import of_namespace
from certs.wanted import Wanted
from state.certificates import Certificate, Spent
from state.codec import encode
from state.kinds import Kind
from state.models import Event
from state.secrets import Vault
from state.store import Change

log = logging.getLogger(__name__)

ISSUED: Final = "issued"
RENEWED: Final = "renewed"

Caa = Callable[[str, tuple[str, ...], str, str | None], Awaitable[None]]
"""May the CA of these identities issue for the name, by this type of challenge and this account (URL)?

Raises Setback if it may not, or if DNS does not say.
"""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: for workers to acknowledge, for the CA to look, and to make the certificate; between looks."""

    acknowledged: float = 10.0
    validated: float = 120.0
    issued: float = 120.0
    first_look: float = 0.25
    longest_pause: float = 10.0


@dataclass(frozen=True, slots=True)
class Desk:
    """What orders are made with. `now`: microseconds since the epoch."""

    records: Records
    accounts: Accounts
    cas: tuple[Ca, ...]
    keys: Vault  # of orders (purpose ACME)
    certificates: Vault  # of what workers serve (purpose CERTIFICATES)
    allowed: Caa
    acknowledged: Callable[[int, float], Awaitable[bool]]
    tell: Callable[[str, Event], None]
    now: Callable[[], int]
    reach: tuple[str, ...] = ()  # types of challenges that can be answered, the best first
    txt: TxtRecords | None = None
    profile: str | None = None
    patience: Patience = field(default_factory=Patience)
    counts: Counter[str] = field(default_factory=Counter)
    intending: asyncio.Lock = field(default_factory=asyncio.Lock)  # what is left of a budget is spent by one order

    async def room_at(self, seen: Seen, ca: Ca, renewal: bool, now: int) -> tuple[int, tuple[Change, ...]]:
        """When there is room for an order in all budgets, and what one that is made now spends of the namespace's.

        That is to be committed with the order's intent. Raises StoreError.
        """
        room = room_at(seen.issuance, await self.accounts.orders(ca), renewal, now)
        namespace = seen.wanted.namespace
        if renewal or not namespace:
            return room, ()
        spent, version = await self.records.spent_by(namespace)
        after = encode(Spent(NAMESPACE_ORDERS.noted(spent.ordered, now)))
        change = Change(Kind.BUDGET, of_namespace(namespace), after, version)
        return max(room, NAMESPACE_ORDERS.room_at(spent.ordered, now)), (change,)

    def situation(self, seen: Seen, asked: bool) -> Situation:
        certificate = seen.certificate
        return Situation(seen.wanted, seen.issuance, certificate, identifier(certificate), asked)

    def event(self, wanted: Wanted, kind: str, text: str) -> None:
        """To the owner, or of the platform's own names to the log."""
        log.info("%s: %s", kind, text)
        if wanted.service is not None:
            self.tell(wanted.service, Event(self.now(), kind, text))


def identifier(certificate: Certificate | None) -> str | None:
    """For renewal information (RFC 9773 4.1); None if it has none."""
    return None if certificate is None else _identifier(certificate.chain)


@functools.lru_cache(maxsize=4096)
def _identifier(chain: str) -> str | None:
    try:
        return chains.describe(chains.split(chain.encode())[0]).identifier
    except AcmeError:
        return None
