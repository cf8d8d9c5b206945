"""A second reading of HTTP/1.1 (RFC 9112), written apart from the gateway's, for tests to judge by.

It reads whole byte strings, is slow and simple, and knows one way only: whatever it calls broken must never be passed
on as if it were not. Nothing of `gateway` is imported here on purpose.
"""

from __future__ import annotations

import re

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FIELD = re.compile(
    rb"(%b):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*" % _TOKEN
)
_REQUEST_LINE = re.compile(rb"(%b) ([\x21-\x7e]+) HTTP/1\.([0-9])" % _TOKEN)
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")

Fields = list[tuple[bytes, bytes]]


class Broken(Exception):
    """There is no one way to read it."""


class Short(Exception):
    """More bytes are needed."""


class Body:
    """`content` so far, whether it is `complete` or `broken`, and where it ends in the bytes read."""

    __slots__ = ("broken", "complete", "content", "end", "trailers")

    def __init__(self) -> None:
        self.content = b""
        self.complete = False
        self.broken = False
        self.trailers: Fields = []
        self.end = -1


class Message:
    """A head and what there is of its body. `length`: -1 chunked, -2 until the connection ends."""

    __slots__ = ("body", "code", "fields", "head_end", "interims", "length", "line", "minor", "plain", "start")

    def __init__(self) -> None:
        self.start = 0
        self.head_end = 0
        self.line: tuple[bytes, ...] = ()
        self.minor = 1
        self.plain = True  # no reader could stumble over the head
        self.code = 0
        self.fields: Fields = []
        self.length = 0
        self.body = Body()
        self.interims: list[Message] = []

    @property
    def method(self) -> bytes:
        return self.line[0]

    @property
    def target(self) -> bytes:
        return self.line[1]

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name]

    def listed(self, name: bytes) -> list[bytes]:
        """The elements of a comma-separated field, in lower case."""
        return [
            part.strip(b" \t").lower() for value in self.all(name) for part in value.split(b",") if part.strip(b" \t")
        ]

    def __repr__(self) -> str:
        return f"<Message {self.line} {self.code} length={self.length} body={len(self.body.content)}>"


def read_fields(block: list[bytes], lenient: bool = False) -> Fields:
    """`lenient`: blanks before the colon are removed, as RFC 9112 5.1 wants it of responses."""
    fields: Fields = []
    for line in block:
        if lenient:
            name, colon, value = line.partition(b":")
            line = name.rstrip(b" \t") + colon + value
        found = _FIELD.fullmatch(line)
        if found is None:
            raise Broken(f"field {line!r}")
        fields.append((found[1], found[2]))
    return fields


def _head(data: bytes, start: int) -> tuple[list[bytes], int]:
    end = data.find(b"\r\n\r\n", start)
    if end < 0:
        raise Short
    return data[start:end].split(b"\r\n"), end + 4


def _framing(message: Message) -> None:
    """RFC 9112 6.3 as far as it is the same for both. Sets `length` (-3: neither field)."""
    lengths = message.all(b"content-length")
    codings = message.all(b"transfer-encoding")
    if len(lengths) > 1 or len(codings) > 1 or (lengths and codings):
        raise Broken("framing")
    if codings:
        if codings[0].lower() != b"chunked" or message.minor == 0:
            raise Broken("transfer coding")
        message.length = -1
    elif lengths:
        if re.fullmatch(rb"[0-9]{1,18}", lengths[0]) is None:
            raise Broken("content length")
        message.length = int(lengths[0])
    else:
        message.length = -3


def read_chunks(data: bytes, start: int, body: Body) -> None:
    """Fills `body` from the chunked coding at `start`."""
    at = start
    body.end = len(data)
    content: list[bytes] = []
    while True:
        stop = data.find(b"\r\n", at)
        found = _CHUNK.fullmatch(data[at:stop]) if stop >= 0 else None
        if found is None:
            body.broken = stop >= 0
            break
        size = int(found[1], 16)
        at = stop + 2
        if size == 0:
            _read_trailers(data, at, body)
            break
        content.append(data[at : at + size])
        at += size
        mark = data[at : at + 2]
        if mark != b"\r\n":
            body.broken = mark not in (b"", b"\r")
            break
        at += 2
    body.content = b"".join(content)


