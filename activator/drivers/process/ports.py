"""Loopback ports for replicas, from a range that the kernel never hands out by itself (DESIGN, addresses).

A port of `ip_local_port_range` could be taken by any outgoing connection between choosing it and the replica's bind.
Several nodes on one machine start at different places of the range, and each port is tried before it is given.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Collection
from pathlib import Path

_FIRST, _LAST = 20_000, 65_535
_TRIES = 2_000  # ports that are looked at for one replica: 10 µs each, in the event loop


class NoPortError(RuntimeError):
    """The ports of the range are taken."""


def own_range(local: tuple[int, int]) -> range:
    """The wider of the stretches of 20000-65535 below and above the kernel's own range (`local`, inclusive)."""
    low, high = local
    below, above = range(_FIRST, max(_FIRST, low)), range(max(_FIRST, high + 1), _LAST + 1)
    return max(below, above, key=len)


def local_port_range() -> tuple[int, int]:
    """What `/proc/sys/net/ipv4/ip_local_port_range` says, or Linux' default."""
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except (OSError, ValueError):
        return 32_768, 60_999
    return int(low), int(high)


def bindable(port: int) -> bool:
    """Whether nobody holds the port on 127.0.0.1 now, not even a connection in TIME_WAIT."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Ports:
    """Hands out ports in turn, so that one is used again as late as can be."""

    def __init__(self, ports: range, *, free: Callable[[int], bool] = bindable, start: int | None = None) -> None:
        self._ports = ports
        self._free = free
        self._next = random.randrange(len(ports)) if start is None else start

    @property
    def range(self) -> range:
        return self._ports

    def allocate(self, in_use: Collection[int]) -> int:
        """The next port that is not in use and free now. Raises `NoPortError`."""
        tries = min(len(self._ports), _TRIES)
        for _ in range(tries):
            port = self._ports[self._next % len(self._ports)]
            self._next += 1
            if port not in in_use and self._free(port):
                return port
        which = "all" if tries == len(self._ports) else f"{tries} of the"
        raise NoPortError(f"{which} ports {self._ports.start}-{self._ports.stop - 1} are in use")
