"""A change of one service has nobody look at another, however many sleep beside it: counted, not timed."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
from plane import QUICK, Control, Plane, until

from bench import fleet
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.models import Scale
from state.store import Change

MANY = 600
CHANGES = 20


class Looks:
    """Whose objects are asked of a control's mirror, and when somebody asked last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, control: Control) -> None:
        self.at: Counter[str] = Counter()
        self.last = time.monotonic()
        decoded, records = control.mirror.decoded, control.mirror.records

        def look(kind: Kind, object_id: str, model: Any) -> Any:
            if kind is not Kind.NODE:  # they are few, however many services there are
                self._note(object_id)
            return decoded(kind, object_id, model)

        def look_at_all(kind: Kind) -> Any:
            if kind is not Kind.NODE:
                self._note(f"every {kind}")
            return records(kind)

        monkeypatch.setattr(control.mirror, "decoded", look)
        monkeypatch.setattr(control.mirror, "records", look_at_all)

    def _note(self, what: str) -> None:
        self.at[what] += 1
        self.last = time.monotonic()

    async def quiet(self) -> None:
        """Until several ticks passed in which nobody looked."""
        await until(lambda: time.monotonic() - self.last > 4 * QUICK.tick, 60)


async def test_a_change_of_one_service_is_looked_at_alone(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [fleet.service(number) for number in range(1, MANY)]
    for start in range(0, len(made), fleet.BATCH):
        await plane.store.commit([change for _, of in made[start : start + fleet.BATCH] for change in of])
    control = plane.control()
    looks = Looks(monkeypatch, control)
    await plane.worker()
    # a new leader looks at each of them once, however long that takes
    await until(lambda: control.activation.leader.leads and all(made_id in looks.at for made_id, _ in made), 60)
    await looks.quiet()
    looks.at.clear()
    service, changes = made[0]
    own = {service, *(change.id for change in changes)}
    for _ in range(CHANGES):
        scale = Change(Kind.SCALE, service, encode(Scale(active_at=now_us())))
        backend = next(change for change in changes if change.kind is Kind.BACKEND)
        await control.mirror.reached(await plane.store.commit([scale, backend]))
    await looks.quiet()
    assert set(looks.at) <= own
    assert looks.at[service] >= CHANGES
    # each is looked at by the leader and the agent a few times, whatever the number of services
    assert sum(looks.at.values()) < CHANGES * 60
