"""The alerts that we write ourselves, before OpenSSL has a context to write them with (RFC 8446 6, RFC 6066 3)."""

from __future__ import annotations

from typing import Final

UNEXPECTED_MESSAGE: Final = 10
RECORD_OVERFLOW: Final = 22
ILLEGAL_PARAMETER: Final = 47
DECODE_ERROR: Final = 50
PROTOCOL_VERSION: Final = 70
INTERNAL_ERROR: Final = 80
UNRECOGNIZED_NAME: Final = 112
NO_APPLICATION_PROTOCOL: Final = 120


class Refusal(Exception):
    """A client whose handshake goes no further. `reason` is counted under that name."""

    def __init__(self, alert: int, reason: str) -> None:
        super().__init__(f"alert {alert}: {reason}")
        self.alert = alert
        self.reason = reason


def record(alert: int) -> bytes:
    """A fatal alert as a record of its own; 0x0303 is what clients of all versions take (RFC 8446 5.1)."""
    return bytes((21, 3, 3, 0, 2, 2, alert))
