"""A conversation per test; uvloop, as in the workers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import uvloop
from wire import Conversation, Starter

import gateway.exchange
from gateway.settings import GatewaySettings
from gateway.telemetry import Telemetry
from state.models import Endpoint

# Compiled, the data plane reads the real clock and connects itself: it can't be staged (`memory_plane.py`).
collect_ignore = [] if gateway.exchange.__file__.endswith(".py") else ["test_state_machine.py", "test_loop_turns.py"]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def conversation() -> AsyncIterator[Starter]:
    """`await conversation(hold_timeout=1, log_fd=…)`: an edge with these settings."""
    started: list[Conversation] = []

    async def start(log_fd: int | None = None, telemetry: Telemetry | None = None, **settings: object) -> Conversation:
        talk = Conversation(GatewaySettings(**settings), log_fd, telemetry)  # type: ignore[arg-type]
        started.append(talk)
        await talk.start()
        return talk

    yield start
    for talk in started:
        await talk.stop()


@pytest.fixture
async def talk(conversation: Starter) -> Conversation:
    return await conversation()


@pytest.fixture
def unanswered() -> Iterator[tuple[Endpoint, socket.socket]]:
    """A replica that answers no SYN, because its listener's queue is full and nobody accepts; and the listener."""
    with socket.socket() as listener, contextlib.ExitStack() as fillers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield Endpoint("unanswered", "127.0.0.1", listener.getsockname()[1]), listener
