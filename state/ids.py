"""Identifiers: 26 characters of lower-case base32, ordered by time, unguessable in their last 80 bits."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's: no i, l, o, u


def new_id() -> str:
    """48 bits of milliseconds and 80 random bits, as ULID lays them out."""
    value = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def now_us() -> int:
    """The wall clock in microseconds since the epoch, the unit of every `*_at`."""
    return time.time_ns() // 1000
