"""How busy GPUs are, from looks to an answer of the API."""

from __future__ import annotations

import json

from control.analytics.collector import Analytics
from control.analytics.gpus import GpuLooks
from control.analytics.resolution import choose
from state.counts import Counts, of_row
from state.kinds import Kind
from state.leases import Lease
from state.store import Store

NOW = 1_700_000_000


def test_a_slot_is_told_once_and_when_it_is_over() -> None:
    looks = GpuLooks()
    for second, percent in enumerate((10.0, 20.0, 60.0)):
        looks.look({"a": percent, **({"b": 0.0} if second == 2 else {})}, NOW + second)
        assert looks.take() == {}
    looks.look({}, NOW + 10)
    over = {service: [json.loads(line) for line in lines] for service, lines in looks.take().items()}
    assert {service: (slot, of_row(row)) for service, ((slot, *row),) in over.items()} == {
        "a": (NOW, Counts(gpu_looks=3, gpu_hundredths=9000)),
        "b": (NOW, Counts(gpu_looks=1)),
    }
    assert looks.take() == {}
    looks.look({"a": 5.0}, NOW + 20)
    assert looks.take() == {}  # nothing was measured in the slot before


async def test_the_leader_puts_it_down(rig, store: Store) -> None:
    lease = Lease(store, "leader", holder="one", owner="node")
    await lease.step(lambda _: None, lambda: None)
    service = (await rig.create("app", min_replicas=0)).json["id"]
    assert rig.mirror.get(Kind.SERVICE, service) is not None
    percent = {service: 80.0}
    analytics = Analytics(store, rig.mirror, lambda: lease.fence, lambda: percent)
    assert lease.fence is not None
    for second in range(11):
        percent = {service: 80.0} if second < 5 else {service: 40.0} if second < 10 else {}
        await analytics.work(lease.fence, NOW + second)
    told = await analytics.read(service, choose(NOW - 60, NOW + 60, 10, NOW + 20), NOW + 20)
    assert told["totals"]["gpu_utilization"] == 60
    assert sorted({step["gpu_utilization"] for step in told["series"]}) == [0, 60]
    await analytics.tend(service, lease.fence, NOW + 700)
    told = await analytics.read(service, choose(NOW - 60, NOW + 60, 60, NOW + 700), NOW + 700)
    assert told["totals"]["gpu_utilization"] == 60
