"""What a supervisor's word proves of a worker."""

from __future__ import annotations

import pytest

from state.registrations import ended


@pytest.mark.parametrize(
    ("worker", "over"),
    [
        ("n/s/1/dead", True),
        ("n/s/1/alive", False),
        ("n/s/1/dead-too", False),
        ("n/before/1/alive", True),
        ("other/s/1/dead", False),
        ("other/before/1/dead", False),
        ("strange", False),
    ],
)
def test_a_supervisor_speaks_for_its_own_node_alone(worker: str, over: bool) -> None:
    assert ended(worker, node="n", supervisor="s", gone=["dead"]) is over
