"""The listening sockets: owned by the supervisor for its life, inherited by the children.

N `SO_REUSEPORT` sockets per public address, one per worker: a connection waits in a queue that outlives the worker.
The kernel would let any other program of this user share such a port silently, so each address is first bound without
`SO_REUSEPORT`: a port in use is an error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from wakegate.errors import ServeError
from wakegate.values import Address

BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class Listeners:
    """The sockets of one address; `address` has the real port."""

    address: Address
    sockets: tuple[socket.socket, ...]

    @property
    def descriptors(self) -> list[int]:
        return [sock.fileno() for sock in self.sockets]

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


def listen(addresses: Sequence[tuple[str, Address]], count: int) -> list[Listeners]:
    """`count` listening sockets for each (option, address). Raises ServeError naming every address that fails."""
    opened: list[Listeners] = []
    failed: list[str] = []
    for option, address in addresses:
        try:
            opened.append(_listen(address, count))
        except OSError as error:
            failed.append(f"{option} {address}: {_explained(error, address)}")
    if failed:
        for listeners in opened:
            listeners.close()
        raise ServeError("\n".join(failed))
    return opened


def _listen(address: Address, count: int) -> Listeners:
    with _bound(address, shared=False) as probe:
        real = Address(address.host, probe.getsockname()[1])
    sockets: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        for _ in range(count):
            sockets.append(undo.enter_context(_bound(real, shared=True)))
            sockets[-1].listen(BACKLOG)
        undo.pop_all()
    return Listeners(real, tuple(sockets))


def _bound(address: Address, *, shared: bool) -> socket.socket:
    host = "127.0.0.1" if address.host == "localhost" else address.host
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"  # noqa: S104 - a machine without IPv6 was asked for every address
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        sock.bind((host, address.port))
    except BaseException:
        sock.close()
        raise
    return sock


def _explained(error: OSError, address: Address) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"already in use; see by what with: ss -ltnp 'sport = :{address.port}'"
        case errno.EACCES:
            return "not allowed: ports below 1024 need root or CAP_NET_BIND_SERVICE"
        case errno.EADDRNOTAVAIL:
            return "no interface of this machine has this address"
        case _:
            return os.strerror(error.errno) if error.errno else str(error)
