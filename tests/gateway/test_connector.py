"""Connects begin in turns of the loop: many at once don't keep it from everything else."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.connector import Connector

NOBODY: Any = None


class Noted(Connector):
    """Notes who begins."""

    def __init__(self) -> None:
        super().__init__(NOBODY, NOBODY, 1.0, 0.0, 0)
        self.begun: list[Any] = []
        self.gate = asyncio.Event()

    async def _connect(self, exchange: Any, replica: Any) -> None:
        self.begun.append(exchange)
        await self.gate.wait()


async def test_many_begin_in_turns_and_in_order() -> None:
    connector = Noted()
    for number in range(100):
        connector.connect(number, NOBODY)  # type: ignore[arg-type]
    sizes = []
    while len(connector.begun) < 100:
        before = len(connector.begun)
        await asyncio.sleep(0)
        sizes.append(len(connector.begun) - before)
    assert connector.begun == list(range(100))
    assert max(sizes) < 100 / 2
    await asyncio.sleep(0)
    connector.connect(100, NOBODY)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert connector.begun[-1] == 100, "alone it waits for nothing"
    connector.gate.set()


async def test_who_closes_begins_nothing_more() -> None:
    connector = Noted()
    for number in range(100):
        connector.connect(number, NOBODY)  # type: ignore[arg-type]
    connector.close()
    for _ in range(5):
        await asyncio.sleep(0)
    assert connector.begun == []
