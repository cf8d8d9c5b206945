"""When each node was last heard. Pure: time is an argument, monotonic seconds.

Silence counts only while we ourselves can hear, and the proof of that is our own beat, which goes the way of all
others: an outage of the store, a subscription that fell silent, or a stall of this process begins the count anew for
everybody. So nothing is said of a node before it had as long to be heard as any other.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import replace

from state.models import Node


class Leave(enum.StrEnum):
    """How a node goes, in the word that its beats have for it. It takes nothing on any more."""

    RELOAD = "leaving"  # its control ends, its replicas stay
    DRAIN = "draining"  # it stops: what other nodes can run goes there, and leaves here once it is ready there
    EVICT = "evicting"  # it stops, and all replicas leave, also those that have no replacement


class Attendance:
    """`heard` of every beat. `patience`: seconds without a beat until nobody is present, nor are we hearing."""

    def __init__(self, own: str, patience: float) -> None:
        self._own = own
        self._patience = patience
        self._heard: dict[str, float] = {}
        self._leaving: dict[str, Leave] = {}
        self._since = float("inf")  # when we began to hear without a break

    def heard(self, node: str, now: float, leave: Leave | None = None) -> None:
        """`leave`: how it said that it goes."""
        if node == self._own and not self.hearing(now):
            self._since = now
        self._heard[node] = now
        if leave is None:
            self._leaving.pop(node, None)
        else:
            self._leaving[node] = leave

    def leaving(self, node: str) -> Leave | None:
        """How it goes, by the last word that was heard of it. Silence takes nothing back."""
        return self._leaving.get(node)

    def hearing(self, now: float) -> bool:
        """Whether we hear what is said."""
        return now - self._heard.get(self._own, float("-inf")) < self._patience

    def present(self, node: str, now: float) -> bool:
        """Whether it was heard just now and goes on."""
        return now - self._heard.get(node, float("-inf")) < self._patience and node not in self._leaving

    def complete(self, nodes: Collection[str], now: float) -> bool:
        """Whether those of these nodes that live have been heard by now."""
        if not self.hearing(now):
            return False
        return now - self._since >= self._patience or all(self._heard.get(n, -1.0) >= self._since for n in nodes)

    def silence(self, node: str, now: float) -> float:
        """Seconds for which it has said nothing although we could hear, up to the last proof of that."""
        if not self.hearing(now):
            return 0.0
        return max(0.0, self._heard[self._own] - max(self._heard.get(node, self._since), self._since))


def verdicts(
    nodes: Mapping[str, Node], attendance: Attendance, own: str, grace: float, now: float, wall: int
) -> dict[str, Node]:
    """The nodes that are lost as of now, after `grace` seconds of silence, and those that are heard again.

    `own`: the one that judges, which lives. `wall`: now, in microseconds since the epoch.
    """
    found = {}
    for node_id, node in nodes.items():
        silence = attendance.silence(node_id, now)
        if node.lost_at is None and node_id != own and silence >= grace:
            found[node_id] = replace(node, lost_at=wall - round(silence * 1e6))
        elif node.lost_at is not None and (node_id == own or attendance.present(node_id, now)):
            found[node_id] = replace(node, lost_at=None)
    return found
