"""The grammar that a request must keep before anything looks at its meaning.

Pure functions over bytes; each raises `Malformed` with what the client did wrong. Stricter than what parsers in use
accept (httptools lets a missing or double Host, `TE: gzip, chunked`, version 2.0 and `#` in the target pass), because
whatever two readers can understand in two ways is a way to smuggle (RFC 9112 11.2).
"""

from __future__ import annotations

import re
from typing import Final

from gateway.errors import Malformed
from gateway.fields import elements

_PORT: Final = rb"0{0,4}[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._-]+(?<!\.\.)|\[[0-9A-Fa-f:.]+\])(?::(?:%b)?)?" % _PORT)
_VISIBLE: Final = bytes(range(0x21, 0x23)) + bytes(range(0x24, 0x7F))  # without `#`: a fragment is never sent
_ID: Final = re.compile(rb"[A-Za-z0-9._~+/=-]{1,128}")
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})(-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-)([0-9a-f]{2})(-.*)?", re.DOTALL
)
_TRACE_FLAGS: Final = 3  # those that are defined: sampled, random


def check_host(host: bytes) -> None:
    """RFC 9110 7.2: a name, an IPv4 or a bracketed IPv6 address, and maybe a port; nothing else is ever routed.

    A name may end with the root's dot, once. A port is 1 to 65535, or empty: RFC 3986 3.2.3 allows that, and it
    means the scheme's own.
    """
    if _HOST.fullmatch(host) is None:
        raise Malformed("invalid Host")


def check_target(target: bytes) -> None:
    """RFC 9112 3.2: visible ASCII without a fragment."""
    if not target or target.translate(None, _VISIBLE):
        raise Malformed("invalid character in the request target")


def split_absolute(target: bytes, method: bytes) -> tuple[bytes, bytes]:
    """`http://host:port/path?query` as (authority, origin form) (RFC 9112 3.2.2); `*` for OPTIONS without a path."""
    scheme, found, rest = target.partition(b"://")
    if not found or scheme.lower() not in (b"http", b"https"):
        raise Malformed("invalid request target")
    cut = len(rest)
    for mark in (b"/", b"?"):
        place = rest.find(mark)
        if 0 <= place < cut:
            cut = place
    authority, path = rest[:cut], rest[cut:]
    if not path:
        path = b"*" if method == b"OPTIONS" else b"/"
    elif path.startswith(b"?"):
        path = b"/" + path
    return authority, path


def content_length(value: bytes) -> int:
    """RFC 9112 6.2: digits only; a list of equal values is refused as well."""
    if not value.isdigit() or len(value) > 18:
        raise Malformed("invalid Content-Length")
    return int(value)


def check_transfer_encoding(value: bytes) -> None:
    """RFC 9112 6.1: exactly `chunked`; known but unsupported codings are 501, chunked that is not last 400."""
    codings = value.lower().split(b",")
    names = [coding.strip(b" \t") for coding in codings]
    if names == [b"chunked"]:
        return
    if b"chunked" in names[:-1] or b"" in names:
        raise Malformed("chunked must be the last transfer coding, once")
    raise Malformed("unknown transfer coding", 501)


def expects_continue(value: bytes) -> bool:
    """RFC 9110 10.1.1."""
    if elements(value) != [b"100-continue"]:
        raise Malformed("unknown expectation", 417)
    return True


def valid_request_id(value: bytes) -> bool:
    return _ID.fullmatch(value) is not None


def traceparent(value: bytes) -> bytes:
    """W3C Trace Context 3.2: as it came in version 00, what we know of a later version as version 00, else empty."""
    found = _TRACEPARENT.fullmatch(value)
    if found is None:
        return b""
    version, ids, flags, rest = found.groups()
    if version == b"00":
        return value if rest is None else b""
    return b"00%b%02x" % (ids, int(flags, 16) & _TRACE_FLAGS)
