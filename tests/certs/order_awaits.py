"""Every await of an order, enumerated from the code."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

from certs import issuer_account, issuer_order, issuer_proofs, issuer_records

MODULES = (issuer_order, issuer_account, issuer_proofs, issuer_records)
# Functions that a plain order has no use for: what follows a refusal, TXT records, a claim that changed meanwhile.
ELSEWHERE = {
    *("_failed", "_hide", "_known", "_why_invalid", "forgotten", "_refused", "_claimed_anew"),
    *("show", "hide", "_seen"),
}

RARELY = (
    *("dropped(self._issuance)", "self._hide(", "new_order(names, profile=profile)", "self._why_invalid("),
    *("txt.show(", "closed for good", "was closed", "self._known("),
)

Place = tuple[str, int]  # of a module, a line


def awaits() -> set[Place]:
    """Every await of an order in the code, by its first line."""
    found = set()
    for module in MODULES:
        source = inspect.getsource(module)
        tree, lines = ast.parse(source), source.splitlines()
        for function in ast.walk(tree):
            if isinstance(function, ast.AsyncFunctionDef) and function.name not in ELSEWHERE:
                found |= {(module.__name__, node.lineno) for node in plain(function) if isinstance(node, ast.Await)}
        rare = {number for number, line in enumerate(lines, start=1) if any(text in line for text in RARELY)}
        found -= {(module.__name__, number) for number in rare}
    return found


def plain(node: ast.AST) -> Iterator[ast.AST]:
    """All below it that runs without an exception."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.ExceptHandler):
            yield child
            yield from plain(child)
