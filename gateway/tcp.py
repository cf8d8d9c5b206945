"""What the kernel knows of a TCP connection, and the one thing that asyncio doesn't let one ask of it."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

ESTABLISHED: Final = 1
SYN_SENT: Final = 2
CLOSE: Final = 7
CLOSE_WAIT: Final = 8

_RESET: Final = struct.pack("ii", 1, 0)


def state(sock: socket.socket) -> int:
    """The first byte of TCP_INFO: a socket that is not being read tells nothing in any other way."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def state_of(transport: asyncio.Transport) -> int:
    """0: the transport has no socket any more."""
    sock = transport.get_extra_info("socket")
    return state(sock) if sock is not None else 0


def close_with_reset(transport: asyncio.Transport) -> None:
    """The peer must see that this is no end."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
