"""Everything that can end a request without the replica's own answer.

A `Failure` carries what the client is told: the status (RFC 9110 15), the error type of `Proxy-Status` (RFC 9209 2.3)
and the details; the data plane passes it as a value on the warm path and raises it only while reading heads.
"""

from __future__ import annotations


class Failure(Exception):
    """An answer of our own. `retry_after`: seconds, `location`: where else; 0 and empty = no such field."""

    def __init__(self, status: int, error: str, details: str, retry_after: int = 0, location: bytes = b"") -> None:
        super().__init__(details)
        self.status = status
        self.error = error  # empty: nothing is wrong
        self.details = details
        self.retry_after = retry_after
        self.location = location


class Redirect(Failure):
    """The same request, method and body included, belongs elsewhere, for good (RFC 9110 15.4.9)."""

    def __init__(self, location: bytes, details: str = "served over https") -> None:
        super().__init__(308, "", details, 0, location)


class Waiting(Failure):
    """What is asked for is not awake, and its service has browsers wait with a page (`waiting_page.py`).

    `retry_after`: seconds, at least 1, until that page asks again. `failed`: the wake has, and `details` say why.
    """

    def __init__(self, details: str, retry_after: int, failed: bool) -> None:
        super().__init__(503, "destination_unavailable", details, retry_after)
        self.failed = failed


def unknown() -> Failure:
    """What all get who ask for a host that no service has."""
    return Failure(404, "destination_not_found", "no service has this host")


def deleted() -> Failure:
    """What all get who ask for a service that was deleted."""
    return Failure(503, "destination_unavailable", "deleted")


def stale() -> Failure:
    """What all get whose worker has been cut off from a shared store for too long."""
    return Failure(503, "destination_unavailable", "stale")


def unsure() -> Failure:
    """What all get who ask for a host that no service had when the cache was written, while the store is away."""
    return Failure(503, "destination_unavailable", "no service is known to have this host; the store is away", 1)


def stopping() -> Failure:
    """What all get who are still held as the worker ends; whoever asks again comes to another."""
    return Failure(503, "destination_unavailable", "no replica was ready before the gateway stopped", 1)


class StaleConnection(Failure):
    """The replica closed a connection that had been used before, just as a request was sent over it.

    Not its failure: either side may close an idle connection at any time (RFC 9112 9.5).
    """

    def __init__(self) -> None:
        super().__init__(502, "connection_terminated", "closed a kept connection as the request was sent")


class Malformed(Failure):
    """The client's message can't be read in exactly one way (RFC 9112 2.2, 6.3)."""

    def __init__(self, details: str, status: int = 400) -> None:
        super().__init__(status, "http_request_error", details)


class BadResponse(Failure):
    """The replica's message can't be read in exactly one way."""

    def __init__(self, details: str, error: str = "http_protocol_error") -> None:
        super().__init__(502, error, details)
