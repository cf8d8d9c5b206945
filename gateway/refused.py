"""What came and could not be read as a request, as the access log tells of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.errors import Malformed
from gateway.fields import is_token
from gateway.guards import check_host, check_target
from gateway.sides import Downstream

_METHOD: Final = 32  # bytes; more than that is none
_TARGET: Final = 8 * 1024


class Refused:
    """`data`: what was read of it; `bytes_out`: size of the answer; `took`: seconds since its first bytes."""

    __slots__ = ("bytes_out", "data", "down", "failure", "request_id", "took")

    def __init__(
        self, request_id: bytes, down: Downstream, failure: Malformed, data: bytes, bytes_out: int, took: float
    ) -> None:
        self.request_id = request_id
        self.down = down
        self.failure = failure
        self.data = data
        self.bytes_out = bytes_out
        self.took = took

    def guess(self) -> tuple[str, str, str]:
        """Method, path and host as far as they can be made out, else empty. For people to read, never to act on."""
        first, _, rest = self.data.partition(b"\r\n")
        words = first.split(b" ")
        method = words[0] if len(words[0]) <= _METHOD and is_token(words[0]) and len(words) > 1 else b""
        path = words[1][:_TARGET] if method else b""
        hosts = [line[5:].strip(b" \t") for line in rest.split(b"\r\n") if line[:5].lower() == b"host:"]
        host = hosts[0] if len(hosts) == 1 else b""
        return method.decode("ascii"), _checked(check_target, path), _checked(check_host, host)


def _checked(check: Callable[[bytes], None], value: bytes) -> str:
    try:
        check(value)
    except Malformed:
        return ""
    return value.decode("ascii")
