"""The access log: one JSON line per request, formatted when it ends, written in batches by a thread of its own.

Formatting at once costs a few microseconds per request; formatting a batch at once would block the loop. The disk never
blocks it: what waits is bounded, and what does not fit or can't be written is dropped and counted (law 7).
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from typing import TYPE_CHECKING, Final

from gateway.answers import proxy_status

if TYPE_CHECKING:
    from gateway.errors import Failure
    from gateway.exchange import Exchange
    from gateway.refused import Refused

_BATCH: Final = 128 * 1024  # characters gathered before the writer gets them without waiting for the flush
_PROXY_STATUS: Final = len("Proxy-Status: ")
_THOUSANDTHS: Final = [f".{part:03d}" for part in range(1000)]
_CLOSING: Final = 2.0  # seconds for the last lines


class AccessLog:
    """Writes to a file descriptor (it doesn't own it). `None`: no log at all."""

    def __init__(self, fd: int | None, limit: int = 8 * 1024 * 1024) -> None:
        """`limit`: bytes that may wait for the disk; lines beyond it are dropped and counted."""
        self.enabled = fd is not None
        self._fd = -1 if fd is None else fd
        self._limit = limit
        self._lines: list[str] = []
        self._size = 0
        self._waiting = 0  # bytes handed to the thread and not written yet
        self._dropped = 0
        self._unwritten = 0  # lines that the thread could not write
        self._second = -1
        self._clock = ""
        self._queue: queue.SimpleQueue[tuple[bytes, int] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        """Lines that were not written, since the start."""
        return self._dropped + self._unwritten

    def add(self, exchange: Exchange) -> None:
        """The line of an exchange that is over."""
        if self._size + self._waiting > self._limit:
            self._dropped += 1
            return
        line = self._format(exchange, time.time())
        self._lines.append(line)
        self._size += len(line)
        if self._size > _BATCH:
            self.flush()

    def add_refused(self, refused: Refused) -> None:
        """The line of something that could not be read as a request: the fields of all lines, as far as is known."""
        if self._size + self._waiting > self._limit:
            self._dropped += 1
            return
        method, path, host = refused.guess()
        line = (
            f'{{"time":"{self._time(time.time())}","id":"{refused.request_id.decode("ascii")}",'
            f'"client":"{refused.peer.decode("ascii")}","host":{_text(host)},"service":"","replica":"",'
            f'"method":{_text(method)},"path":{_text(path)},"status":{refused.failure.status},'
            f'"bytes_in":{len(refused.data)},"bytes_out":{refused.bytes_out},'
            f'"hold_ms":0,"connect_ms":0,"first_byte_ms":{_ms(refused.took)},"total_ms":{_ms(refused.took)},'
            f'"retries":0,"proxy_status":{_said(refused.failure)}}}\n'
        )
        self._lines.append(line)
        self._size += len(line)

    def flush(self) -> None:
        """Hand what has gathered to the writer. `Edge` calls it every 250 ms."""
        while not self._done.empty():
            self._waiting -= self._done.get()
        if not self._lines:
            return
        data = "".join(self._lines).encode("ascii", "backslashreplace")
        self._queue.put((data, len(self._lines)))
        self._waiting += len(data)
        self._lines = []
        self._size = 0
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="access log", daemon=True)
            self._writer.start()

    def close(self) -> None:
        """Write what is left (blocking, at most 2 s) and end the thread."""
        self.flush()
        if self._writer is not None:
            self._queue.put(None)
            self._writer.join(_CLOSING)
            self._writer = None

    def _write(self) -> None:
        """The thread."""
        while True:
            batch = self._queue.get()
            if batch is None:
                return
            data, lines = batch
            rest = memoryview(data)
            try:
                while rest:
                    written = os.write(self._fd, rest)  # apart: compiled, a call in a memoryview's slice runs twice
                    rest = rest[written:]
            except OSError:  # a full or lost disk must not stop the traffic; the count tells of it
                self._unwritten += lines
            self._done.put(len(data))

    def _time(self, at: float) -> str:
        """RFC 3339 in UTC, to the millisecond."""
        second = int(at)
        if second != self._second:
            self._second = second
            self._clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._clock}{_THOUSANDTHS[int((at - second) * 1000)]}Z"

    def _format(self, exchange: Exchange, at: float) -> str:
        request = exchange.request
        service = exchange.service
        replica = exchange.replica
        method = request.method.decode("ascii")
        host = request.host.decode("ascii")
        path = request.target.decode("ascii")
        if '"' in path or "\\" in path:
            path = path.replace("\\", "\\\\").replace('"', '\\"')
        line = (
            f'{{"time":"{self._time(at)}","id":"{request.request_id.decode("ascii")}",'
            f'"client":"{exchange.down.peer.decode("ascii")}","host":"{host}",'
            f'"service":"{service.title if service is not None else ""}",'
            f'"replica":"{replica.id if replica is not None else ""}",'
            f'"method":"{method}","path":"{path}","status":{exchange.status},'
            f'"bytes_in":{exchange.bytes_in},"bytes_out":{exchange.bytes_out},'
            f'"hold_ms":{_ms(exchange.hold)},"connect_ms":{_ms(exchange.connect)},'
            f'"first_byte_ms":{_ms(exchange.first_byte)},"total_ms":{_ms(exchange.ended - exchange.began)},'
            f'"retries":{exchange.retries}'
        )
        if exchange.error is None:
            return line + "}\n"
        return f'{line},"proxy_status":{_said(exchange.error)}}}\n'


def _ms(seconds: float) -> str:
    """Milliseconds with three digits, without the price of formatting a float."""
    us = int(seconds * 1000000)
    return str(us // 1000) + _THOUSANDTHS[us % 1000] if us else "0"


def _said(failure: Failure) -> str:
    """The value of Proxy-Status, as JSON."""
    return _text(proxy_status(failure)[_PROXY_STATUS:].decode("ascii"))


def _text(text: str) -> str:
    return json.dumps(text)
