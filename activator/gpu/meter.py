"""Reads the sources of this node and says how busy the GPUs of its replicas are.

A source that fails is told once, until it says something else or works again, and is asked less and less often. What it
said last counts for a few seconds longer: one answer that came too late is no reason to scale.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from activator.gpu import NotMeasured, Source, Utilizations
from activator.gpu.levels import Level, utilization
from state.store import StoreError

log = logging.getLogger(__name__)

LONGEST_PAUSE: Final = 30.0  # seconds between looks at a source that keeps failing

Devices = Callable[[], Awaitable[Mapping[str, Sequence[str]]]]
"""The GPUs of each replica that runs here, by number or UUID."""
Publish = Callable[[bytes], Awaitable[None]]
"""Tells the other controls."""


class Meter:
    """`await run()` for ever; without sources that is all it does. `patience`: seconds that a reading counts."""

    def __init__(
        self,
        node: str,
        sources: Sequence[Source],
        devices: Devices,
        publish: Publish,
        *,
        interval: float,
        patience: float,
    ) -> None:
        self.failures: Counter[str] = Counter({source.name: 0 for source in sources})
        self._node = node
        self._sources = [_Watched(source, interval, patience) for source in sources]
        self._devices = devices
        self._publish = publish
        self._interval = interval
        self._spoke = False

    async def run(self) -> None:
        if not self._sources:
            return
        try:
            while True:
                try:
                    await self.measure()
                except StoreError as error:
                    log.debug("how busy GPUs are is told later: %s", error)
                except Exception:
                    log.exception("how busy the GPUs of replicas are can't be told")
                    await asyncio.sleep(LONGEST_PAUSE)
                await asyncio.sleep(self._interval)
        finally:
            for watched in self._sources:
                await watched.source.close()

    async def measure(self) -> None:
        """One look, and a word about it. Raises what `devices` and `publish` raise."""
        await asyncio.gather(*(self._look(watched) for watched in self._sources))
        now = time.monotonic()
        measured: dict[str, float] = {}
        for watched in reversed(self._sources):  # the first source counts over the others
            measured |= watched.reading(now)
        devices = await self._devices()
        found = ((replica, utilization(gpus, measured)) for replica, gpus in devices.items())
        level = Level(self._node, {replica: percent for replica, percent in found if percent is not None})
        if level.replicas or self._spoke:
            self._spoke = bool(level.replicas)
            await self._publish(level.encode())

    async def _look(self, watched: _Watched) -> None:
        if not await watched.look():
            self.failures[watched.source.name] += 1


class _Watched:
    """A source, what it said last, and when it is asked again."""

    def __init__(self, source: Source, interval: float, patience: float) -> None:
        self.source = source
        self._interval = interval
        self._patience = patience
        self._read: tuple[float, Utilizations] = (float("-inf"), {})
        self._trouble: str | None = ""  # None: it works
        self._pause = 0.0
        self._due = float("-inf")

    def reading(self, now: float) -> Utilizations:
        at, found = self._read
        return found if now - at < self._patience else {}

    async def look(self) -> bool:
        """False: it was asked in vain."""
        now = time.monotonic()
        if now < self._due:
            return True
        try:
            self._read = (now, await self.source.read())
        except NotMeasured as error:
            self._failed(str(error))
            return False
        if self._trouble is not None:
            log.info("GPU utilization is measured by %s", self.source.name)
        self._trouble, self._pause = None, 0.0
        return True

    def _failed(self, why: str) -> None:
        if why != self._trouble:
            log.warning("GPU utilization is not measured by %s: %s", self.source.name, why)
        self._trouble = why
        self._pause = min(LONGEST_PAUSE, max(self._interval, 2 * self._pause))
        self._due = time.monotonic() + self._pause
