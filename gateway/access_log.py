"""The access log: one JSON line per request, formatted when it ends, written in batches by a thread of its own."""

from __future__ import annotations


class AccessLog:
    """Writes to a file descriptor (it doesn't own it). `None`: no log at all."""

    def __init__(self, fd: int | None, limit: int = 8 * 1024 * 1024) -> None:
        """`limit`: bytes that may wait for the disk; lines beyond it are dropped and counted."""
        raise NotImplementedError

    @property
    def dropped(self) -> int:
        """Lines that were not written, since the start."""
        raise NotImplementedError

    def flush(self) -> None:
        """Hand what has gathered to the writer. `Edge` calls it every 250 ms."""
        raise NotImplementedError

    def close(self) -> None:
        """Write what is left (blocking, at most 2 s) and end the thread."""
        raise NotImplementedError
