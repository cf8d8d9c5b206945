"""What orders are made with: the store, the CAs, the keys, and whom to tell."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from certs.acme import chain as chains
from certs.acme.errors import AcmeError
from certs.budget import DUPLICATES, NAMESPACE_ORDERS
from certs.due import Ca, Situation
from certs.issuer_account import Accounts
from certs.issuer_proofs import TxtRecords
from certs.issuer_records import Records, Seen
from certs.wanted import Wanted
from state.models import Certificate, Event, Issuance
from state.secrets import Vault

log = logging.getLogger(__name__)

ISSUED: Final = "issued"
RENEWED: Final = "renewed"
_REMEMBERED: Final = 10_000  # names whose orders are remembered although their records may be gone

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
    _ordered: dict[str, tuple[int, ...]] = field(default_factory=dict)  # by name, also of those that are gone
    _spent: dict[str, tuple[int, ...]] = field(default_factory=dict)  # by namespace, since this control was started

    def orders(self, issuance: Issuance, now: int) -> tuple[int, ...]:
        """Those for the name that were no renewals, also from before it was removed and added again."""
        known = {*issuance.ordered, *self._ordered.get(issuance.names[0], ())}
        return DUPLICATES.spent(tuple(known), now)

    def remember(self, issuance: Issuance) -> None:
        """Its orders, whatever becomes of the record: an owner who adds his domain again finds no new budget."""
        self._ordered.pop(issuance.names[0], None)
        if issuance.ordered:
            self._ordered[issuance.names[0]] = issuance.ordered
            if len(self._ordered) > _REMEMBERED:
                del self._ordered[next(iter(self._ordered))]

    def room_of(self, namespace: str, now: int) -> int:
        """When this namespace may have an order made that is no renewal: none takes all that the account may have."""
        return now if not namespace else NAMESPACE_ORDERS.room_at(self._spent.get(namespace, ()), now)

    def ordering(self, namespace: str, now: int) -> None:
        """One is made."""
        self._spent[namespace] = NAMESPACE_ORDERS.noted(self._spent.pop(namespace, ()), now)
        if len(self._spent) > _REMEMBERED:
            del self._spent[next(iter(self._spent))]

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