def _read_trailers(data: bytes, at: int, body: Body) -> None:
    lines: list[bytes] = []
    while True:
        stop = data.find(b"\r\n", at)
        if stop < 0:
            return
        line = data[at:stop]
        at = stop + 2
        if not line:
            break
        lines.append(line)
    try:
        body.trailers = read_fields(lines)
    except Broken:
        body.broken = True
        return
    body.complete = True
    body.end = at


def _read_length(data: bytes, start: int, length: int, body: Body) -> None:
    body.content = data[start : start + length]
    body.complete = len(body.content) == length
    body.end = start + len(body.content)


def read_request(data: bytes, start: int) -> Message:
    """The request at `start`. Raises Short (no whole head) or Broken."""
    while data.startswith(b"\r\n", start):
        start += 2
    message = Message()
    message.start = start
    lines, message.head_end = _head(data, start)
    found = _REQUEST_LINE.fullmatch(lines[0])
    if found is None:
        raise Broken(f"request line {lines[0]!r}")
    message.line = (found[1], found[2])
    message.minor = min(int(found[3]), 1)
    message.fields = read_fields(lines[1:])
    hosts = message.all(b"host")
    if len(hosts) > 1 or (not hosts and message.minor):
        raise Broken("Host")
    _framing(message)
    if message.length == -3:
        message.length = 0
    if message.length == -1:
        read_chunks(data, message.head_end, message.body)
    else:
        _read_length(data, message.head_end, message.length, message.body)
    return message


def read_requests(data: bytes) -> tuple[list[Message], int, str]:
    """All requests in `data` up to the first that is not whole; where reading stopped, and why it is broken there."""
    messages: list[Message] = []
    at = 0
    while at < len(data):
        try:
            message = read_request(data, at)
        except Short:
            return messages, at, ""
        except Broken as broken:
            return messages, at, str(broken)
        messages.append(message)
        if not message.body.complete:
            return messages, at, "body" if message.body.broken else ""
        at = message.body.end
    return messages, at, ""


def read_interims(data: bytes, start: int) -> tuple[list[int], bool]:
    """The codes of the interim responses at `start`; whether they are all that there is, and no reader stumbles."""
    codes: list[int] = []
    plain = True
    while (stop := data.find(b"\r\n\r\n", start)) >= 0:
        lines = data[start:stop].split(b"\r\n")
        found = _STATUS_LINE.fullmatch(lines[0])
        if found is None or found[2] >= b"200" or found[2] == b"101":
            break
        codes.append(int(found[2]))
        plain = plain and lines[1:] in ([], [b"Link: </s>"])
        start = stop + 4
    return codes, plain and start == len(data)


def read_response(data: bytes, start: int, method: bytes, ended: str) -> Message:
    """The final response at `start` to a request with `method`, with the interim ones before it.

    `ended`: how the connection ended behind `data`, "" if it has not. Raises Short or Broken. A 101 is final here.
    """
    interims: list[Message] = []
    while True:
        message = Message()
        message.start = start
        lines, message.head_end = _head(data, start)
        found = _STATUS_LINE.fullmatch(lines[0])
        if found is None:
            raise Broken(f"status line {lines[0]!r}")
        message.minor = min(int(found[1]), 1)
        message.plain = found[1] in (b"0", b"1") and not any(b" :" in line or b"\t:" in line for line in lines)
        message.code = int(found[2])
        message.line = (found[2], found[3] or b"")
        message.fields = read_fields(lines[1:], True)
        if message.code >= 200 or message.code == 101:
            break
        interims.append(message)
        start = message.head_end
    message.interims = interims
    _framing(message)
    if method == b"HEAD" or message.code in (101, 204, 304):
        message.length = 0
    elif message.length == -3:
        message.length = -2
    body = message.body
    if message.length == -1:
        read_chunks(data, message.head_end, body)
    elif message.length == -2:
        body.content = data[message.head_end :]
        body.complete = ended == "fin"
        body.end = len(data)
    else:
        _read_length(data, message.head_end, message.length, body)
    return message
