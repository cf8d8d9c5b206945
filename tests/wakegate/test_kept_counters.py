"""The counters of `/metrics` over restarts: none ever falls, and nothing is counted twice or lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.exposition import Totals
from wakegate.counters import CountersFile, Kept

SERVICES = 3
Samples = dict[tuple[str, ...], float]


def samples(totals: Totals) -> Samples:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(totals.expose().decode())
        for sample in family.samples
        if family.type in ("counter", "histogram")
    }


@dataclass
class Worker:
    """Counts of its services; every request takes 0.25 s and is one of the connections accepted.

    `told` and `saved`: what control knows of the counts, and what its file does.
    """

    name: str
    counts: Counter[int] = field(default_factory=Counter)
    told: Counter[int] = field(default_factory=Counter)
    saved: Counter[int] = field(default_factory=Counter)

    def report(self, seq: int, services: list[int]) -> dict[str, Any]:
        self.told |= Counter({n: self.counts[n] for n in services})
        counted = {f"s{n}": self._counted(n) for n in services if self.counts[n]}
        own = {"services": counted, "accepted": self.counts.total()}
        return {"worker": self.name, "seq": seq, "services": {}, "counters": own}

    def _counted(self, n: int) -> dict[str, Any]:
        count = self.counts[n]
        codes, duration = {"200": count}, {"-120": count}
        texts = {"namespace": "acme", "name": f"api{n}"}
        return {**texts, "requests": codes, "duration": duration, "duration_sum": count * 0.25, "retries": count}


def told(found: Samples) -> tuple[float, float, float, float, float]:
    """How many requests there were, five times."""
    requests = sum(value for key, value in found.items() if key[0] == "wakegate_requests_total")
    names = ("request_duration_seconds_count", "request_duration_seconds_sum", "retries_total")
    count, seconds, retries = (found.get((f"wakegate_{name}",), 0.0) for name in names)
    return requests, count, seconds * 4, retries, found.get(("wakegate_connections_accepted_total",), 0.0)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("request"), st.integers(0, 1), st.integers(0, SERVICES - 1)),
        st.tuples(st.just("report"), st.integers(0, 1), st.sets(st.integers(0, SERVICES - 1))),
        st.tuples(st.just("end"), st.integers(0, 1)),
        st.tuples(st.just("scrape")),
        st.tuples(st.just("killed")),
        st.tuples(st.just("restarted")),
    ),
    max_size=60,
)


@given(EVENTS)
def test_nothing_falls_and_nothing_counts_twice(tmp_path_factory: pytest.TempPathFactory, events: list[Any]) -> None:
    """All that is lost is what a worker said at last, where control was killed before the next scrape."""
    file = CountersFile(tmp_path_factory.mktemp("counters") / "metrics.json")
    totals, shown, lives, seq = Totals(), Samples(), 2, 0
    workers = [Worker("n/s/0/0"), Worker("n/s/1/1")]
    ended = unsaved = lost = 0  # requests of workers that have ended; those of them that are not in the file
    everything = list(range(SERVICES))

    def scrape() -> None:
        nonlocal shown, unsaved
        file.write(Kept(totals.state()))
        found = samples(totals)
        assert {key: (value, found.get(key)) for key, value in shown.items() if found.get(key, -1) < value} == {}
        shown, unsaved = found, 0
        for worker in workers:
            worker.saved = worker.told.copy()

    for event, *what in [*events, ("restarted",)]:
        seq += 1
        match event:
            case "request":
                workers[what[0]].counts[what[1]] += 1
            case "report":
                totals.take(workers[what[0]].report(seq, sorted(what[1])))
            case "end":
                worker = workers[what[0]]
                totals.take(worker.report(seq, everything))
                ended, unsaved = ended + worker.counts.total(), unsaved + (worker.counts - worker.saved).total()
                workers[what[0]] = Worker(f"n/s/{what[0]}/{lives}")
                lives += 1
            case "scrape":
                scrape()
            case _:
                if event == "restarted":
                    scrape()
                totals, kept = Totals(), file.read()
                lost, unsaved = lost + unsaved, 0
                if kept is not None:
                    totals.restore(kept.traffic)
                for worker in workers:
                    worker.told = worker.saved.copy()
    for worker in workers:
        totals.take(worker.report(seq + 1, everything))
    scrape()
    served = ended - lost + sum(worker.counts.total() for worker in workers)
    *of_services, accepted = told(samples(totals))
    assert set(of_services) == {float(served)}
    assert lost or accepted == served


@pytest.mark.parametrize("damage", [b"", b'["totals",{},{}]\n', b"\xff", b'["x"]\n["end",1]\n', b'["end",2]\n'])
def test_what_can_not_be_read_counts_as_nothing(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = CountersFile(tmp_path / "metrics.json")
    assert file.read() is None
    assert caplog.messages == []
    (tmp_path / "metrics.json").write_bytes(damage)
    assert file.read() is None
    assert "begin anew" in caplog.text


def test_a_place_that_can_not_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = CountersFile(tmp_path / "nowhere" / "metrics.json")
    for _ in range(3):
        file.write(Kept(Totals().state()))
    assert len(caplog.messages) == 1
