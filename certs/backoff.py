"""When a failed order is tried again: pure functions of what failed and of `now` (law 5). Times are microseconds.

A minute, doubling to twelve hours. What the CA asks for (Retry-After) is kept to, up to a week. A certificate that ends
soon is worth more haste: nobody waits longer than a tenth of what is left of it, so that one of six days, or of
fifteen seconds, has its ten attempts.
"""

from __future__ import annotations

import hashlib
from typing import Final

from certs.budget import DAY, HOUR, MINUTE
from state.certificates import Certificate

FIRST: Final = MINUTE
LONGEST: Final = 12 * HOUR
LONGEST_ASKED: Final = 7 * DAY
PERMANENT: Final = HOUR  # between looks at what is forbidden
_SHORTEST: Final = 1_000_000
_JITTER: Final = 0.25  # of the time: who failed together is not tried again all at once
_DOUBLINGS: Final = 12
_ATTEMPTS: Final = 10  # in the time that is left of a certificate
_AFTER_ITS_END: Final = 300  # parts of a certificate's lifetime, once there is nothing left of it


def retry_at(
    name: str, failures: int, now: int, *, asked: float | None = None, certificate: Certificate | None = None
) -> int:
    """When to try again after so many failures in a row (1 or more).

    `asked`: seconds, the CA's Retry-After; `certificate`: what is served meanwhile.
    """
    if asked is not None:
        return now + _asked(name, failures, asked)
    pause = min(FIRST << min(failures - 1, _DOUBLINGS), LONGEST)
    pause = int(pause * (1 - _JITTER * _fraction(name, failures)))
    if certificate is not None:
        pause = min(pause, _haste(certificate, now))
    return now + pause


def _asked(name: str, failures: int, seconds: float) -> int:
    """A little more than was asked for, and never more than a week."""
    pause = min(max(int(seconds * 1e6), _SHORTEST), LONGEST_ASKED)
    return min(pause + int(min(pause, MINUTE) * _JITTER * _fraction(name, failures)), LONGEST_ASKED)


def _haste(certificate: Certificate, now: int) -> int:
    left = certificate.not_after - now
    lifetime = certificate.not_after - certificate.not_before
    return max(left // _ATTEMPTS, lifetime // _AFTER_ITS_END, _SHORTEST)


def _fraction(name: str, failures: int) -> float:
    """From 0 to 1; the same for everybody who asks."""
    return int.from_bytes(hashlib.sha256(f"{name} {failures}".encode()).digest()[:4], "big") / 2**32
