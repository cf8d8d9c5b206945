"""The stored record of one replica, in the hands of who looks after it: changes of it, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from activator.coldstarts import Stopwatch
from activator.node import Node
from activator.planning import Note
from activator.views import View
from state.models import Reason, Replica, ReplicaState, StartPhases


@dataclass(frozen=True, slots=True)
class Record:
    """`id` is the replica's."""

    node: Node
    id: str

    async def change(self, replica: Replica, step: Callable[[View], View], *, ordered: bool = False) -> View | None:
        """As `Ledger.change`; `ordered`: others look at it, too."""
        return await self.node.ledger.change(replica.service, step, ordered=ordered)

    def in_state(self, view: View | None, state: ReplicaState) -> bool:
        replica = None if view is None else view.replicas.get(self.id)
        return replica is not None and replica.state is state

    def tell(self, replica: Replica, kind: str, reason: str | Reason, phases: StartPhases | None = None) -> None:
        self._note(replica, Note(kind, reason, replica.deployment, self.id, phases))

    def tell_end(self, replica: Replica, kind: str, reason: str | Reason, start: Stopwatch | None) -> None:
        """Of a `start` that came to nothing, its phases go with it, and the one in which it did."""
        phases, phase = (None, None) if start is None else (start.phases, start.phase)
        self._note(replica, Note(kind, reason, replica.deployment, self.id, phases, phase))

    def _note(self, replica: Replica, note: Note) -> None:
        self.node.journal.tell(replica.service, (note,))
