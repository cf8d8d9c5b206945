"""What is left of a deleted service, in the store and on the disk."""

from __future__ import annotations

import pytest
import redis
from e2e_node import eventually
from scenes import deploy

from control.services.remains import Gone
from state.codec import decode
from state.kinds import Kind
from state.slots import CLAIMS_KEY
from state.store import LEASES_KEY, REVISION_KEY, WORKERS_KEY, events_key, kind_key

pytestmark = pytest.mark.e2e


def test_of_a_deleted_service_only_tombstones_its_label_and_its_log_remain(node):
    store = redis.Redis(unix_socket_path=str(next(node.data.rglob("*.sock"))))
    before = everything(store)
    deploy(node, "acme", "web", min_replicas=0)
    node.create("acme", "broken", repo="acme/none")
    node.wait_status("acme", "broken", "failed")
    service = eventually(lambda: (found := node.service("acme", "web"))["status"] == "running" and found, 30)
    ids = {node.service("acme", "broken")["id"], service["id"]}
    for name in ("web", "broken"):
        assert node.api("DELETE", f"/auth/v1/seed/acme/services/{name}").status == 204

    def gone() -> bool:
        return not any(store.hexists(kind_key(Kind.SERVICE), i) for i in ids)

    eventually(gone, what="their documents are removed")
    notes = {(Kind.META, f"gone/{i}") for i in ids}
    routes = {(Kind.ROUTE, f"{name}-acme.apps.localhost") for name in ("web", "broken")}
    labels = {(Kind.LABEL, f"{name}-acme") for name in ("web", "broken")}
    eventually(lambda: everything(store) - before == notes | routes | labels)
    note = store.hget(kind_key(Kind.META), f"gone/{service['id']}")
    assert decode(Gone, note.partition(b":")[2]).name == "web"
    eventually(lambda: all(lingers(store, i) for i in ids), what="their events go by themselves")
    process = node.data / "process"
    eventually(lambda: not [*process.glob("checkouts/acme/*"), *process.glob("homes/acme/*")], what="files are gone")
    assert list((node.data / "replicas").iterdir()) == []
    logs = {path.name for path in (node.data / "logs").iterdir()}
    assert service["id"] in logs
    assert logs <= ids


def everything(store: redis.Redis) -> set[tuple[Kind, str]]:
    """Every document; keys are those of the documents, and a few that have nothing to do with a service.

    Analytics are folded each 10 s, and forgotten by the same work.
    """
    common = {kind_key(kind) for kind in Kind} | {LEASES_KEY, REVISION_KEY, WORKERS_KEY, CLAIMS_KEY, "{wg}:feed"}
    others = {key.decode() for key in store.scan_iter()} - common
    assert all(key.endswith(":events") or key.startswith("{wg}:analytics:") for key in others), others
    return {(kind, i.decode()) for kind in Kind for i, _ in store.hscan_iter(kind_key(kind))}


def lingers(store: redis.Redis, service: str) -> bool:
    """Events are gone, or go by themselves."""
    return store.ttl(events_key(service)) != -1  # -1: no time to live
