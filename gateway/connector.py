"""Connections to replicas: the one thing on a request's way that needs a coroutine. Owns its tasks.

A listen queue that is full answers no SYN, and the kernel's next try is a second away. Here the next one comes after
25 ms, from another socket, because nothing was sent that could be lost; and `pacing.py` is told, which opens fewer.

A wake may ask for hundreds of connections at once, and each takes the loop a tenth of a millisecond or two: they begin
in turns of the loop, `_TURN` in each, in the order in which they were asked for.

The last descriptors are not for replicas: whoever comes then is still accepted, and answered. The kernel gives out the
lowest number that is free, so that a high one says how few are left.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Final, cast

from gateway import tcp
from gateway.errors import Failure
from gateway.http1.upstream import UpstreamConnection

if TYPE_CHECKING:
    from gateway.connections import Connections
    from gateway.dispatch import Dispatcher
    from gateway.exchange import Exchange
    from gateway.replica import Replica


EXHAUSTED: Final = "connection_limit_reached"  # RFC 9209 2.3.9
_TURN: Final = 32  # connects that begin at one go
_PAUSE: Final = 0.1  # seconds until the next try when this machine has nothing left to connect with
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN}


class Connector:
    """Connects for `owner` and tells it how that ended. `limit`: the first descriptor that is not used, 0: any is."""

    def __init__(self, owner: Connections, office: Dispatcher, timeout: float, spacing: float, limit: int) -> None:
        self._owner = owner
        self._office = office  # the connections'
        self._timeout = timeout
        self._spacing = spacing
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: deque[tuple[Exchange, Replica]] = deque()  # for the next turn
        self._begun = 0  # in this turn of the loop

    def connect(self, exchange: Exchange, replica: Replica) -> None:
        """Ends in `owner.connected`, and a little later `owner.settled`, or in `owner.unreached`."""
        if self._begun >= _TURN:
            self._asked.append((exchange, replica))
        else:
            self._begin(exchange, replica)

    def _next_turn(self) -> None:
        self._begun = 0
        while self._asked and self._begun < _TURN:
            self._begin(*self._asked.popleft())

    def _begin(self, exchange: Exchange, replica: Replica) -> None:
        if self._begun == 0:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._begun += 1
        task = asyncio.get_running_loop().create_task(self._connect(exchange, replica))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        self._asked.clear()
        for task in self._tasks:
            task.cancel()

    async def _connect(self, exchange: Exchange, replica: Replica) -> None:
        loop = asyncio.get_running_loop()
        up = UpstreamConnection(self._office, replica)
        slow = Failure(504, "connection_timeout", "connecting to the replica took too long")
        try:
            async with asyncio.timeout(self._timeout):
                while (shortage := await _open(up, replica, self._limit)) is not None and not exchange.over:
                    self._owner.exhausted(exchange if slow.error != EXHAUSTED else None)
                    slow = Failure(503, EXHAUSTED, f"no connection can be made: {shortage.strerror}", 1)
                    await asyncio.sleep(_PAUSE)
        except TimeoutError:
            failure = slow
        except ConnectionRefusedError:
            failure = Failure(502, "connection_refused", "the replica refuses connections")
        except (OSError, ValueError) as error:  # ValueError: no address at all
            failure = Failure(502, "destination_ip_unroutable", f"the replica can't be reached: {error}")
        else:
            if shortage is not None:
                self._owner.unreached(exchange, replica, slow)  # and nobody waits any more
                return
            loop.call_later(self._spacing, self._owner.settled, replica, up)
            self._owner.connected(exchange, replica, up, time.monotonic())
            return
        self._owner.unreached(exchange, replica, failure)


async def _open(up: UpstreamConnection, replica: Replica, limit: int) -> OSError | None:
    """Connect. What it returns is the fault of this machine, which has nothing left to connect with. Raises OSError."""
    loop = asyncio.get_running_loop()
    factory = functools.partial(cast, asyncio.BaseProtocol, up)  # one by its methods, so that it compiles
    try:
        sock = await _reach(replica, limit)
        if sock is None:
            await loop.create_connection(factory, replica.host, replica.port)
        else:
            await loop.create_connection(factory, sock=sock)
    except OSError as error:
        if error.errno not in _EXHAUSTED:
            raise
        return error
    return None


async def _reach(replica: Replica, limit: int) -> socket.socket | None:
    """A connected socket, however many SYNs that takes. None: the replica has a name and no address."""
    family = _family(replica.host)
    if family is None:
        return None
    while True:
        began = time.monotonic()
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if 0 < limit <= sock.fileno():
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            if await _answered(sock, (replica.host, replica.port), replica.pacing.patience()):
                replica.pacing.connected(time.monotonic() - began)
                return sock
        except BaseException:
            sock.close()
            raise
        sock.close()
        replica.pacing.stalled(began, time.monotonic())


async def _answered(sock: socket.socket, address: tuple[str, int], patience: float) -> bool:
    """Whether the SYN was answered in time. Raises OSError if the answer was no."""
    error = sock.connect_ex(address)
    if error == errno.EINPROGRESS:
        # On loopback the answer is there before `connect_ex` returns.
        if tcp.state(sock) == tcp.SYN_SENT and not await _writable(sock, patience) and tcp.state(sock) == tcp.SYN_SENT:
            return False
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))
    return True


async def _writable(sock: socket.socket, patience: float) -> bool:
    """Whether the connect has ended, well or not, within `patience` seconds."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[bool] = loop.create_future()
    loop.add_writer(sock, _settle, ended, True)
    timer = loop.call_later(patience, _settle, ended, False)
    try:
        return await ended
    finally:
        timer.cancel()
        loop.remove_writer(sock)


def _settle(future: asyncio.Future[bool], result: bool) -> None:
    if not future.done():
        future.set_result(result)


def _family(host: str) -> socket.AddressFamily | None:
    """None: not an address."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return family
    return None
