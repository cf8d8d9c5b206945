"""What the loss of a node, or its stop, means for a service that has something there. Pure (law 5).

Replicas of a lost node that were in rotation stay in it until others are ready in their place: that nobody looks after
them any more does not mean that they are gone, and who can't be connected to is not asked by the workers anyway. Then
they drain like any others (law 3), and their records go once every registered worker has let go of them. What had not
been in rotation yet is begun anew elsewhere at once.

A node that stops is treated alike as long as it waits for others to take over; once it does not (`Outlook.evicting`),
its replicas drain without a replacement, and requests are held until there is one. Its own control removes them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from activator import backends
from activator.draft import Draft, Outlook
from activator.lifecycle import ReplicaEvent
from activator.views import View
from state.models import Replica, ReplicaState

ENTERED = (ReplicaState.READY, ReplicaState.UNHEALTHY)
_COMING = (ReplicaState.INTENT, ReplicaState.STARTING)


def silence(node: str, lost: Mapping[str, float]) -> str:
    """In a clause for anybody."""
    return f"node {node} has not been heard of for {lost[node]:.0f} s"


def cause(node: str, outlook: Outlook) -> str:
    """Why what it has is replaced, in a clause for anybody."""
    return silence(node, outlook.lost) if node in outlook.lost else f"node {node} stops"


def tell(draft: Draft) -> None:
    """The loss of a node on which the service has something, once, and its return."""
    scale, outlook = draft.view.scale, draft.outlook
    fresh = sorted(_concerned(draft.view) & outlook.lost.keys() - set(scale.lost))
    for node in fresh:
        another = "what the service has there is replaced on another"
        then = another if outlook.unfit is None else f"no other can run it: {outlook.unfit}"
        draft.note("node.lost", f"{silence(node, outlook.lost)}: {then}")
    for node in sorted(outlook.returned.intersection(scale.lost)):
        draft.note("node.returned", f"node {node} is heard again")
    told = tuple(sorted({*fresh, *scale.lost} & outlook.lost.keys()))
    if told != scale.lost:
        draft.view = draft.view.put(replace(scale, lost=told))


def _concerned(view: View) -> set[str]:
    latest = view.latest
    coming = {latest.node} if latest is not None and latest.state.in_progress and latest.node is not None else set()
    return coming | {replica.node for replica in view.replicas.values() if replica.state is not ReplicaState.STOPPING}


def strand(draft: Draft) -> None:
    """Say so of a service that is wanted, or was, while no live node can run it, and when one can again."""
    scale, outlook = draft.view.scale, draft.outlook
    wanted = scale.desired > 0 or outlook.load.busy or scale.stranded is not None
    stranded = outlook.unfit if wanted and draft.view.service.active is not None else None
    if stranded == scale.stranded:
        return
    if stranded is None:
        draft.note("service.placeable", "a node can run it again")
    elif scale.stranded is None:
        draft.note("service.stranded", f"no live node can run it: {stranded}")
    draft.view = draft.view.put(replace(scale, stranded=stranded))


def begin_anew(draft: Draft) -> None:
    """Give up what was on its way on such a node."""
    outlook = draft.outlook
    for replica in draft.view.replicas.values():
        if replica.state in _COMING and replica.node in outlook.absent:
            draft.move(replica, ReplicaEvent.RELEASE)
            kind = "replica.lost" if replica.node in outlook.lost else "replica.stopping"
            draft.note(kind, cause(replica.node, outlook), deployment=replica.deployment, replica=replica.id)


def release(draft: Draft, replica: Replica, *, replaced: bool) -> None:
    """It drains, and is not called back."""
    lost = replica.node in draft.outlook.lost
    why = cause(replica.node, draft.outlook) + (", and it is replaced" if replaced else "")
    draft.move(replica, ReplicaEvent.RELEASE, "its node was lost" if lost else "its node stops")
    draft.note("replica.draining", why, deployment=replica.deployment, replica=replica.id)


def forget(draft: Draft) -> None:
    """Records of what stopped on a lost node, whose own control can't remove them, once all workers let go of it."""
    for replica in draft.view.replicas.values():
        lost = replica.node in draft.outlook.lost and replica.id in draft.outlook.freed
        if lost and replica.state is ReplicaState.STOPPING:
            draft.view = draft.view.without(replica.id)


def present(replicas: list[Replica], absent: Collection[str]) -> list[Replica]:
    """Those that are alive as far as anybody knows, and stay."""
    return [replica for replica in replicas if replica.state in backends.ALIVE and replica.node not in absent]
