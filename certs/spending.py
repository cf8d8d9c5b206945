"""What was spent of the budgets of a name and of a namespace: records that outlive claims and controls. Pure (law 5).

A CA counts by name, whoever asks: that of a name is the same for each namespace that holds it. Written with the intent
of an order, and with a validation that failed; swept once nothing of it counts any more. Names and namespaces that
nothing was ordered for have none.
"""

from __future__ import annotations

from typing import Final

from certs.budget import DUPLICATES, FAILED_VALIDATIONS, NAMESPACE_ORDERS
from state.certificates import Spent

_NAMESPACE: Final = "namespace/"


def of_name(name: str) -> str:
    """The id (kind `budget`) of what was spent of the budgets of this issuance."""
    return f"name/{name}"


def of_namespace(namespace: str) -> str:
    """The id (kind `budget`) of what was spent of a namespace's."""
    return f"{_NAMESPACE}{namespace}"


def over(object_id: str, spent: Spent, now: int) -> bool:
    """Whether nothing of it counts any more. `now`: microseconds."""
    if object_id.startswith(_NAMESPACE):
        return not NAMESPACE_ORDERS.spent(spent.ordered, now)
    return not (DUPLICATES.spent(spent.ordered, now) or FAILED_VALIDATIONS.spent(spent.failed, now))
