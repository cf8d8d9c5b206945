"""Readers of recorded bytes that share no code with the gateway: llhttp, h11, and two naive ones.

The naive ones know just enough: `forwarded` finds the heads that the gateway has written, by the id that it gives to
each; `messages` cuts a stream into messages and puts each into a canonical form for comparison.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import h11
import httptools

# The lines that the gateway writes of its own, in the order in which it writes them.
_OWN_REQUEST = re.compile(
    rb"X-Forwarded-For: 127\.0\.0\.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: (?P<host>[^\r\n]*)\r\n"
    rb"Via: 1\.(?P<minor>[01]) wakegate\r\nX-Request-Id: [0-9a-f]{32}\r\n"
    rb"traceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\r\n"
)
_OWN_RESPONSE = re.compile(rb"Via: 1\.(?P<minor>[01]) wakegate\r\nX-Request-Id: [0-9a-f]{32}\r\n")
_DATE = re.compile(rb"\r\nDate: [A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} 20[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT\r\n")
_TOLD = re.compile(rb"\r\nProxy-Status: wakegate; error=(?P<error>[a-z_]+); details=")
_REQUEST_ID = re.compile(rb"\r\nX-Request-Id: ([0-9a-f]{32})\r\n")


@dataclass(frozen=True)
class Seen:
    """A request as a reader sees it. `whole`: its end has come."""

    method: bytes
    target: bytes
    body: bytes
    whole: bool


class _Llhttp:
    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.target = b""
        self.body = b""
        self.method = b""
        self.open = False
        self.parser = httptools.HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self.target = self.body = b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_headers_complete(self) -> None:
        self.method = self.parser.get_method()
        self.open = True

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.open = False
        self.seen.append(Seen(self.method, self.target, self.body, True))


def by_llhttp(data: bytes) -> list[Seen] | None:
    """Raises HttpParserError where llhttp stumbles. None: a method that it doesn't know."""
    told = _Llhttp()
    while data:
        try:
            told.parser.feed_data(data)
            break
        except httptools.HttpParserInvalidMethodError:
            return None
        except httptools.HttpParserUpgrade as asked:  # raised behind a message; nobody switches here
            data = data[asked.args[0] :]
            told.parser = httptools.HttpRequestParser(told)
    if told.open:
        told.seen.append(Seen(told.method, told.target, told.body, False))
    return told.seen


def by_h11(data: bytes) -> list[Seen]:
    """Raises RemoteProtocolError where h11 stumbles."""
    seen: list[Seen] = []
    peer = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    if data:  # nothing would be the end of the connection
        peer.receive_data(data)
    request: h11.Request | None = None
    body = b""
    while True:
        event = peer.next_event()
        if event is h11.NEED_DATA or event is h11.PAUSED:
            if request is not None:
                seen.append(Seen(request.method, request.target, body, False))
            return seen
        if isinstance(event, h11.Request):
            request, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            seen.append(Seen(request.method, request.target, body, True))
            request = None
            peer.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            peer.send(h11.EndOfMessage())
            if peer.our_state is not h11.DONE:
                return seen
            peer.start_next_cycle()


def forwarded(data: bytes) -> list[str]:
    """The ids of the heads in `data`."""
    return [found.decode() for found in _REQUEST_ID.findall(data)]


def messages(data: bytes, methods: list[bytes] | None = None) -> list[bytes]:
    """The messages in `data`, the gateway's own lines as `{own}`, chunks joined into one; the last may be cut short.

    `methods`: of the requests, if these are responses: then 1xx are messages of their own.
    """
    found = []
    asked = list(methods or [])
    while data:
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            found.append(data)
            break
        head, rest = data[:end], data[end:]
        lower = head.lower()
        bodiless = False
        to_the_end = False
        if methods is not None:
            status = int(head[9:12])
            method = asked[0] if asked else b"GET"
            bodiless = status < 200 or status in (204, 304) or method == b"HEAD"
            to_the_end = not bodiless
            if status >= 200 or status == 101:
                asked = asked[1:]
        length = re.search(rb"\r\ncontent-length: ([0-9]+)\r\n", lower)
        if not bodiless and b"\r\ntransfer-encoding: chunked\r\n" in lower:
            body, rest = _joined(rest)
        elif length is not None and not bodiless:
            size = int(length[1])
            body, rest = rest[:size], rest[size:]
        elif to_the_end:
            body, rest = rest, b""
        else:
            body = b""
        found.append(canonical(head) + body)
        data = rest
    return found


def canonical(head: bytes) -> bytes:
    """`head` with the gateway's own lines replaced: `{own}`, `{own 1.0}` if that is what Via says, `{date}`."""
    own = _OWN_REQUEST if not head.startswith(b"HTTP/") else _OWN_RESPONSE
    found = own.search(head)
    if found is None:
        return head
    if own is _OWN_REQUEST:
        host = re.search(rb"\r\nHost: ([^\r\n]*)\r\n", head)
        assert host is not None
        assert host[1] == found["host"], "X-Forwarded-Host is the Host"
    name = b"{own}" if found["minor"] == b"1" else b"{own 1.0}"
    head = head[: found.start()] + name + head[found.end() :]
    return _DATE.sub(b"\r\n{date}", head)


def told(message: bytes) -> bytes:
    """An answer of the gateway's own as `{status error}`, others as they are."""
    found = _TOLD.search(message)
    return message if found is None else b"{%b %b}" % (message[9:12], found["error"])


def _joined(data: bytes) -> tuple[bytes, bytes]:
    """A chunked body with its data as one chunk, and what is behind it."""
    content = b""
    at = 0
    while True:
        stop = data.find(b"\r\n", at)
        if stop < 0:
            return _one_chunk(content) + data[at:], b""
        size = int(data[at:stop], 16)
        if size == 0:
            end = data.find(b"\r\n\r\n", stop)
            end = len(data) if end < 0 else end + 4
            return _one_chunk(content) + data[at:end], data[end:]
        content += data[stop + 2 : stop + 2 + size]
        at = stop + 2 + size + 2
        if at > len(data):
            return _one_chunk(content), b""


def _one_chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content) if content else b""


def statuses(data: bytes, methods: list[bytes]) -> list[int]:
    """The final statuses in `data`."""
    found = [int(message[9:12]) for message in messages(data, methods) if message.startswith(b"HTTP/1.1 ")]
    return [status for status in found if status >= 200]
