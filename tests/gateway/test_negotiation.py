"""What a client would rather have (RFC 9110 12.5.1)."""

from __future__ import annotations

import pytest

from gateway.events import accepted
from gateway.messages import Request
from gateway.negotiation import quality

JSON = b"application/json"


@pytest.mark.parametrize(
    ("accept", "weight"),
    [
        (b"application/json", 1.0),
        (b"application/json;q=0.3, */*", 0.3),
        (b"application/*;q=0.4, */*;q=0.9", 0.4),
        (b"text/html, */*;q=0.8", 0.8),
        (b"text/*", 0.0),
        (b"", 0.0),
        (b"APPLICATION/JSON ; Q=0.5", 0.5),
        (b"*/*;q=x", 0.0),
    ],
)
def test_the_range_that_fits_most_closely_says_it(accept, weight):
    assert quality(accept, JSON) == weight


@pytest.mark.parametrize(
    ("accept", "events"),
    [
        (b"text/event-stream", True),
        (b"text/event-stream, */*;q=0.1", True),
        (b"text/event-stream, application/json;q=0.9", True),
        (b"application/json, text/event-stream", False),
        (b"*/*, text/event-stream;q=0.5", False),
        (b"application/*, text/event-stream;q=0.5", False),
        (b"text/event-stream;q=0.1, */*;q=0.9", False),
        (b"text/event-stream, */*", False),
        (b"*/*", False),
    ],
)
def test_events_are_for_clients_that_like_json_less(accept, events):
    request = Request(b"GET", b"/", False)
    request.accept = accept
    assert accepted(request) is events
