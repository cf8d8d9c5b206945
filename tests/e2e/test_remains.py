"""What is left of a deleted service, in the store and on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from e2e_node import eventually
from scenes import deploy
from shared_nodes import PLAIN

from control.services.remains import Gone
from state.codec import decode
from state.kinds import Kind
from state.slots import CLAIMS_KEY
from state.store import LEASES_KEY, REVISION_KEY, WORKERS_KEY, events_key, kind_key

pytestmark = [pytest.mark.e2e, PLAIN.group]


def test_of_a_deleted_service_only_tombstones_its_label_and_its_log_remain(plain_node):
    node = plain_node
    store = redis.Redis(unix_socket_path=str(node.data / "store.sock"))
    replicas, kept = node.data / "replicas", node.data / "logs"
    eventually(
        lambda: not store.hlen(kind_key(Kind.SERVICE)) and not listed(replicas), what="no other is being removed"
    )
    before, others_before, logs_before = everything(store), others(store), listed(kept)
    deploy(node, "acme", "gone", min_replicas=0)
    node.create("acme", "broken", repo="acme/none")
    node.wait_status("acme", "broken", "failed")
    service = eventually(lambda: (found := node.service("acme", "gone"))["status"] == "running" and found, 30)
    ids = {node.service("acme", "broken")["id"], service["id"]}
    for name in ("gone", "broken"):
        assert node.api("DELETE", f"/auth/v1/seed/acme/services/{name}").status == 204

    def gone() -> bool:
        return not any(store.hexists(kind_key(Kind.SERVICE), i) for i in ids)

    eventually(gone, what="their documents are removed")
    notes = {(Kind.META, f"gone/{i}") for i in ids}
    routes = {(Kind.ROUTE, f"{name}-acme.apps.localhost") for name in ("gone", "broken")}
    labels = {(Kind.LABEL, f"{name}-acme") for name in ("gone", "broken")}
    eventually(lambda: everything(store) - before == notes | routes | labels)
    assert others(store) <= others_before
    note = store.hget(kind_key(Kind.META), f"gone/{service['id']}")
    assert decode(Gone, note.partition(b":")[2]).name == "gone"
    eventually(lambda: all(lingers(store, i) for i in ids), what="their events go by themselves")
    process = node.data / "process"
    eventually(lambda: not [*process.glob("checkouts/acme/*"), *process.glob("homes/acme/*")], what="files are gone")
    assert listed(replicas) == set()
    logs = listed(kept) - logs_before
    assert service["id"] in logs
    assert logs <= ids


def listed(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def everything(store: redis.Redis) -> set[tuple[Kind, str]]:
    """Every document."""
    return {(kind, i.decode()) for kind in Kind for i, _ in store.hscan_iter(kind_key(kind))}


def others(store: redis.Redis) -> set[str]:
    """The keys that are neither those of the documents nor some that have nothing to do with a service.

    Analytics are folded each 10 s, and forgotten by the same work.
    """
    common = {kind_key(kind) for kind in Kind} | {LEASES_KEY, REVISION_KEY, WORKERS_KEY, CLAIMS_KEY, "{wg}:feed"}
    keys = {key.decode() for key in store.scan_iter()} - common
    return {key for key in keys if not key.endswith(":events") and not key.startswith("{wg}:analytics:")}


def lingers(store: redis.Redis, service: str) -> bool:
    """Events are gone, or go by themselves."""
    return store.ttl(events_key(service)) != -1  # -1: no time to live
