"""What a request and a change cost does not grow with the services stored: counted, not timed.

How long they take with 10,000 is measured by `python -m bench --only api`.
"""

from __future__ import annotations

from collections import Counter

import pytest

from bench import fleet
from certs.claims import claim_id, new_claim
from state.codec import encode
from state.kinds import Kind
from state.store import Change

FEW, MANY = 200, 2000
REQUESTS = {
    "get": "/bench/service/fleet-00150",
    "domains": "/bench/service/fleet-00150/domains",
    "first page": "/bench/services?limit=100",
    "last page": "/bench/services?limit=100&page={last}",
    "past the end": "/bench/services?limit=100&page=999",
    "failed": "/bench/services?status=failed&limit=20",
    "nothing running": "/bench/services?status=running",
}


class Looks:
    """What is asked of the mirror from now on."""

    def __init__(self, monkeypatch, mirror) -> None:
        self.looked: Counter[str] = Counter()
        decoded, records = mirror.decoded, mirror.records
        monkeypatch.setattr(mirror, "decoded", lambda *of: self._note("object") or decoded(*of))
        monkeypatch.setattr(mirror, "records", lambda kind: self._note("all of a kind") or records(kind))

    def _note(self, what: str) -> None:
        self.looked[what] += 1

    def taken(self) -> dict[str, int]:
        found, self.looked = dict(self.looked), Counter()
        return found


async def fill(rig, numbers):
    """Each has a domain. Returns the changes of the last one."""
    for start in numbers[:: fleet.BATCH]:
        made = [_with_domain(n) for n in range(start, min(start + fleet.BATCH, numbers.stop))]
        revision = await rig.store.commit([change for changes in made for change in changes])
    await rig.mirror.reached(revision)
    return made[-1]


def _with_domain(number):
    service_id, changes = fleet.service(number)
    name = f"d{number}.example.com"
    claim = new_claim(fleet.NAMESPACE, name, service_id, endpoint="e", token="t", now=number)
    return [*changes, Change(Kind.DOMAIN, claim_id(fleet.NAMESPACE, name), encode(claim))]


async def costs(rig, looks, count):
    found = {}
    for what, path in REQUESTS.items():
        await rig.api("GET", path.format(last=count // 100))  # statuses are looked at by whoever asks first
        looks.taken()
        answer = await rig.api("GET", path.format(last=count // 100))
        assert answer.status == 200
        found[what] = looks.taken()
    return found


async def cost_of_a_change(rig, looks, changes):
    looks.taken()
    for change in changes:
        again = Change(change.kind, change.id, change.value)
        await rig.mirror.reached(await rig.store.commit([again]))
    return looks.taken()


@pytest.fixture
def looks(rig, monkeypatch):
    return Looks(monkeypatch, rig.mirror)


async def test_what_a_request_and_a_change_look_at_does_not_grow_with_the_services(rig, looks):
    last = await fill(rig, range(FEW))
    few = await costs(rig, looks, FEW)
    change = await cost_of_a_change(rig, looks, last)
    last = await fill(rig, range(FEW, MANY))
    assert await costs(rig, looks, MANY) == few
    assert await cost_of_a_change(rig, looks, last) == change
    assert all(set(found) <= {"object"} for found in (*few.values(), change))


async def test_a_list_by_status_after_a_change_looks_at_what_changed_alone(rig, looks):
    last = await fill(rig, range(MANY))
    path = "/bench/services?status=failed&limit=1"
    assert (await rig.api("GET", path)).json["total"] == MANY / fleet.FAILED
    looks.taken()
    await rig.api("GET", path)
    known = looks.taken()["object"]
    scale = next(change for change in last if change.kind is Kind.SCALE)
    await rig.mirror.reached(await rig.store.commit([scale]))
    await rig.api("GET", path)
    assert looks.taken()["object"] <= known + 20
