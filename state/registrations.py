"""Whose registration is surely over (law 3): what a supervisor knows of its own node. Pure."""

from __future__ import annotations

from collections.abc import Collection


def ended(worker: str, *, node: str, supervisor: str, gone: Collection[str]) -> bool:
    """Whether a worker, registered as `<node>/<supervisor>/<number>/<incarnation>`, ended for certain.

    A supervisor has its node to itself and takes its children with it, so that workers of an earlier one are gone.
    `gone`: incarnations that `supervisor` has seen end.
    """
    of_node, _, rest = worker.partition("/")
    of_supervisor, _, rest = rest.partition("/")
    return of_node == node and (of_supervisor != supervisor or rest.rpartition("/")[2] in gone)
