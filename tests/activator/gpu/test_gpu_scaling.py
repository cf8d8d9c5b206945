"""A service scales by what a DCGM exporter says: its recorded text over real HTTP, real store, real processes."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from plane import QUICK, Control, Plane, Worker, states, until

from activator.gpu.dcgm import DcgmExporter
from activator.gpu.levels import Level
from state.models import Offer, ReplicaState, Scaling
from state.store import GPUS

RECORDED = (Path(__file__).parent / "dcgm_t4.txt").read_text()
OFFER = Offer("process", "us-east-1", {"T4": 3})
SETTINGS = replace(QUICK, gpu_interval=0.1, gpu_window=0.3, gpu_patience=2.0)
AT_ONCE = Scaling(scale_down_delay=0)


class Exporter:
    """The recorded text, with other percentages by number of the GPU. `broken`: it answers 500."""

    def __init__(self) -> None:
        self.percent = {"0": 0, "1": 0, "2": 0}
        self.broken = False
        self.asked = 0
        self.url = ""

    async def answer(self, _: web.Request) -> web.StreamResponse:
        self.asked += 1
        if self.broken:
            return web.Response(status=500)
        text = re.sub(r'^(DCGM_FI_DEV_GPU_UTIL\{gpu="(\d)".*\}) \d+$', self._line, RECORDED, flags=re.MULTILINE)
        return web.Response(text=text)

    def _line(self, found: re.Match[str]) -> str:
        return f"{found[1]} {self.percent[found[2]]}"


@pytest.fixture
async def exporter() -> AsyncIterator[Exporter]:
    exporter = Exporter()
    app = web.Application()
    app.router.add_get("/metrics", exporter.answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    exporter.url = f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
    yield exporter
    await runner.cleanup()


@contextlib.asynccontextmanager
async def busy(worker: Worker, service: str) -> AsyncIterator[None]:
    """It has a request in flight all the time."""
    over = asyncio.Event()

    async def client() -> None:
        while not over.is_set():
            assert (await worker.request(service, "/slow/0.5"))[0] == 200

    clients = [asyncio.get_running_loop().create_task(client()) for _ in range(2)]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*clients)


async def running(plane: Plane, control: Control, target: int, **fields: Any) -> str:
    """A service with a replica on GPU 0."""
    service = await plane.create(
        gpu="T4", gpu_count=1, max_replicas=3, target_gpu_utilization=target, scaling=AT_ONCE, **fields
    )
    await until(lambda: ready(control, service) == 1)
    return service


def ready(control: Control, service: str) -> int:
    return states(control.view(service)).count(ReplicaState.READY)


def measured(control: Control, service: str) -> list[float | None]:
    view = control.view(service)
    assert view is not None
    return [control.activation.gpus.of(r.node, r.id, time.monotonic()) for r in view.replicas.values()]


def desired(control: Control, service: str) -> int:
    view = control.view(service)
    assert view is not None
    return view.scale.desired


async def gpus(control: Control) -> list[str]:
    return sorted(gpu for given in (await control.activation.agent.gpus()).values() for gpu in given)


async def test_up_and_down_with_the_utilization(plane: Plane, exporter: Exporter) -> None:
    plane.repository()
    control, worker = plane.control(SETTINGS, offer=OFFER, gpus=[DcgmExporter(exporter.url)]), await plane.worker()
    exporter.percent = {"0": 95, "1": 35, "2": 35}
    service = await running(plane, control, target=40)
    async with busy(worker, service):
        await until(lambda: ready(control, service) == 3)
        assert await gpus(control) == ["0", "1", "2"]
        exporter.percent = {"0": 14, "1": 8, "2": 8}
        await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    told = [event.reason for event in await plane.events(service) if event.kind == "service.scaled"]
    assert told[0] == "from 1 to 3: GPU utilization is 95 %, its target 40 %"


async def test_what_is_not_measured_is_not_idle(plane: Plane, exporter: Exporter) -> None:
    plane.repository()
    exporter.percent = {"0": 30, "1": 30, "2": 30}
    control, worker = plane.control(SETTINGS, offer=OFFER, gpus=[DcgmExporter(exporter.url)]), await plane.worker()
    service = await running(plane, control, target=50)
    async with busy(worker, service):
        await until(lambda: measured(control, service) == [30])
        exporter.broken = True
        await until(lambda: measured(control, service) == [None])
        exporter.broken = False
        exporter.percent["0"] = 100
        await until(lambda: ready(control, service) == 2)
    assert control.activation.meter.failures[exporter.url] > 0


async def load(control: Control, service: str, exporter: Exporter, percent: int) -> None:
    """For ever: so much of a GPU's work is spread over the replicas that are ready."""
    while True:
        each = min(100, round(percent / max(1, ready(control, service))))
        exporter.percent = dict.fromkeys(exporter.percent, each)
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(("target", "work", "count"), [(10, 30, 3), (95, 190, 2), (95, 94, 1)])
async def test_targets_at_both_bounds(plane: Plane, exporter: Exporter, target: int, work: int, count: int) -> None:
    """ceil(replicas * utilization / target), and there it stays."""
    plane.repository()
    control, worker = plane.control(SETTINGS, offer=OFFER, gpus=[DcgmExporter(exporter.url)]), await plane.worker()
    service = await running(plane, control, target=target)
    async with busy(worker, service), asyncio.TaskGroup() as tasks:
        working = tasks.create_task(load(control, service, exporter, work))
        await until(lambda: ready(control, service) == count)
        asked = exporter.asked
        await until(lambda: exporter.asked >= asked + 10)
        assert (desired(control, service), ready(control, service)) == (count, count)
        working.cancel()


async def test_another_node_measures_its_own(plane: Plane, exporter: Exporter) -> None:
    """The leader has neither a GPU nor an exporter."""
    plane.repository()
    exporter.percent = {"0": 95, "1": 35, "2": 35}
    leading = plane.control(SETTINGS)
    await until(lambda: leading.activation.leader.leads)
    source = DcgmExporter(exporter.url)
    other = plane.control(SETTINGS, node="n2", supervisor="s2", offer=OFFER, gpus=[source])
    worker = await plane.worker()
    await until(lambda: "n2" in leading.activation.nodes.fleet().up)
    service = await running(plane, leading, target=40)
    async with busy(worker, service):
        await until(lambda: ready(leading, service) == 3)
    assert leading.activation.leader.leads
    for told in (b"junk", Level("nobody", {"x": 1.0}).encode(), Level("n1", {"x": 1.0}).encode()):
        await plane.store.publish(GPUS, told)
    await until(lambda: ("n1", "x", 1.0) in leading.activation.gpus.all(time.monotonic()))
    assert {node for node, _, _ in leading.activation.gpus.all(time.monotonic())} == {"n1", "n2"}
    assert leading.activation.gpu_utilization().keys() == {service}
    assert await gpus(leading) == []
    assert await gpus(other) == ["0", "1", "2"]
