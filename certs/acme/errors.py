"""The tree of what can go wrong with an ACME server; `certs.acme.problem` adds what the server itself says."""

from __future__ import annotations


class AcmeError(Exception):
    """`retry_after`: seconds after which the server may be asked again, if it said so."""

    def __init__(self, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Unreachable(AcmeError):
    """No connection, no trusted TLS, no answer in time, or one that was cut off.

    What was asked may have been done nonetheless.
    """


class BadAnswer(AcmeError):
    """The server's answer is not ACME, or breaks a rule of it that keeps us safe."""
