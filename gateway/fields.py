"""Names of fields, and what an intermediary has to do with each (RFC 9110 7.6.1, RFC 9112).

A field whose name a CGI-like server would confuse with one that decides framing or identity (`X_Forwarded_For` becomes
the same variable as `X-Forwarded-For`) is dropped, so that it can't be forged around us.
"""

from __future__ import annotations

from typing import Final

PLAIN: Final = 0
DROP: Final = 1
HOST: Final = 2
CONTENT_LENGTH: Final = 3
TRANSFER_ENCODING: Final = 4
CONNECTION: Final = 5
UPGRADE: Final = 6
EXPECT: Final = 7
TE: Final = 8
MAX_FORWARDS: Final = 9
FORWARDED_FOR: Final = 10
FORWARDED_PROTO: Final = 11
FORWARDED_HOST: Final = 12
FORWARDED: Final = 13
REQUEST_ID: Final = 14
TRACEPARENT: Final = 15
ACCEPT: Final = 16
KEEP_ALIVE: Final = 17
DATE: Final = 18
TRACESTATE: Final = 19
USER_AGENT: Final = 20

TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
CONTROLS: Final = bytes(c for c in range(0x20) if c != 0x09) + b"\x7f"  # never inside a field (RFC 9110 5.5)

# What the gateway says by itself to the API of its node (`api_host.py`). A client that writes it is not believed.
GATEWAY_FIELD: Final = b"Wakegate-Gateway"

_REQUEST: Final = {
    b"host": HOST,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"proxy-connection": DROP,
    b"keep-alive": DROP,
    b"te": TE,
    b"upgrade": UPGRADE,
    b"http2-settings": DROP,
    b"proxy-authorization": DROP,
    b"expect": EXPECT,
    b"max-forwards": MAX_FORWARDS,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded-proto": FORWARDED_PROTO,
    b"x-forwarded-host": FORWARDED_HOST,
    b"x-forwarded-port": DROP,
    b"x-real-ip": DROP,
    b"forwarded": FORWARDED,
    b"x-request-id": REQUEST_ID,
    b"traceparent": TRACEPARENT,
    b"tracestate": TRACESTATE,
    b"accept": ACCEPT,
    b"user-agent": USER_AGENT,
    GATEWAY_FIELD.lower(): DROP,
}

_RESPONSE: Final = {
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"proxy-connection": DROP,
    b"keep-alive": KEEP_ALIVE,
    b"te": DROP,
    b"upgrade": UPGRADE,
    b"proxy-authenticate": DROP,
    b"x-request-id": DROP,
    b"date": DATE,
}

# What `Connection` may not take away: the gateway writes them itself, or the message has no meaning without them.
_KEPT: Final = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"date", b"via", b"x-request-id", b"traceparent", b"forwarded"}
)

# What may not come as a trailer (RFC 9110 6.5.1): framing, routing, authentication, conditions and other modifiers of a
# request, what controls a response, and what decides about the content.
_NO_TRAILERS: Final = frozenset(
    b"age authorization cache-control content-encoding content-length content-range content-type cookie date expect "
    b"expires host if-match if-modified-since if-none-match if-range if-unmodified-since location max-forwards pragma "
    b"proxy-authenticate proxy-authorization range retry-after set-cookie te trailer transfer-encoding vary warning "
    b"www-authenticate connection keep-alive upgrade proxy-connection via forwarded x-forwarded-for x-forwarded-proto "
    b"x-forwarded-host x-request-id".split()
)

REQUEST_CODES: Final[dict[bytes, int]] = {}
RESPONSE_CODES: Final[dict[bytes, int]] = {}
_FORWARDED_PREFIX: Final = b"x-forwarded-"
_REMEMBERED: Final = 4096  # names as they are spelled, each way
_LONGEST: Final = 64


def bare_line_feed(data: bytes, known: int) -> bool:
    """Whether there is one behind the `known` bytes that have been looked at with one more."""
    if known and data[known : known + 1] == b"\n":
        known += 1
    return data.count(b"\n", known) != data.count(b"\r\n", known)


def is_token(text: bytes) -> bool:
    return bool(text) and not text.translate(None, TOKEN)


def request_code(name: bytes) -> int:
    """What to do with a request's field of this name; -1: not a name (RFC 9110 5.1)."""
    return _classify(name, _REQUEST, REQUEST_CODES)


def response_code(name: bytes) -> int:
    """What to do with a response's field of this name; -1: not a name."""
    return _classify(name, _RESPONSE, RESPONSE_CODES)


def _classify(name: bytes, codes: dict[bytes, int], remembered: dict[bytes, int]) -> int:
    if not is_token(name):
        return -1
    lower = name.lower()
    code = codes.get(lower, PLAIN)
    if code == PLAIN and b"_" in lower and _ours(lower.replace(b"_", b"-")):
        code = DROP
    elif code == PLAIN and codes is _REQUEST and lower.startswith(_FORWARDED_PREFIX):
        code = FORWARDED  # -Ssl, -Prefix, -Client-Cert, … : applications believe them as much as those we write
    if len(name) <= _LONGEST and len(remembered) < _REMEMBERED:
        remembered[name] = code
    return code


def _ours(name: bytes) -> bool:
    """Whether we do something with a request's field of this name (in lower case)."""
    return name in _REQUEST or name.startswith(_FORWARDED_PREFIX)


def elements(value: bytes) -> list[bytes]:
    """A comma-separated list in lower case, empty elements left out (RFC 9110 5.6.1)."""
    return [part for part in (piece.strip(b" \t") for piece in value.lower().split(b",")) if part]


def without(lines: list[bytes], nominated: list[bytes]) -> list[bytes]:
    """`lines` less the fields that `Connection` names (RFC 9110 7.6.1)."""
    gone = {name for name in nominated if name not in _KEPT and not name.startswith(_FORWARDED_PREFIX)}
    return [line for line in lines if line[: line.find(b":")].lower() not in gone]


def allowed_trailers(lines: list[bytes], nominated: list[bytes] | None) -> list[bytes]:
    """Trailer fields that may be passed on; what `Connection` names goes from here, too (RFC 9110 7.6.1)."""
    if not lines:
        return lines
    allowed = [line for line in lines if _harmless(line[: line.find(b":")].lower())]
    return without(allowed, nominated) if nominated else allowed


def _harmless(name: bytes) -> bool:
    """As a trailer, also where `_` and `-` are the same."""
    name = name.replace(b"_", b"-")
    return name not in _NO_TRAILERS and not _ours(name)
