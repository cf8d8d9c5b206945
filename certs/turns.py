"""Whose turn it is: names wait in line by namespace, and the namespaces take turns. Pure bookkeeping.

Law kept here: 7. So many are under way at once, and no namespace has more than its share of them, however many names
it has and however long each of them takes.
"""

from __future__ import annotations

from collections import Counter, OrderedDict


class Turns:
    """`put`, then `take` until it says None, and `done` for each that was taken."""

    def __init__(self, at_once: int, share: int) -> None:
        self._at_once = at_once
        self._share = share
        self._lines: OrderedDict[str, OrderedDict[str, None]] = OrderedDict()
        self._under_way: Counter[str] = Counter()

    def put(self, namespace: str, name: str) -> None:
        """One that waits already keeps its place."""
        self._lines.setdefault(namespace, OrderedDict())[name] = None

    def take(self) -> tuple[str, str] | None:
        """Namespace and name of the next one: of the namespace whose last turn is the longest ago."""
        if self._under_way.total() >= self._at_once:
            return None
        for namespace, line in self._lines.items():
            if self._under_way[namespace] < self._share:
                name, _ = line.popitem(last=False)
                self._lines.move_to_end(namespace)
                if not line:
                    del self._lines[namespace]
                self._under_way[namespace] += 1
                return namespace, name
        return None

    def done(self, namespace: str) -> None:
        """One of its names is not under way any more."""
        self._under_way[namespace] -= 1
        if not self._under_way[namespace]:
            del self._under_way[namespace]

    def clear(self) -> None:
        """Nothing waits any more; what is under way is still to be `done`."""
        self._lines.clear()
