"""A CA whose every refusal is told by a test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.pebble import Pebble


@pytest.fixture(scope="session")
def calm(pebbles: Callable[..., Pebble]) -> Pebble:
    """Refuses no nonce of its own accord: what is counted is exact (and certbot's library tries only twice)."""
    return pebbles(nonce_reject=0)
