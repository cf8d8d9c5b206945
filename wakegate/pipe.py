"""The pipe between the supervisor and a child: JSON lines over a unix stream socketpair.

Both ends are here. Laws kept: everything that waits is bounded (law 7: a peer that leaves 1 MiB unread is given up), a
child without its supervisor ends at once, and a child that handles its messages wrongly ends loudly instead of
answering pings while being deaf.

The first line to a child is `{"start": {...}}`; see `wakegate.supervisor` for what it carries.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, cast

ENVIRONMENT = "WAKEGATE_PIPE"
LIMIT = 1 << 20  # bytes of one line, and of what may wait to be written
_PR_SET_PDEATHSIG = 1

Message = dict[str, Any]


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Ask the kernel to send this process `number` once the thread that started it ends. Survives exec."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


class Channel(asyncio.Protocol):
    """One end of a pipe: `on_message` for each line, `on_end` once when the other end is gone or misbehaves."""

    def __init__(self, on_message: Callable[[Message], None], on_end: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(
        cls, sock: socket.socket, on_message: Callable[[Message], None], on_end: Callable[[], None]
    ) -> Channel:
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(lambda: cls(on_message, on_end), sock=sock)
        return channel

    @property
    def flushed(self) -> bool:
        """Whether the peer has been given everything that was sent."""
        return self._transport is not None and self._transport.get_write_buffer_size() == 0

    def send(self, message: Message) -> None:
        """Queue one message; a peer that left 1 MiB unread is given up. After the end it does nothing."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        if self._transport.get_write_buffer_size() > LIMIT:
            self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        for line in lines:
            self._on_message(json.loads(line))
        if len(self._buffer) > LIMIT and self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_end()


class Pipe:
    """A child's end. Answers pings by itself; every other message goes to `on_message`.

    Messages that come before `on_message` is set wait for it (in order; few: the supervisor says little to a child that
    is not ready). When the supervisor is gone, `on_end` is called, which by default ends the process at once.
    """

    def __init__(self) -> None:
        self._channel: Channel | None = None
        self._handler: Callable[[Message], None] | None = None
        self._waiting: list[Message] = []
        self._started: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.on_end: Callable[[], None] = _end_now

    @classmethod
    async def from_env(cls) -> tuple[Pipe, Message]:
        """The pipe that the supervisor handed to this process, and the start message.

        Raises RuntimeError when this process was not started by `wakegate serve`.
        """
        number = os.environ.pop(ENVIRONMENT, "")
        if not number.isdecimal():
            raise RuntimeError("this command is started by `wakegate serve`, not by hand")
        die_with_parent()
        pipe = cls()
        sock = socket.socket(fileno=int(number))
        os.set_inheritable(sock.fileno(), False)
        pipe._channel = await Channel.open(sock, pipe._received, lambda: pipe.on_end())
        return pipe, await pipe._started

    @property
    def on_message(self) -> Callable[[Message], None] | None:
        return self._handler

    @on_message.setter
    def on_message(self, handler: Callable[[Message], None]) -> None:
        self._handler = handler
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            _guarded(handler, message)

    def send(self, message: Message) -> None:
        """Send one JSON object to the supervisor."""
        if self._channel is not None:
            self._channel.send(message)

    def say(self, text: str) -> None:
        """Have the supervisor print a line for the operator."""
        self.send({"say": text})

    def close(self) -> None:
        """Leave without `on_end`."""
        self.on_end = _nothing
        if self._channel is not None:
            self._channel.close()

    def _received(self, message: Message) -> None:
        if "ping" in message:
            self.send({"pong": message["ping"]})
        elif "start" in message:
            self._started.set_result(message["start"])
        elif self._handler is None:
            self._waiting.append(message)
        else:
            _guarded(self._handler, message)


def _guarded(handler: Callable[[Message], None], message: Message) -> None:
    try:
        handler(message)
    except Exception:
        sys.excepthook(*sys.exc_info())
        os._exit(70)  # EX_SOFTWARE: a child that can't follow its supervisor is of no use


def _end_now() -> None:
    os._exit(1)


def _nothing() -> None:
    return
