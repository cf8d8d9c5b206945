"""Session affinity by cookie, for services that ask for it (`scaling.affinity: "cookie"`). Pure.

As HAProxy's `cookie … insert indirect nocache`:

- The cookie names a replica, by a keyed hash: neither its id nor its address is told, and nobody outside can make one.
  Every worker of every node finds the same, because the key is the service's id, which no visitor is shown.
- It is set only if the client has none that leads to the replica that answers, and never on answers of our own.
- It is taken out of the request: the application doesn't see it, and can't come to depend on it.
- A response that sets it is marked private (RFC 9111 5.2.2.7): a cache shared by several clients would give all of them
  the first one's replica. Responses that don't are as cacheable as the application says.
- It lasts as long as the browser's session; HttpOnly, SameSite=Lax, and Secure if it was asked for over https.

It is a preference: if the replica is gone, draining, ejected or full, another one answers, and a new cookie says which.
"""

from __future__ import annotations

import hashlib
from typing import Final

from gateway.messages import Request, Response

_NAME: Final = b"wakegate_replica"
_SIZE: Final = 12  # bytes of the hash: for telling apart at most hundreds of replicas, and never guessed


def token(service_id: str, replica_id: str) -> bytes:
    """The cookie's value for a replica: 24 hexadecimal digits."""
    digest = hashlib.blake2b(replica_id.encode(), digest_size=_SIZE, key=service_id.encode()[:64], person=b"affinity")
    return digest.hexdigest().encode("ascii")


def take(request: Request) -> list[bytes]:
    """The values of the cookie that came, in order. The request has it no more; other cookies stay as they are."""
    found: list[bytes] = []
    lines: list[bytes] | None = None
    for at, line in enumerate(request.lines):
        if line[:7].lower() == b"cookie:" and line.find(_NAME) >= 0:
            if lines is None:
                lines = request.lines[:at]
            kept = _without(line, found)
            if kept:
                lines.append(kept)
        elif lines is not None:
            lines.append(line)
    if lines is not None:
        request.lines = lines
    return found


def _without(line: bytes, found: list[bytes]) -> bytes:
    """A Cookie line (RFC 6265 4.2.1) less ours; empty if nothing else is in it."""
    kept: list[bytes] = []
    for pair in line[7:].split(b";"):
        name, equals, value = pair.strip(b" \t").partition(b"=")
        if name.strip(b" \t") == _NAME:
            found.append(value.strip(b' \t"'))
        elif name or equals:
            kept.append(pair.strip(b" \t"))
    return b"Cookie: " + b"; ".join(kept) if kept else b""


def mark(response: Response, value: bytes, secure: bool) -> None:
    """Have the client come back to the replica whose token is `value`."""
    response.lines.append(
        b"Set-Cookie: " + _NAME + b"=" + value + b"; Path=/; HttpOnly; SameSite=Lax" + (b"; Secure" if secure else b"")
    )
    response.lines.append(b"Cache-Control: private")
