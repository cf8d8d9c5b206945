"""Accepting: a worker's own listening sockets always, its neighbours' when told (DESIGN, Sockets).

Laws kept here:

- The sockets are the supervisor's: inherited, only read from. Starting and stopping to accept on a neighbour's neither
  closes nor changes it, so that whoever replaces the neighbour finds what is still queued.
- No connection is turned away for want of descriptors or memory: whoever is idle makes room, and accepting goes on as
  soon as that is closed; if nobody is, it pauses and the kernel's queue holds them.
  (libuv's own accept loop answers EMFILE by accepting and resetting, and its `listen` shrinks the queue: measured. So
  the loop here is our own; it costs 8 µs more per connection.)
- What is told is a level: the whole set of neighbours to stand in for, any number of times.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final

BACKLOG: Final = 4096  # connections that the kernel queues per socket
_BATCH: Final = 64  # accepted at one go, before others get their turn on the loop
_PAUSE: Final = 0.1  # seconds without accepting when descriptors or memory ran out and nobody can make room…
_CLOSING: Final = 0.005  # …and when somebody does: what is closed now is free after a turn or two of the loop
_LAST_CALL: Final = 0.1  # seconds for which a draining worker goes on accepting while the others drop their copies

_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

Factory = Callable[[], asyncio.BaseProtocol]


class Listeners:
    """The listening sockets of all addresses and workers, `addresses[a][number - 1]`, of which worker `number` is us.

    It owns the socket objects. When accepting has to pause, `on_pause` is called with a text for the operator (the 1st,
    2nd, 4th… time), and `make_room` each time, so that who can do without a descriptor gives it back. It returns how
    many will be free at once.
    """

    def __init__(
        self,
        addresses: Sequence[Sequence[socket.socket]],
        number: int,
        factory: Factory,
        on_pause: Callable[[str], None],
        make_room: Callable[[], int] | None = None,
    ) -> None:
        self.accepted = 0  # connections, since the start
        self.pauses = 0
        self._number = number
        self._factory = factory
        self._on_pause = on_pause
        self._make_room = make_room
        self._sockets: dict[int, list[socket.socket]] = {
            worker: list(of_worker) for worker, of_worker in enumerate(zip(*addresses, strict=True), start=1)
        }
        self._wanted: set[int] = set()
        self._reading: set[int] = set()
        self._attaching: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None
        self._adopted: set[int] = set()
        self._started = False
        for sock in self._all():
            sock.setblocking(False)

    def start(self) -> None:
        """Accept on our own sockets from now on, and on those that `adopt` named before."""
        for sock in self._sockets[self._number]:
            sock.listen(BACKLOG)
        self._started = True
        self._settle()

    def adopt(self, numbers: Iterable[int]) -> None:
        """Stand in for exactly these neighbours; our own number and unknown ones mean nothing."""
        self._adopted = {n for n in numbers if n in self._sockets and n != self._number}
        self._settle()

    @property
    def adopted(self) -> frozenset[int]:
        return frozenset(self._adopted)

    async def drain(self) -> None:
        """Let go of the neighbours' sockets, accept what is queued on our own, and close it. Takes 0.1 s.

        The other workers hold copies of our sockets too and let go of them at the same time; until they have, new
        connections still arrive, so that one last call is waited for.
        """
        self._adopted = set()
        self._settle()
        for number in self._sockets.keys() - {self._number}:
            self._close(number)
        await asyncio.sleep(_LAST_CALL)
        self._resume()
        for sock in self._sockets.get(self._number, ()):
            while self._accept_batch(sock) == _BATCH:
                pass
        self.close()
        while self._attaching:
            await asyncio.wait(self._attaching)

    def close(self) -> None:
        """Stop accepting at once; what is queued stays with whoever else holds the sockets."""
        self._started = False
        self._settle()
        if self._paused is not None:
            self._paused.cancel()
        for number in list(self._sockets):
            self._close(number)

    def _all(self) -> list[socket.socket]:
        return [sock for of_worker in self._sockets.values() for sock in of_worker]

    def _close(self, number: int) -> None:
        for sock in self._sockets.pop(number):
            sock.close()

    def _settle(self) -> None:
        """Make what is read what should be read."""
        accepting = self._started and self._paused is None
        wanted = {self._number} | self._adopted if accepting else set()
        wanted &= self._sockets.keys()
        loop = asyncio.get_running_loop()
        for number in self._reading - wanted:
            for sock in self._sockets[number]:
                loop.remove_reader(sock)
        for number in wanted - self._reading:
            for sock in self._sockets[number]:
                loop.add_reader(sock, self._accept_batch, sock)
        self._reading = wanted

    def _accept_batch(self, sock: socket.socket) -> int:
        """Accept what waits, `_BATCH` at most; returns how many."""
        for count in range(_BATCH):
            try:
                connection, _ = sock.accept()
            except (BlockingIOError, InterruptedError):
                return count  # empty, or another worker that shares it was faster
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return count
                continue  # accept(2): an error of the connection itself; it is off the queue
            self._attach(connection)
        return _BATCH

    def _attach(self, connection: socket.socket) -> None:
        self.accepted += 1
        connection.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._hand_over(connection))
        self._attaching.add(task)
        task.add_done_callback(self._attaching.discard)

    async def _hand_over(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._factory, connection)
        except OSError:
            connection.close()  # it went away before it was served

    def _pause(self, error: OSError) -> None:
        if self._paused is not None:
            return
        self.pauses += 1
        closing = self._make_room() if self._make_room is not None else 0
        self._paused = asyncio.get_running_loop().call_later(_CLOSING if closing else _PAUSE, self._resume)
        self._settle()
        if self.pauses & (self.pauses - 1) == 0:  # the 1st, 2nd, 4th, 8th…: an operator wants to know, once
            self._on_pause(f"accepting pauses: {os.strerror(error.errno or 0)} ({self.pauses} times so far)")

    def _resume(self) -> None:
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
            self._settle()
