"""Server-sent events of the gateway's own, for a client that is held and reads events (HTML, 9.2). Pure.

Once their head has left, the status is 200 whatever comes. So what the replica says is relayed behind it only if it is
such a stream itself; everything else, and every failure, is one event `error` and a clean end. Its data is an object as
OpenAI's and Anthropic's clients read it: `{"type": "error", "error": {"message", "type", "code", "param"}, …}`.
"""

from __future__ import annotations

import json
from typing import Final

from gateway.errors import Failure
from gateway.messages import Request, Response
from gateway.negotiation import quality, weight

COMMENT: Final = b": waiting\n\n"
_KIND: Final = b"text/event-stream"


def accepted(request: Request) -> bool:
    """Whether the client asks for events, and for nothing else as much: who takes JSON as well gets what the replica
    has.
    """
    if request.method not in (b"GET", b"POST") or request.accept.find(_KIND) < 0 or request.expects_continue:
        return False
    return weight(request.accept, (_KIND,)) > quality(request.accept, b"application/json")


def stream_head() -> Response:
    """The head of a stream whose end is not known."""
    response = Response(200, b"OK")
    response.lines = [b"Content-Type: " + _KIND, b"Cache-Control: no-store", b"X-Accel-Buffering: no"]
    return response


def continues(response: Response) -> bool:
    """Whether the body of `response` can follow in a stream that `stream_head` began."""
    if response.status != 200 or response.bodiless:
        return False
    streams = False
    for line in response.lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name == b"content-type":
            streams = value.partition(b";")[0].strip(b" \t").lower() == _KIND
        elif name == b"content-encoding" and value.strip(b" \t").lower() != b"identity":
            return False
    return streams


def declined(response: Response) -> Failure:
    """What a replica's response that can't follow is told as. An error's status stays; others are no success here."""
    status = response.status
    said = f"{status} {response.reason.decode('latin-1')}".strip()
    wrong = "answered " + said if status != 200 else "did not answer with server-sent events"
    return Failure(status if status >= 400 else 502, "", "the replica " + wrong)


def error_event(failure: Failure, request_id: bytes) -> bytes:
    """The last event of a stream. `retry`: when an EventSource tries again by itself."""
    error = {
        "message": failure.details,
        "type": failure.error or "upstream_error",
        "code": failure.status,
        "param": None,
    }
    document = {"type": "error", "error": error, "status": failure.status, "request_id": request_id.decode("ascii")}
    data = json.dumps(document, separators=(",", ":")).encode("ascii")
    retry = b"retry: %d\n" % (failure.retry_after * 1000) if failure.retry_after else b""
    return retry + b"event: error\ndata: " + data + b"\n\n"


def without_codings(lines: list[bytes]) -> list[bytes]:
    """A request's fields less Accept-Encoding: what follows such a head must not be coded."""
    return [line for line in lines if line[:16].lower() != b"accept-encoding:"]
