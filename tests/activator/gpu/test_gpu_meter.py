"""From what sources say to what a node tells of its replicas: order of sources, silence, troubles told once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import pytest

from activator.gpu import NotMeasured, Utilizations
from activator.gpu.levels import Level, Levels, MalformedLevel, decode, utilization
from activator.gpu.meter import Meter


class Scripted:
    """Says what it is told to; `None`: it fails."""

    def __init__(self, name: str, said: Utilizations | None = None) -> None:
        self.name = name
        self.said = said
        self.reads = 0
        self.closed = False

    async def read(self) -> Utilizations:
        self.reads += 1
        if self.said is None:
            raise NotMeasured("it is broken")
        return self.said

    async def close(self) -> None:
        self.closed = True


class Told:
    def __init__(self, *sources: Scripted, patience: float = 60.0, **devices: Sequence[str]) -> None:
        self.devices: Mapping[str, Sequence[str]] = devices
        self.levels: list[Level] = []
        self.meter = Meter("n1", sources, self._devices, self._publish, interval=60, patience=patience)

    async def _devices(self) -> Mapping[str, Sequence[str]]:
        return self.devices

    async def _publish(self, data: bytes) -> None:
        self.levels.append(decode(data))

    async def measure(self) -> Mapping[str, float] | None:
        """What it says; None: nothing."""
        self.levels.clear()
        await self.meter.measure()
        return self.levels[0].replicas if self.levels else None


async def test_replicas_have_the_mean_of_their_gpus() -> None:
    told = Told(Scripted("a", {"0": 90, "1": 30, "2": 11, "GPU-x": 50}), one=["0"], two=["0", "1"], uuid=["GPU-x"])
    assert await told.measure() == {"one": 90, "two": 60, "uuid": 50}
    told.devices = {"half": ["1", "9"], "none": ["9"]}
    assert await told.measure() == {"half": 30}


async def test_the_first_source_counts_and_the_others_fill_its_gaps() -> None:
    told = Told(Scripted("exporter", {"0": 90}), Scripted("NVML", {"0": 10, "1": 20}), a=["0"], b=["1"])
    assert await told.measure() == {"a": 90, "b": 20}


async def test_a_failure_is_not_an_idle_gpu(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = Scripted("exporter")
    told = Told(source, patience=0.0, a=["0"])
    assert await told.measure() is None
    assert await told.measure() is None
    assert told.meter.failures["exporter"] == source.reads
    assert [r.message for r in caplog.records] == ["GPU utilization is not measured by exporter: it is broken"]


async def test_what_was_read_last_counts_for_a_while() -> None:
    source = Scripted("exporter", {"0": 0})
    told = Told(source, a=["0"])
    assert await told.measure() == {"a": 0}
    source.said = None
    assert await told.measure() == {"a": 0}
    assert told.meter.failures["exporter"] == 1
    assert await told.measure() == {"a": 0}  # not asked again at once
    assert source.reads == 2


async def test_the_last_word_is_that_nothing_is_measured() -> None:
    told = Told(Scripted("a", {"0": 5}), a=["0"])
    assert await told.measure() == {"a": 5}
    told.devices = {}
    assert await told.measure() == {}
    assert await told.measure() is None


def test_levels_are_of_their_node_and_grow_old() -> None:
    levels = Levels(patience=10)
    levels.take(Level("n1", {"a": 80.0}), 100)
    levels.take(Level("n2", {"a": 1.0, "b": 20.0}), 105)
    assert (levels.of("n1", "a", 109), levels.of("n2", "b", 109)) == (80, 20)
    assert levels.of("n1", "b", 109) is None  # another node's word of it does not count
    assert levels.of("n1", "a", 110) is None
    levels.take(Level("n1", {}), 111)
    assert levels.of("n1", "a", 111) is None
    levels.keep({"n1"})
    assert levels.of("n2", "b", 111) is None


def test_a_level_as_it_travels() -> None:
    assert decode(Level("n1", {"a": 12.3456}).encode()) == Level("n1", {"a": 12.35})
    for data in (
        b"",
        b"{}",
        b"[]",
        b'{"node":"n","replicas":{"a":101}}',
        b'{"node":"n","replicas":{"a":NaN}}',
        b" " * 2_000_000,
    ):
        with pytest.raises(MalformedLevel):
            decode(data)


def test_unmeasured_gpus_have_no_part_in_the_mean() -> None:
    assert utilization(["0", "1"], {"0": 40.0}) == 40
    assert utilization([], {"0": 40.0}) is None
