"""What is due between two orders of a name: the CA's word on when to renew (RFC 9773), and warnings to owners."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from certs.acme.errors import AcmeError
from certs.acme.renewal_info import RenewalInfo
from certs.due import Ca, Work, due, known_ca, look_again
from certs.issuer_desk import Desk, identifier
from certs.issuer_records import Seen
from certs.setbacks import Setback
from state.certificates import Window

log = logging.getLogger(__name__)

_USUAL: Final = 6 * 3600.0  # seconds between looks, if the CA does not say (RFC 9773 4.3.3)
_FAILED: Final = 3600.0  # after one that failed
_NONE: Final = 86400.0  # where there is no renewal information


async def ask_when_to_renew(desk: Desk, seen: Seen) -> Seen:
    """Store what the CA suggests. One that does not answer changes nothing but the time of the next look.

    Raises Lost, StoreError.
    """
    certificate, known_as = seen.certificate, identifier(seen.certificate)
    ca = None if certificate is None else known_ca(certificate.issuer, desk.cas)
    now = desk.now()
    if certificate is None or known_as is None or ca is None:
        return seen
    if due(desk.situation(seen, asked=False), desk.cas, now).work is not Work.WINDOW:
        return seen
    issuance = seen.issuance
    window = issuance.window if issuance.window_of == known_as else None
    try:
        info = await _asked(desk, ca, known_as)
    except (AcmeError, Setback) as error:
        log.info("%s: %s does not say when to renew: %s", seen.wanted.name, ca.directory, error)
        again = error.asked if isinstance(error, Setback) else error.retry_after
        again = _FAILED if again is None else again
    else:
        again = _NONE if info is None else info.retry_after or _USUAL
        window = None if info is None else _told(seen, info, window)
    at = look_again(certificate, again, now)
    return await desk.records.write(seen, replace(issuance, window=window, window_of=known_as, window_at=at))


async def _asked(desk: Desk, ca: Ca, known_as: str) -> RenewalInfo | None:
    """None: the CA offers no renewal information. Raises AcmeError, Setback, Lost, StoreError."""
    member = await desk.accounts.of(ca)
    if member.directory.renewal_info is None:
        return None
    return await member.client.renewal_info(known_as)


def _told(seen: Seen, info: RenewalInfo, before: Window | None) -> Window:
    window = Window(info.start, info.end)
    if info.explanation is not None and window != before:
        log.warning("%s: its CA says why to renew: %s", seen.wanted.name, info.explanation)
    return window


async def warn(desk: Desk, seen: Seen) -> Seen:
    """Tell the owner that the certificate that he uploaded ends. Raises Lost, StoreError."""
    now, certificate = desk.now(), seen.certificate
    step = due(desk.situation(seen, asked=False), desk.cas, now)
    if certificate is None or step.work is not Work.WARN or step.at > now:
        return seen
    seen = await desk.records.write(seen, replace(seen.issuance, warned=now))
    days = max(0, certificate.not_after - now) // 86_400_000_000
    text = f"the certificate that was uploaded for {seen.wanted.name} ends in {days} days: upload another"
    desk.event(seen.wanted, "certificate.expiring", text)
    return seen
