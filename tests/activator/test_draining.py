"""How a replica is asked to end: SIGTERM with nothing in flight, SIGKILL after the grace. Real store and processes."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace

from node_under_test import Repository
from plane import Plane, Running, only, states, until

from activator.ledger import Ledger
from activator.views import Catalog
from state.codec import encode
from state.kinds import Kind
from state.mirror import Mirror
from state.models import ReplicaState, Scaling
from state.store import Change, Store, Unavailable
from tests.conftest import Valkey

# Tells of each SIGTERM how many requests it had then; goes on all the same if it is STUBBORN, else once none is left.
TELLING = """
import os, signal, socket, threading, time
lock, busy, ended = threading.Lock(), [0], threading.Event()
def told(*_):
    with open(os.environ["STARTS"] + ".told", "a") as file:
        file.write(f"{busy[0]}\\n")
    if not os.environ.get("STUBBORN"):
        os._exit(0)
signal.signal(signal.SIGTERM, told)
with open(os.environ["STARTS"], "a") as starts:
    starts.write(f"{os.getpid()}\\n")
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
def answer(connection):
    with connection:
        head = connection.recv(65536).decode()
        if "/slow/" in head:
            busy[0] += 1
            time.sleep(float(head.split("/slow/")[1].split(" ")[0]))
            busy[0] -= 1
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
while True:
    connection, _ = listener.accept()
    threading.Thread(target=answer, args=(connection,), daemon=True).start()
"""


def deploy(plane: Plane) -> None:
    files = {"Procfile": "web: exec python3 app.py\n", "app.py": TELLING}
    Repository(plane.place / "git" / "acme" / "app").commit(files)


def told(plane: Plane) -> list[int]:
    """What each SIGTERM found in flight."""
    path = plane.scratch / "app.told"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_it_is_asked_to_end_once_nothing_is_in_flight_at_any_worker(plane: Plane) -> None:
    deploy(plane)
    control, one, other = plane.control(drain_timeout=60.0), await plane.worker(1), await plane.worker(2)
    service = await plane.create()
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    requests = [
        asyncio.get_running_loop().create_task(one.request(service, "/slow/1")),
        asyncio.get_running_loop().create_task(other.request(service, "/slow/2")),
    ]
    await until(lambda: control.activation.demand.load(service, time.monotonic()).in_flight == 2)
    await plane.delete(service)
    assert [status for status, _ in await asyncio.gather(*requests)] == [200, 200]
    await until(lambda: control.view(service) is None)
    assert told(plane) == [0]


async def test_what_does_not_end_in_time_is_cut_and_what_ignores_sigterm_is_killed(plane: Plane) -> None:
    deploy(plane)
    control, worker = plane.control(drain_timeout=1.0, stop_grace=0.5), await plane.worker()
    service = await plane.create(env={"STUBBORN": "1"})
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    request = asyncio.get_running_loop().create_task(worker.request(service, "/slow/600"))
    await until(lambda: control.activation.demand.load(service, time.monotonic()).in_flight == 1)
    await plane.delete(service)
    await until(lambda: control.view(service) is None)
    await asyncio.wait([request])
    assert isinstance(request.exception(), ConnectionResetError)
    assert told(plane) == [1]
    assert not runs(plane.starts()[0])
    cut = [event for event in await plane.events(service) if event.kind == "replica.cut"]
    assert [event.reason for event in cut] == ["what was in flight did not end within the drain time"]


async def test_by_force_nothing_is_waited_for_and_nobody_is_asked(plane: Plane) -> None:
    deploy(plane)
    control, worker = plane.control(drain_timeout=600.0, stop_grace=600.0), await plane.worker()
    service = await plane.create(env={"STUBBORN": "1"})
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    request = asyncio.get_running_loop().create_task(worker.request(service, "/slow/600"))
    await until(lambda: control.activation.demand.load(service, time.monotonic()).in_flight == 1)
    await plane.delete(service, force=True)
    await until(lambda: control.view(service) is None)
    await asyncio.wait([request])
    assert told(plane) == []
    assert not runs(plane.starts()[0])


async def test_what_the_store_has_forgotten_drains_too(plane: Plane) -> None:
    """It comes back from a moment before the replica was stored: no worker sends there any more, once it knows."""
    deploy(plane)
    control, worker = plane.control(drain_timeout=60.0), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=3600))
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    request = asyncio.get_running_loop().create_task(worker.request(service, "/slow/3"))
    await until(lambda: control.activation.demand.load(service, time.monotonic()).in_flight == 1)
    view = control.view(service)
    assert view is not None
    forgotten = only(view)
    without = view.without(forgotten.id)
    backend = replace(without.derived(), endpoints=())
    await plane.store.commit([Change(Kind.REPLICA, forgotten.id, None), Change(Kind.BACKEND, service, encode(backend))])
    assert (await request)[0] == 200
    await until(lambda: told(plane) == [0])
    await until(lambda: not runs(plane.starts()[0]))


async def test_no_replica_is_asked_to_end_by_a_copy_that_is_behind(valkey: Valkey, store: Store) -> None:
    """Within a run of the store or over a restart: there is no way back from SIGTERM."""
    mirror = Mirror(store, [Kind.REPLICA])
    ledger = Ledger(store, mirror, Catalog(mirror))
    running = Running(mirror.run())
    await mirror.synced()
    assert await ledger.stands(Kind.REPLICA, "a")
    await mirror.reached(await store.commit([Change(Kind.REPLICA, "a", b"{}")]))
    assert await ledger.stands(Kind.REPLICA, "a")
    await running.cancel()
    await store.commit([Change(Kind.REPLICA, "a", b"{}")])
    assert not await ledger.stands(Kind.REPLICA, "a")
    running = Running(mirror.run())
    await until(lambda: mirror.revision == 2)
    await running.cancel()
    assert await ledger.stands(Kind.REPLICA, "a")
    valkey.kill()
    await asyncio.to_thread(valkey.start)
    await until_answered(store)
    assert not await ledger.stands(Kind.REPLICA, "a")


async def until_answered(store: Store) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                return await store.ping()
            except Unavailable:
                await asyncio.sleep(0)
