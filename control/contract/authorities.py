"""The syntax of a URL's authority, `host[:port]` (RFC 3986 section 3.2), as far as names of hosts and addresses go.

What callers say of themselves goes into what they are told only if it is one.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

_AUTHORITY: Final = re.compile(
    r"(?:\[(?P<address>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._-]{1,254}))(?::(?P<port>[0-9]{1,5}))?"
)
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")


def is_authority(text: str) -> bool:
    """A name of DNS labels, an IPv4 address or an IPv6 address in brackets, with or without a port from 1 to 65535."""
    match = _AUTHORITY.fullmatch(text)
    if match is None or (match["port"] is not None and not 1 <= int(match["port"]) <= 65_535):
        return False
    if match["name"] is not None:
        return _NAME.fullmatch(match["name"]) is not None
    try:
        ipaddress.IPv6Address(match["address"])
    except ValueError:
        return False
    return True
