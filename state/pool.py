"""Connections to the store, handed out in the order in which they were asked for, and what a command costs on one.

Law 7: only so many at once; whoever waits too long is told so. The client library's own pool lets whoever asks next
overtake those that wait, for as long as somebody asks: with a hundred callers the last ones waited until all others had
finished, or for the whole time-out. Its locks, and what it would tell an observer of each loan, are left out with that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import TimeoutError as NoAnswer


class _Light(AbstractConnection):
    """Sends without a task of its own for each command, which is packed in C."""

    def pack_command(self, *args: Any) -> list[bytes]:
        name, *rest = args
        words = name.encode().split() if isinstance(name, str) else name.split()
        return [hiredis.pack_command((*words, *rest))]

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """Raises NoConnection, NoAnswer. What was cut short leaves no connection that could be used again."""
        if not self.is_connected:
            await self.connect()  # type: ignore[no-untyped-call]
        if (writer := self._writer) is None:
            raise NoConnection("The connection was closed.")
        try:
            writer.writelines(_pieces(command))
            if writer.transport.get_write_buffer_size():
                async with asyncio.timeout(self.socket_timeout):
                    await writer.drain()
        except TimeoutError:
            writer.transport.abort()  # closing it would send the rest first
            await self.disconnect(nowait=True)
            raise NoAnswer("Timeout writing to socket") from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise NoConnection(f"Error while writing to socket. {error}.") from error
        except BaseException:
            writer.transport.abort()
            await self.disconnect(nowait=True)
            raise


def _pieces(command: bytes | str | Iterable[bytes]) -> Iterable[bytes]:
    if isinstance(command, str):
        command = command.encode()
    return [command] if isinstance(command, bytes) else command


class _Tcp(_Light, Connection):
    pass


class _Tls(_Light, SSLConnection):
    pass


class _Unix(_Light, UnixDomainSocketConnection):
    pass


_LIGHT = {Connection: _Tcp, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}


class FairPool(ConnectionPool):
    """Its settings are those of the library's pool. `timeout` (seconds): how long a caller waits for its turn."""

    def __init__(self, max_connections: int, timeout: float, **settings: Any) -> None:
        settings["connection_class"] = _LIGHT[settings.get("connection_class", Connection)]
        super().__init__(max_connections=max_connections, **settings)
        self._turns = asyncio.Semaphore(max_connections)  # first come, first served
        self._patience = timeout

    async def get_connection(self, *_: Any, **__: Any) -> AbstractConnection:
        """Raises NoConnection."""
        await self._turn()
        connection: AbstractConnection = self.get_available_connection()  # type: ignore[no-untyped-call]
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def _turn(self) -> None:
        if not self._turns.locked():
            await self._turns.acquire()
            return
        try:
            async with asyncio.timeout(self._patience):
                await self._turns.acquire()
        except TimeoutError:
            raise NoConnection("No connection available.") from None

    async def release(self, connection: AbstractConnection) -> None:
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)
        self._turns.release()
