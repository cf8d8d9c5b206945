"""Is a replica healthy: one GET, and only a 200 will do (SPEC section 2: exactly 200, redirects not followed, in 5 s).

A probe has a connection of its own and reads no further than the status line. Interim answers (1xx, RFC 9110 15.2) are
passed over. Nothing is kept between probes.
"""

from __future__ import annotations

import asyncio
import string
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

_LIMIT: Final = 64 * 1024  # bytes before the final status line


@dataclass(frozen=True, slots=True)
class Finding:
    """`problem` says what was found in the past tense, for a sentence that ends with for how long; None = healthy.

    It is for anybody; `detail`, where it was found, is for the service's owner.
    """

    problem: str | None = None
    detail: str | None = None

    @property
    def healthy(self) -> bool:
        return self.problem is None


HEALTHY: Final = Finding()


class _Malformed(Exception):
    """What came is not HTTP."""


async def probe(host: str, port: int, path: str, timeout: float = 5.0) -> Finding:
    """Ask once. Never raises for what the replica does."""
    asked, where = f"GET {path}", f"port {port}"
    try:
        async with asyncio.timeout(timeout):
            status = await _status(host, port, path)
    except TimeoutError:
        return Finding(f"{asked} did not answer within {timeout:g} s", where)
    except ConnectionRefusedError:
        return Finding("nothing listened on its port", where)
    except (OSError, EOFError):
        return Finding(f"{asked} was cut off without an answer", where)
    except _Malformed:
        return Finding(f"{asked} answered something that is not HTTP", where)
    return HEALTHY if status == 200 else Finding(f"{asked} answered {status} instead of 200", where)


async def _status(host: str, port: int, path: str) -> int:
    loop = asyncio.get_running_loop()
    transport, answer = await loop.create_connection(_Answer, host, port)
    try:
        target = quote(path, safe=string.punctuation)
        request = f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: wakegate-probe\r\nAccept: */*\r\n"
        transport.write(f"{request}Connection: close\r\n\r\n".encode())
        return await answer.status
    finally:
        transport.abort()


class _Answer(asyncio.Protocol):
    """The first final status of a connection."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._buffer = bytearray()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self.status.done():
            return
        try:
            status = _final_status(self._buffer)
        except _Malformed as error:
            self.status.set_exception(error)
        else:
            if status is not None:
                self.status.set_result(status)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.status.done():
            self.status.set_exception(exc or EOFError())
            self.status.exception()  # seen: a probe that was given up has nobody to take it


def _final_status(buffer: bytearray) -> int | None:
    """None = more must come. Interim answers are taken off the buffer. Raises _Malformed."""
    while True:
        line, ended, _ = bytes(buffer[:_LIMIT]).partition(b"\n")
        if not ended:
            if len(buffer) >= _LIMIT or not b"HTTP/1.".startswith(line[:7]):
                raise _Malformed
            return None
        version, _, rest = line.partition(b" ")
        code = rest[:3]
        if not version.startswith(b"HTTP/1.") or not code.isdigit() or len(code) != 3:
            raise _Malformed
        if not 100 <= int(code) < 200:
            return int(code)
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        del buffer[: end + 4]
