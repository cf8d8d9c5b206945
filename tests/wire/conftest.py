"""An edge in this process and everybody around it are those of tests/gateway/wire.py; uvloop, as in the workers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent / "gateway"))

from wire import Conversation, Starter

from gateway.settings import GatewaySettings


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def conversation() -> AsyncIterator[Starter]:
    """`await conversation(hold_timeout=1, log_fd=…)`: an edge with these settings."""
    started: list[Conversation] = []

    async def start(log_fd: int | None = None, **settings: object) -> Conversation:
        asyncio.get_running_loop().set_debug(False)  # it would double the time of thousands of conversations
        talk = Conversation(GatewaySettings(**settings), log_fd)  # type: ignore[arg-type]
        started.append(talk)
        await talk.start()
        return talk

    yield start
    for talk in started:
        await talk.stop()
