"""Fixtures of tests that order certificates."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from state.store import Store
from tests.certs.issuing import World, world
from tests.pebble import Pebble


@pytest.fixture(scope="session")
def calm_pebble(pebbles: Callable[..., Pebble]) -> Pebble:
    """One that refuses no nonces: each request is made once, so that they can be counted."""
    return pebbles(nonce_reject=0)


@pytest.fixture(scope="session")
def other_pebble(pebbles: Callable[..., Pebble], calm_pebble: Pebble) -> Pebble:
    """Another CA, which looks at the same node."""
    return pebbles(nonce_reject=0, http_port=calm_pebble.http_port, tls_port=calm_pebble.tls_port)


@pytest.fixture
async def ca(store: Store, calm_pebble: Pebble, tmp_path: Path) -> AsyncIterator[World]:
    """A CA behind the proxy, and a node that answers it."""
    async with world(store, calm_pebble, tmp_path) as made:
        yield made


@pytest.fixture
async def strict_ca(store: Store, pebble: Pebble, tmp_path: Path) -> AsyncIterator[World]:
    """The same, and it refuses good nonces now and then."""
    async with world(store, pebble, tmp_path) as made:
        yield made
