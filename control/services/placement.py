"""What no live node can run (SPEC section 2, Create: 422), told before it is stored. Pure."""

from __future__ import annotations

from collections.abc import Collection

from activator.placement import Needs, lacking
from control.contract.problem import FieldError, Problem
from state.models import Node, Offer


def live_offers(nodes: Collection[Node]) -> list[Offer]:
    """Of those that are not lost. Raises Problem 503 while none is known."""
    found = [node.offer for node in nodes if node.lost_at is None]
    if not found:
        raise Problem(503, "No node is known to run anything yet; try again.", headers={"Retry-After": "1"})
    return found


def refusals(needs: Needs, offers: Collection[Offer]) -> list[FieldError]:
    """What no node has of these, and what there is instead."""
    return [FieldError(lack.field, lack.message) for lack in lacking(needs, list(offers))]
