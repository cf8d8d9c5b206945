"""A client of the store whose n-th command fails: before the store saw it, or after it took effect."""

from __future__ import annotations

from typing import Any

from redis import exceptions as refusals

from state.store import Store

LOST = refusals.ConnectionError("the connection broke")
BROKEN = RuntimeError("inner workings")


class FaultyStore(Store):
    """`arm` it for one operation; `hit` says whether that came to the fault at all."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.hit = False
        self._left = 0
        self._after = False
        self._error: Exception = LOST
        self._for_good = False
        self._execute, self._pipelines = self._client.execute_command, self._client.pipeline
        self._client.execute_command = self._command
        self._client.pipeline = self._pipeline

    def arm(self, nth: int, error: Exception, *, after: bool = False, for_good: bool = False) -> None:
        """`nth` counts from 1; `for_good`: so do all that follow."""
        self.hit, self._left, self._error, self._after, self._for_good = False, nth, error, after, for_good

    def disarm(self) -> None:
        self._left, self._for_good = 0, False

    async def _command(self, *args: Any, **options: Any) -> Any:
        return await self._run(self._execute, *args, **options)

    def _pipeline(self, *args: Any, **options: Any) -> Any:
        pipe = self._pipelines(*args, **options)
        execute = pipe.execute
        pipe.execute = lambda *given, **more: self._run(execute, *given, **more)
        return pipe

    async def _run(self, real: Any, *args: Any, **options: Any) -> Any:
        self._left -= 1
        fails = self._left == 0 or (self._for_good and self.hit)
        self.hit |= fails
        if fails and not self._after:
            raise self._error
        answer = await real(*args, **options)
        if fails:
            raise self._error
        return answer
