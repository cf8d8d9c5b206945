"""The ports of a node's replicas: handed out, reserved where the kernel can do that, and watched (law 8).

Tenants share the loopback. A port that is given to a replica is reserved for its namespace's uid; where that can't be,
whoever else listens there is found out by the next look. The operator is told which namespace it was, tenants are not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from activator.drivers import NoRoom

from .listening import listeners
from .ports import NoPortError, Ports
from .replica import Replica
from .reservations import Reservations, own_cgroup
from .users import Users

log = logging.getLogger(__name__)

_CROWD_TOLD_EVERY: Final = 60.0  # seconds


class Addresses:
    """`users` are the uids of namespaces, once they are known; without any nothing is reserved."""

    def __init__(self, ports: range) -> None:
        self.users: Users | None = None
        self._ports = Ports(ports)
        self._reservations: Reservations | None = None
        self._usurped: frozenset[str] = frozenset()
        self._crowd_told = -_CROWD_TOLD_EVERY

    def open(self) -> None:
        """Reserve ports from here on."""
        try:
            self._reservations = Reservations(self._ports.range, own_cgroup())
        except OSError as error:
            log.warning("tenants may bind the ports of others' replicas, and are found out a second later: %s", error)

    def close(self) -> None:
        if self._reservations is not None:
            self._reservations.close()
            self._reservations = None

    def admit(self, uid: int) -> None:
        """A namespace's. Raises `OSError`."""
        if self._reservations is not None:
            self._reservations.admit(uid)

    def reserve(self, port: int, uid: int | None) -> None:
        """Before anything of a replica runs. Raises `OSError`."""
        if self._reservations is not None and uid is not None:
            self._reservations.give(port, uid)

    def release(self, port: int) -> None:
        """Nothing of the replica runs any more. Raises `OSError`."""
        if self._reservations is not None:
            self._reservations.take_back(port)

    def allocate(self, in_use: Collection[int]) -> int:
        """Raises `NoRoom`."""
        try:
            return self._ports.allocate(in_use)
        except NoPortError as error:
            self._tell_crowd(str(error))
            raise NoRoom("no port of its node is free", str(error)) from error

    def _tell_crowd(self, what: str) -> None:
        """Now and then: whose listening sockets fill the range."""
        now = time.monotonic()
        if now < self._crowd_told + _CROWD_TOLD_EVERY:
            return
        self._crowd_told = now
        crowd = Counter(uid for port, uids in listeners().items() if port in self._ports.range for uid in uids)
        told = [f"{self._named((uid,))} listens on {count}" for uid, count in crowd.most_common(3)]
        log.error("no replica can start: %s; of these %s", what, ", ".join(told) or "nobody listens on one")

    async def usurped(self, replicas: Iterable[Replica]) -> frozenset[str]:
        """Those of these, by id, at whose port somebody else listens."""
        alive = {replica.record.replica_id: replica for replica in replicas if replica.exit is None}
        found = await asyncio.to_thread(listeners) if alive else {}
        strangers = {name: found.get(one.record.port, frozenset()) - {one.uid} for name, one in alive.items()}
        self._tell_usurpers({name: uids for name, uids in strangers.items() if uids}, alive)
        return self._usurped

    def _tell_usurpers(self, taken: Mapping[str, Collection[int]], replicas: Mapping[str, Replica]) -> None:
        for name in taken.keys() - self._usurped:
            log.warning(
                "replica %s: %s listens on its port %d", name, self._named(taken[name]), replicas[name].record.port
            )
        self._usurped = frozenset(taken)

    def _named(self, uids: Iterable[int]) -> str:
        """For the operator: whose uids they are."""
        given = {} if self.users is None else self.users.given
        known = {uid: f"uid {uid} (namespace {namespace})" for namespace, uid in given.items()}
        return ", ".join(known.get(uid, f"uid {uid}") for uid in sorted(uids))
