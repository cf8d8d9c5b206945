"""A short run of the chaos, another one each time: its seed is in what a failure says."""

from __future__ import annotations

import random

import pytest

from tests.soak.chaos import struck


@pytest.mark.e2e
@pytest.mark.timeout(400)
@pytest.mark.xdist_group("soak")
def test_half_a_minute_of_kills_and_stops_of_everything() -> None:
    lines = list(struck(30, random.randrange(1 << 32)))
    assert lines[-1] == "ok", "\n".join(lines)
