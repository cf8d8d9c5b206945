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
    from gateway.exchange import Exchange

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

    def add_refused(self, peer: str, status: int, text: str) -> None:
        """The line of something that could not be read as a request; `text`: Proxy-Status."""
        if self._size + self._waiting > self._limit:
            self._dropped += 1
            return
        line = (
            f'{{"time":"{self._time(time.time())}","client":"{peer}","status":{status},"proxy_status":{_text(text)}}}\n'
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
        return f'{line},"proxy_status":{_text(proxy_status(exchange.error)[_PROXY_STATUS:].decode("ascii"))}}}\n'


def _ms(seconds: float) -> str:
    """Milliseconds with three digits, without the price of formatting a float."""
    us = int(seconds * 1000000)
    return str(us // 1000) + _THOUSANDTHS[us % 1000] if us else "0"


def _text(text: str) -> str:
    return json.dumps(text)
