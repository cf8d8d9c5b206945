"""A bridge for each namespace (law 8): made when its first container starts, removed when nothing of it is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary

from .body import network_name, node_label
from .engine import Engine

_NODE, _NAMESPACE = "wakegate.node", "wakegate.namespace"


class Networks:
    """The networks of one node."""

    def __init__(self, engine: Engine, node: str) -> None:
        self._engine = engine
        self._node = node
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def make(self, namespace: str) -> None:
        """Only if there is none. Raises `EngineError`."""
        name = network_name(self._node, namespace)
        async with self._locks.setdefault(namespace, asyncio.Lock()):
            if not await self._engine.network(name):
                await self._engine.make_network(name, {_NODE: self._node, _NAMESPACE: namespace})

    async def prune(self, needed: Callable[[str], bool]) -> None:
        """Remove those of namespaces that don't need one at the moment of removal. Raises `EngineError`."""
        for network in await self._engine.networks(node_label(self._node)):
            namespace = (network.get("Labels") or {}).get(_NAMESPACE, "")
            async with self._locks.setdefault(namespace, asyncio.Lock()):
                if not needed(namespace):
                    await self._engine.remove_network(str(network["Name"]))
