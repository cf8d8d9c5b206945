"""What is due for a name, and when: an order, a look at the CA's renewal information, or a warning. Pure (law 5).

Times are microseconds. A moment that lies in the past means now.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from certs import backoff, renewal
from certs.budget import ACCOUNT_ORDERS, DAY, DUPLICATES, EARLY_RENEWALS, FAILED_VALIDATIONS, MINUTE
from certs.internal import ISSUER as INTERNAL
from certs.wanted import Wanted
from state.certificates import Certificate, Issuance, Window

UPLOADED: Final = "uploaded"  # the issuer of a certificate that its owner gave us
WARNINGS: Final = (14 * DAY, 3 * DAY)  # before the end of a certificate that only its owner can renew
HANDOVER: Final = DAY  # before that end, from which on a CA's certificate is got: nobody may be refused in between
FAULTS: Final = 3  # of one CA in a row, until the other is asked
_ASKED_AGAIN: Final = MINUTE  # between two looks at what is forbidden, however often its owner asks
_EXPECTED: Final = 20  # looks at renewal information in the lifetime of a certificate, at least


class Work(enum.Enum):
    """What is to be done."""

    ORDER = "order"
    WINDOW = "window"  # ask the CA when to renew
    WARN = "warn"  # tell the owner that his certificate ends


@dataclass(frozen=True, slots=True)
class Due:
    """`renewal`: the name is served with a certificate of a CA that is asked. `early`: only its CA says so."""

    at: int
    work: Work
    renewal: bool = False
    early: bool = False


@dataclass(frozen=True, slots=True)
class Ca:
    """An ACME server. `eab`: key id and key of the external account binding. `trusted`: by clients."""

    directory: str  # URL
    eab: tuple[str, str] | None = None
    trusted: bool = True


@dataclass(frozen=True, slots=True)
class Situation:
    """All that is known of a name.

    `identifier`: of the certificate (RFC 9773 4.1). `asked`: its owner wants a look. `disowned`: the internal CA that
    signed it is not ours any more.
    """

    wanted: Wanted
    issuance: Issuance
    certificate: Certificate | None
    identifier: str | None
    asked: bool = False
    disowned: bool = False


def ca_of(issuance: Issuance, cas: tuple[Ca, ...], now: int) -> Ca:
    """Whom to ask: the first, until it failed too often by its own fault; then the next, and so on round.

    Who wants to be left alone is asked only if all do, and his time comes first.
    """
    turn = issuance.faults // FAULTS % len(cas)
    in_turn = cas[turn:] + cas[:turn]
    return min(in_turn, key=lambda ca: max(issuance.waits.get(ca.directory, 0), now))


def known_ca(directory: str | None, cas: tuple[Ca, ...]) -> Ca | None:
    """The one at this URL, if it is still one of ours."""
    return next((ca for ca in cas if ca.directory == directory), None)


def due(situation: Situation, cas: tuple[Ca, ...], now: int) -> Due:
    """What is next for the name."""
    issuance, certificate = situation.issuance, situation.certificate
    if certificate is None or not situation.wanted.served_by(certificate, now):
        return Due(_not_before(situation, 0, now), Work.ORDER)
    if issuance.began_at is not None or not _settled(certificate, cas) or situation.disowned:
        return Due(_not_before(situation, 0, now), Work.ORDER, renewal=_settled(certificate, cas))
    if certificate.issuer == UPLOADED:
        return _warning(certificate, issuance, handover_at(certificate, cas), _not_before(situation, 0, now))
    if not cas and certificate.issuer != INTERNAL:
        return Due(certificate.not_after, Work.ORDER)  # clients may trust it: nothing that we make is better
    order = _renewal(situation, certificate, now)
    look = _look(situation, certificate, cas)
    return order if look is None or order.at <= max(look.at, now) else look


def _settled(certificate: Certificate, cas: tuple[Ca, ...]) -> bool:
    """Whether nothing better can be had: owner or clients trust it, its CA is one that we ask, or we ask none."""
    chosen = certificate.issuer == UPLOADED or certificate.trusted
    return not cas or chosen or known_ca(certificate.issuer, cas) is not None


def _not_before(situation: Situation, moment: int, now: int) -> int:
    """`moment`, unless an earlier failure has it wait."""
    issuance = situation.issuance
    if issuance.retry_at is None:
        return moment
    if issuance.permanent and situation.asked:
        return max(moment, min(issuance.retry_at, (issuance.failed_at or 0) + _ASKED_AGAIN))
    return max(moment, min(issuance.retry_at, now + backoff.LONGEST_ASKED))  # a clock that went back


def _renewal(situation: Situation, certificate: Certificate, now: int) -> Due:
    usual = renewal.renew_at(certificate)
    moment = usual
    if (window := window_of(situation)) is not None:
        moment = renewal.suggested_at(certificate, window)
    early = moment < usual and now < usual
    if early:
        moment = min(usual, max(moment, EARLY_RENEWALS.room_at(situation.issuance.renewed, now)))
    return Due(_not_before(situation, moment, now), Work.ORDER, renewal=True, early=early)


def window_of(situation: Situation) -> Window | None:
    """What the CA suggests for the certificate that is served, as far as it was heard."""
    issuance = situation.issuance
    return issuance.window if issuance.window_of is not None and issuance.window_of == situation.identifier else None


def _look(situation: Situation, certificate: Certificate, cas: tuple[Ca, ...]) -> Due | None:
    issuance = situation.issuance
    if situation.identifier is None or known_ca(certificate.issuer, cas) is None:
        return None
    asked = issuance.window_of == situation.identifier and issuance.window_at is not None
    return Due(issuance.window_at or 0 if asked else 0, Work.WINDOW)


def look_again(certificate: Certificate, seconds: float, now: int) -> int:
    """When to ask for renewal information again, given the CA's Retry-After: from a minute to a day (RFC 9773 4.3).

    Those that last for hours only are asked for more often.
    """
    pause = min(max(int(seconds * 1e6), MINUTE), DAY)
    return now + min(pause, max((certificate.not_after - certificate.not_before) // _EXPECTED, 1_000_000))


def handover_at(certificate: Certificate, cas: tuple[Ca, ...]) -> int:
    """From when on another may take the place of an uploaded certificate.

    Before its end only if clients trust both: those of a CA of its owner's may trust no other.
    """
    return certificate.not_after - (HANDOVER if certificate.trusted and any(ca.trusted for ca in cas) else 0)


def _warning(certificate: Certificate, issuance: Issuance, handover: int, not_before: int) -> Due:
    """The next warning that was not given; after the last of them, the order: the name is ours to serve soon."""
    moments = sorted(certificate.not_after - before for before in WARNINGS)
    left = [moment for moment in moments if moment > issuance.warned]
    return Due(left[0], Work.WARN) if left else Due(max(handover, not_before), Work.ORDER)


def room_at(issuance: Issuance, orders: tuple[int, ...], renewal: bool, now: int) -> int:
    """When an order may be made within all budgets: `now`, or later. `orders`: those of the account.

    Renewals are within the CA's limits however many there are; failed validations never are.
    """
    room = FAILED_VALIDATIONS.room_at(issuance.failed, now)
    if renewal:
        return room
    return max(room, DUPLICATES.room_at(issuance.ordered, now), ACCOUNT_ORDERS.room_at(orders, now))
