"""A conversation per test; uvloop, as in the workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop
from wire import Conversation, Starter

from gateway.settings import GatewaySettings


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def conversation() -> AsyncIterator[Starter]:
    """`await conversation(hold_timeout=1, log_fd=…)`: an edge with these settings."""
    started: list[Conversation] = []

    async def start(log_fd: int | None = None, **settings: object) -> Conversation:
        talk = Conversation(GatewaySettings(**settings), log_fd)  # type: ignore[arg-type]
        started.append(talk)
        await talk.start()
        return talk

    yield start
    for talk in started:
        await talk.stop()


@pytest.fixture
async def talk(conversation: Starter) -> Conversation:
    return await conversation()
