"""Objects that this version can't read: they count as absent, are told once, and stop nobody else's service."""

from __future__ import annotations

import asyncio
import json

import pytest
from plane import Plane, only, states, until

from activator.drivers.process.procfs import read_stat
from activator.views import KINDS
from state.kinds import Kind
from state.models import ReplicaState
from state.store import Change


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "value", [b'{"id":"x","service":"s","state":"of a newer version"}', b"damaged", b"[]", b"\xff"]
)
async def test_control_goes_on(plane: Plane, kind: Kind, value: bytes) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    await plane.store.commit([Change(kind, "x", value)])
    service = await plane.create()
    assert (await worker.request(service))[0] == 200
    revision = await plane.store.commit([Change(kind, "x", None)])
    await control.mirror.reached(revision)
    assert control.activation.catalog.unreadable(kind) == set()


async def test_it_is_told_once_per_version(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    control = plane.control()
    await control.mirror.synced()
    for value in (b'{"service":"s"}', b'{"service":"t"}'):
        await control.mirror.reached(await plane.store.commit([Change(Kind.REPLICA, "x", value)]))
        assert control.activation.catalog.replica("x") is None
        assert list(control.activation.catalog.replicas()) == []
    assert [r.getMessage().partition(":")[0] for r in caplog.records if "can't be read" in r.getMessage()] == [
        "the replica x can't be read and counts as absent"
    ] * 2


async def test_a_replica_is_made_good_and_not_stopped(plane: Plane) -> None:
    """Another one serves instead; what runs under the unreadable record ends when the record does."""
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(min_replicas=1)
    assert (await worker.request(service))[0] == 200
    replica = only(control.view(service))
    record = await plane.store.get(Kind.REPLICA, replica.id)
    assert record is not None
    newer = json.dumps(json.loads(record.value) | {"state": "of a newer version"}).encode()
    await plane.store.commit([Change(Kind.REPLICA, replica.id, newer)])
    await until(lambda: states(control.view(service)) == [ReplicaState.READY] and len(plane.starts()) == 2)
    first, second = plane.starts()
    assert int((await worker.request(service))[1]) == second
    assert control.activation.agent.running >= {replica.id}
    await plane.delete(service)
    await until(lambda: read_stat(first) is None and read_stat(second) is None)
    assert await plane.store.get(Kind.REPLICA, replica.id) is None


async def test_a_service_whose_deployment_cannot_be_read_can_be_deleted(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service, other = await plane.create(), await plane.create("other")
    await asyncio.gather(worker.request(service), worker.request(other))
    view = control.view(service)
    assert view is not None
    await plane.store.commit([Change(Kind.DEPLOYMENT, view.service.latest, b'{"service":"' + service.encode() + b'"}')])
    await plane.delete(service)
    await until(lambda: control.mirror.get(Kind.SERVICE, service) is None)
    assert await plane.store.get(Kind.DEPLOYMENT, view.service.latest) is None
    assert (await worker.request(other))[0] == 200
