"""A conversation with TLS per test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tls_parties import TlsConversation, TlsStarter

from gateway.settings import GatewaySettings


@pytest.fixture
async def secured() -> AsyncIterator[TlsStarter]:
    """`await secured(hsts=1, log_fd=…)`: an edge with these settings and app.test's certificate."""
    started: list[TlsConversation] = []

    async def start(log_fd: int | None = None, **settings: object) -> TlsConversation:
        talk = TlsConversation(GatewaySettings(**settings), log_fd)  # type: ignore[arg-type]
        started.append(talk)
        await talk.start()
        return talk

    yield start
    for talk in started:
        await talk.stop()


@pytest.fixture
async def talk(secured: TlsStarter) -> TlsConversation:
    return await secured()
