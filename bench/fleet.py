"""Many services at once, written straight into the store of a running node: by the API it would take minutes.

None of them runs anything: most sleep, every tenth one's only deployment failed. What is written is what a create and
its first deployment leave behind.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import TypeVar
from urllib.parse import quote

from bench.product import NAMESPACE, Product
from state.codec import encode
from state.ids import new_id, now_us
from state.kinds import Kind
from state.models import (
    Backend,
    Deployment,
    DeploymentState,
    Phase,
    Route,
    RunSpec,
    Scale,
    Scaling,
    Service,
)
from state.store import Change, Store

T = TypeVar("T")

BATCH = 100  # services in one commit
FAILED = 10  # every such one failed
ENVIRONMENT = {f"SETTING_{n}": "s" * 120 for n in range(5)}  # as long as sealed values are; nobody opens them


def name(number: int) -> str:
    return f"fleet-{number:05}"


def with_store(product: Product, work: Callable[[Store], Coroutine[None, None, T]]) -> T:
    """Run `work` with a client of the product's own store."""
    (socket,) = (product.directory / "data").rglob("store.sock")

    async def run() -> T:
        store = Store(f"unix://{quote(str(socket))}")
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def fill(product: Product, numbers: Sequence[int]) -> list[str]:
    """Write the services with these numbers; returns their ids."""

    async def write(store: Store) -> list[str]:
        ids: list[str] = []
        for start in range(0, len(numbers), BATCH):
            made = [service(number) for number in numbers[start : start + BATCH]]
            await store.commit([change for _, changes in made for change in changes])
            ids += [service_id for service_id, _ in made]
        return ids

    return with_store(product, write)


def service(number: int) -> tuple[str, list[Change]]:
    """One service as it is stored: its id and the changes of its commit."""
    service_id, deployment_id, now = new_id(), new_id(), now_us()
    label = f"{name(number)}-{NAMESPACE}"
    run = RunSpec(repo=f"{NAMESPACE}/{name(number)}", branch="main", env=ENVIRONMENT)
    failed = number % FAILED == 0
    kept = Service(
        id=service_id,
        namespace=NAMESPACE,
        name=name(number),
        label=label,
        run=run,
        gpu="none",
        gpu_count=None,
        min_replicas=0,
        max_replicas=3,
        target_gpu_utilization=70,
        region="us-east-1",
        custom_domain=None,
        scaling=Scaling(),
        created_at=now,
        updated_at=now,
        latest=deployment_id,
        active=None if failed else deployment_id,
    )
    state = DeploymentState.FAILED if failed else DeploymentState.ACTIVE
    reason = "its build failed" if failed else None
    deployment = Deployment(
        deployment_id, service_id, state, run, now, commit="0" * 40, proven=not failed, reason=reason, finished_at=now
    )
    phase = Phase.REFUSING if failed else Phase.SERVING
    retry_after = 30 if failed else 1
    backend = Backend(service_id, NAMESPACE, name(number), phase, reason, retry_after)
    return service_id, [
        Change(Kind.NAME, f"{NAMESPACE}/{name(number)}", service_id.encode()),
        Change(Kind.LABEL, label, f"{NAMESPACE}/{name(number)}".encode()),
        Change(Kind.SERVICE, service_id, encode(kept)),
        Change(Kind.DEPLOYMENT, deployment_id, encode(deployment)),
        Change(Kind.SCALE, service_id, encode(Scale())),
        Change(Kind.BACKEND, service_id, encode(backend)),
        Change(Kind.ROUTE, f"{label}.apps.localhost", encode(Route(service_id, NAMESPACE, name(number)))),
    ]
