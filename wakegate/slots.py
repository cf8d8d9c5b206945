"""A place in the process tree that is to be filled: the store, control, worker N. Who fills it, and when it is due.

Times are on the supervisor's clock of attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from wakegate import supervision
from wakegate.children import Process

P = TypeVar("P", bound=Process)


class Slot(Generic[P]):
    """`process` fills the place; `incoming` will, once it is ready (a rolling replacement)."""

    def __init__(self, role: str, start: Callable[[], P]) -> None:
        self.role = role
        self.process: P | None = None
        self.incoming: P | None = None
        self._replaced: list[P] = []
        self.failures = 0
        self.ever_ready = False
        self._start = start
        self._due = 0.0

    @property
    def ready(self) -> bool:
        return self.process is not None and self.process.ready

    @property
    def answers(self) -> bool:
        """Whether there is a process that has been heard."""
        return self.process is not None and self.process.answered

    @property
    def hopeless(self) -> bool:
        return not self.ever_ready and self.failures >= supervision.HOPELESS_STARTS

    def fill(self, now: float) -> None:
        """Start a process if there is none and it is due. Raises OSError."""
        if self.process is None and now >= self._due:
            self.process = self._start()

    def fill_beside(self) -> P:
        """Start the process that is to replace the present one. Raises OSError."""
        self.incoming = self._start()
        return self.incoming

    def replace(self) -> P | None:
        """The incoming process takes over; returns the one that it replaces."""
        old, self.process, self.incoming = self.process, self.incoming, None
        if old is not None:
            self._replaced.append(old)
        return old

    @property
    def replaced(self) -> list[P]:
        """Those that were replaced and still finish what they have, the oldest first."""
        self._replaced = [process for process in self._replaced if process.status is None]
        return list(self._replaced)

    def surplus(self) -> list[P]:
        """Those of them that must end before another may be replaced."""
        replaced = self.replaced
        return replaced[: max(0, len(replaced) - supervision.GENERATIONS + 1)]

    def holds(self, process: Process) -> bool:
        return process is self.process or process is self.incoming

    def ended(self, process: Process, now: float) -> float:
        """`process` ended. Returns the seconds until another is due."""
        if process is self.incoming:
            self.incoming = None
            return 0.0
        self.process, self.incoming = self.incoming, None
        if process.leaving:
            return self._again(0.0, now)
        return self.failed(now, now - process.born, process.ready)

    def failed(self, now: float, lived: float = 0.0, was_ready: bool = False) -> float:
        """An end, or a start that was not possible. Returns the seconds until another is due."""
        self.failures = supervision.failures_after(self.failures, lived, was_ready)
        return self._again(supervision.backoff(self.failures), now)

    def _again(self, delay: float, now: float) -> float:
        self._due = now + delay
        return delay
