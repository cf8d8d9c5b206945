"""`/metrics` with thousands of services does not stop control's loop."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from activator.views import Catalog
from wakegate.counters import CountersFile
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


async def test_two_thousand_services(tmp_path: Path) -> None:
    metrics = Metrics(CountersFile(tmp_path / "metrics.json"))
    for first in range(0, SERVICES, 500):
        services = {f"id{number}": busy(number) for number in range(first, first + 500)}
        report = {"worker": "n/s/1/a", "seq": first + 1, "services": {}, "counters": {"services": services}}
        metrics.report(json.dumps(report).encode())
    catalog = cast("Catalog", SimpleNamespace(counts=dict))
    loop = asyncio.get_running_loop()
    scrape = loop.create_task(metrics.exposition(catalog, {}))
    turns: list[float] = []  # CPU seconds of this thread between two turns of the loop: other processes don't count
    while not scrape.done():
        began = time.thread_time()
        await asyncio.sleep(0)
        turns.append(time.thread_time() - began)
    text, _ = await scrape
    assert text.count(b"\nwakegate_requests_total{") == 4 * SERVICES
    assert turns
    assert max(turns) < 0.05
