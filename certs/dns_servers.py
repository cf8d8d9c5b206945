"""The resolvers of this machine, as its `resolv.conf` names them now."""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from certs.dns_exchange import Server

_FILE: Final = Path("/etc/resolv.conf")
_MOST: Final = 3  # resolv.conf(5), MAXNS
_LARGEST: Final = 65_536  # bytes that are read of it
_EVERY: Final = 10.0  # seconds between looks at the file: networks change under a node that runs for years
_PORT: Final = 53


class SystemServers:
    """`servers()`: never empty. Without a usable line it is the one of this host, as in the C library."""

    def __init__(self, file: Path = _FILE, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._read_at: float | None = None
        self._servers: tuple[Server, ...] = ()

    def __call__(self) -> tuple[Server, ...]:
        now = self._clock()
        if self._read_at is None or now - self._read_at >= _EVERY:
            self._read_at = now
            self._servers = _servers(self._text())
        return self._servers

    def _text(self) -> str:
        with contextlib.suppress(OSError), self._file.open(errors="replace") as file:
            return file.read(_LARGEST)
        return ""


def _servers(text: str) -> tuple[Server, ...]:
    found: list[Server] = []
    for line in text.splitlines():
        match line.split():
            case ["nameserver", address, *_] if _is_address(address):
                found.append((address, _PORT))
    return tuple(found[:_MOST]) or (("127.0.0.1", _PORT),)


def _is_address(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(text))
    return False
