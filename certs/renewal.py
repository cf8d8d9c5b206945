"""When a certificate is to be replaced: pure functions of what is stored and of `now` (law 5).

Times are microseconds. A clock that went far back (a machine without a battery, before it has heard of the time) is no
reason to replace anything: clients have clocks of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from certs.authority import signed_by
from state.certificates import Authority, Certificate, Window

_SPREAD = 20  # the moment of renewal lies in the last 20th before a third of the lifetime is left
_LATEST = 12  # a certificate is renewed before this part of its lifetime is left, whatever its CA suggests


def renew_at(certificate: Certificate) -> int:
    """When a third of its lifetime is left, or up to a 20th of the lifetime sooner.

    How much sooner comes from the certificate itself: those made together are not renewed all at once, and every
    control that asks gets the same answer.
    """
    lifetime = certificate.not_after - certificate.not_before
    return certificate.not_after - lifetime // 3 - int(_fraction(certificate) * lifetime / _SPREAD)


def suggested_at(certificate: Certificate, window: Window) -> int:
    """A random moment in the window that its CA suggests, the same for everybody who asks (RFC 9773 4.2).

    A window that is over means now, as its moment is over too. One that ends before it starts is none.
    """
    if window.end <= window.start:
        return renew_at(certificate)
    lifetime = certificate.not_after - certificate.not_before
    moment = window.start + int(_fraction(certificate) * (window.end - window.start))
    return min(moment, certificate.not_after - lifetime // _LATEST)


def _fraction(certificate: Certificate) -> float:
    """From 0 to 1, by the certificate."""
    return int.from_bytes(hashlib.sha256(certificate.chain.encode()).digest()[:4], "big") / 2**32


def root_due(root: Authority | None, now: int, leaf_lifetime: int) -> bool:
    """Whether a new root is needed: there is none, or a leaf of it would be cut short."""
    return root is None or root.not_after < now + leaf_lifetime


def leaves_due(root: Authority, stored: Mapping[str, Certificate | None], names: Sequence[str], now: int) -> bool:
    """Whether the certificate that is stored under each of `names` is to be made anew: one, shared by all of them."""
    found = [stored.get(name) for name in names]
    first = found[0]
    if first is None or any(other is None or other.chain != first.chain for other in found):
        return True
    if set(first.names) != set(names) or not signed_by(first.chain, root.certificate):
        return True
    of_the_future = root.not_before <= now < first.not_before  # made by a clock that was ahead
    return of_the_future or now >= renew_at(first)


def over(certificate: Certificate, now: int) -> bool:
    """Whether it has ended."""
    return now >= certificate.not_after
