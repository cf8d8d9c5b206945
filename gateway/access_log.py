"""The access log: one JSON line per request, formatted when it ends, written in batches by a thread of its own.

Formatting at once costs a few microseconds per request; formatting a batch at once would block the loop. The disk never
blocks it: what waits is bounded, and what does not fit or can't be written is dropped and counted (law 7).

Laws kept here: a line is one JSON object, whatever bytes a client sent; lines of several workers in one file or pipe
are never mixed: appending to a file is one step, anything else is written under a lock. The fields are the table in
docs/operations.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import stat
import threading
import time
from typing import TYPE_CHECKING, Final

from gateway.answers import proxy_status

if TYPE_CHECKING:
    from gateway.errors import Failure
    from gateway.exchange import Exchange
    from gateway.refused import Refused
    from gateway.sides import Downstream

_BATCH: Final = 128 * 1024  # characters gathered before the writer gets them without waiting for the flush
_PROXY_STATUS: Final = len("Proxy-Status: ")
_THOUSANDTHS: Final = [f".{part:03d}" for part in range(1000)]
_CLOSING: Final = 2.0  # seconds for the last lines
_USER_AGENT: Final = len(b"User-Agent:")
_LONGEST_AGENT: Final = 512  # bytes of it that are logged
OPENED: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
MODE: Final = 0o640


class AccessLog:
    """Writes to a file descriptor (it doesn't own it). `None`: no log at all."""

    def __init__(self, fd: int | None, limit: int = 8 * 1024 * 1024, path: str | None = None) -> None:
        """`limit`: bytes that may wait for the disk; lines beyond it are dropped and counted.

        `path`: where `fd`, a file, was opened. Once another file is there, or none, that path is opened anew, under the
        same descriptor: whoever rotates the log only has to move it away.
        """
        self.enabled = fd is not None
        self._fd = -1 if fd is None else fd
        self._path = path
        self._locked = fd is not None and not stat.S_ISREG(os.fstat(fd).st_mode)
        self._torn = False  # the file ends within a line of ours
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
            f'{{"time":"{self._time(time.time())}","id":"{refused.request_id.decode("ascii")}","trace":"",'
            f'{_connection(refused.down)},"forwarded_for":"","http":"","host":{_text(host)},"service":"","replica":"",'
            f'"method":{_text(method)},"path":{_text(path)},"user_agent":"","status":{refused.failure.status},'
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
            self._follow()
            self._lock(fcntl.LOCK_EX)
            try:
                self._write_all(b"\n" + data if self._torn else data)
            except OSError:  # a full or lost disk must not stop the traffic; the count tells of it
                self._unwritten += lines
            self._lock(fcntl.LOCK_UN)
            self._done.put(len(data))

    def _write_all(self, data: bytes) -> None:
        """Raises OSError; some of `data` may have been written then."""
        rest = memoryview(data)
        while rest:
            written = os.write(self._fd, rest)  # apart: compiled, a call in a memoryview's slice runs twice
            self._torn = rest[written - 1] != 10
            rest = rest[written:]

    def _follow(self) -> None:
        """Has the file been moved away? What can't be opened is left, and the old one written on."""
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            try:
                there = os.stat(self._path)
                here = os.fstat(self._fd)
                if there.st_ino == here.st_ino and there.st_dev == here.st_dev:
                    return
            except FileNotFoundError:
                pass
            opened = os.open(self._path, OPENED, MODE)
            os.dup2(opened, self._fd, False)
            os.close(opened)
            self._torn = False

    def _lock(self, how: int) -> None:
        """A pipe takes 4 KiB at once and no more for sure: other workers must wait. What has no locks does without."""
        if self._locked:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._fd, how)

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
        agent = request.user_agent[_USER_AGENT:].strip(b" \t")
        line = (
            f'{{"time":"{self._time(at)}","id":"{request.request_id.decode("ascii")}",'
            f'"trace":"{request.trace[3:35].decode("ascii")}",{_connection(exchange.down)},'
            f'"forwarded_for":{_text(request.forwarded_for.decode("latin-1"))},'
            f'"http":"{"1.0" if request.old else "1.1"}","host":"{request.host.decode("ascii")}",'
            f'"service":"{service.title if service is not None else ""}",'
            f'"replica":"{replica.id if replica is not None else ""}",'
            f'"method":"{request.method.decode("ascii")}","path":{_text(request.target.decode("ascii"))},'
            f'"user_agent":{_text(agent[:_LONGEST_AGENT].decode("latin-1"))},"status":{exchange.status},'
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


def _connection(down: Downstream) -> str:
    scheme = "https" if down.secure else "http"
    return f'"client":{_text(down.peer.decode("ascii"))},"scheme":"{scheme}","tls":"{down.tls}"'


def _text(text: str) -> str:
    """As JSON, in ASCII."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return json.dumps(text)
