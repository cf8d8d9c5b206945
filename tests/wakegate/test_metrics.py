"""`/metrics` with thousands of services does not stop control's loop."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import Metric

from activator.views import Catalog
from gateway.exposition import Snapshot, Totals
from state.models import StartPhases
from wakegate.counters import CountersFile, Kept
from wakegate.metrics import Metrics

SERVICES = 2000


def busy(number: int) -> dict[str, Any]:
    """A service's counters after a day of traffic."""
    return {
        "namespace": f"ns{number % 50}",
        "name": f"service-{number}",
        "requests": {"200": 1000 + number, "404": 3, "499": 2, "503": 1},
        "bytes_in": 1,
        "bytes_out": 2,
        "duration": {str(bucket): number for bucket in range(-200, -80)},
        "duration_sum": 1.5,
        "hold": {str(bucket): 1 for bucket in range(-60, 20)},
        "hold_sum": 0.2,
        "errors": {"connection_refused": 3},
        "retries": 1,
    }


async def test_two_thousand_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics(CountersFile(tmp_path / "metrics.json"))
    for first in range(0, SERVICES, 500):
        services = {f"id{number}": busy(number) for number in range(first, first + 500)}
        report = {"worker": "n/s/1/a", "seq": first + 1, "services": {}, "counters": {"services": services}}
        metrics.report(json.dumps(report).encode())
    catalog = cast("Catalog", SimpleNamespace(counts=dict))
    written_by: list[int] = []
    write = Snapshot.text

    def noted(snapshot: Snapshot, more: Iterable[Metric] = ()) -> bytes:
        written_by.append(threading.get_ident())
        return write(snapshot, more)

    monkeypatch.setattr(Snapshot, "text", noted)
    text, _ = await metrics.exposition(catalog, {})
    assert text.count(b"\nwakegate_requests_total{") == 4 * SERVICES
    assert len(written_by) == 1
    assert threading.get_ident() not in written_by, "half a second's work is not the loop's"


async def test_cold_starts_go_on_over_a_restart(tmp_path: Path) -> None:
    catalog = cast("Catalog", SimpleNamespace(counts=dict))
    file = CountersFile(tmp_path / "metrics.json")
    before = Metrics(file)
    before.cold_starts.ready(StartPhases(decide=1_000, ready=99_000))
    before.cold_starts.failed("fetch")
    await before.close()
    after = Metrics(file)
    after.cold_starts.ready(StartPhases(decide=1_000, ready=99_000))
    text, _ = await after.exposition(catalog, {})
    for line in (
        b"wakegate_cold_starts_total 2.0",
        b'wakegate_cold_start_seconds_count{phase="ready"} 2.0',
        b'wakegate_cold_start_seconds_count{phase="first_byte"} 0.0',
        b"wakegate_cold_start_total_seconds_sum 0.2",
        b'wakegate_cold_start_failures_total{phase="fetch"} 1.0',
    ):
        assert line in text.splitlines()


def test_cold_starts_of_other_buckets_begin_anew(tmp_path: Path) -> None:
    file = CountersFile(tmp_path / "metrics.json")
    file.write(Kept(Totals().state(), {"seconds": {"": [[1], 1.0]}, "failures": {}}))
    assert Metrics(file).cold_starts.total == 0
