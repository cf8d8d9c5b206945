"""The TLS contexts of a worker: one per certificate record, kept while it is used, built anew when the record changes.

Laws kept here: 1 (a context that is in memory is found without waiting; a look-up never leaves memory), 7 (at most
1,000 are kept: 24 KiB each) and 8: two names never share the context that a handshake begins in (names under one
wildcard: `sessions.py`), so that a session ticket of one resumes nothing at another. Tickets are encrypted under keys
of the context's own and end with it.

Building takes 1-3 ms, most of it reading keys, and happens in a thread. OpenSSL reads certificates from files only:
they get one without a place on disk (memfd_create(2)) that is gone when the context is built.
"""

from __future__ import annotations

import asyncio
import functools
import os
import ssl
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from gateway.tls.selection import OFFERED
from gateway.tls.sessions import SESSIONS, Sessions, blank, remembers
from state.secret_key import SecretError

LIMIT: Final = 1000  # contexts kept
_ATTEMPTS: Final = 5  # to build one, of a record that changes meanwhile


class Material(NamedTuple):
    """What a context is built of. `id`: the record's; `trusted`: browsers accept it (its CA isn't the internal one)."""

    id: str
    version: int
    chain: bytes  # PEM, leaf first
    key: Callable[[], bytes]  # PEM, unsealed only when asked for; raises SecretError
    trusted: bool = False

    def context(self) -> ssl.SSLContext:
        return build(self)


class Buildable(Protocol):
    """`Material`, or what else a context can be built of. A new version is a context of its own."""

    @property
    def id(self) -> str: ...
    @property
    def version(self) -> int: ...
    def context(self) -> ssl.SSLContext:
        """Blocking. Raises OSError, ValueError or SecretError if it can't be used."""


B = TypeVar("B", bound=Buildable)
S = TypeVar("S", bound=Buildable, covariant=True)


class Source(Protocol[S]):
    """What contexts are built of, by name: memory only, on the loop, must not block."""

    def find(self, name: str) -> S | None:
        """For a name in lower case: its own certificate, else that of the wildcard above it; None: no such name."""


Certificates = Source[Material]


class _Kept(NamedTuple):
    version: int
    context: ssl.SSLContext


class Contexts(Generic[B]):
    """`ready` if it is in memory, else `await load`. `say` gets one line per record that can't be used.

    `routed`: whether a name has a route; memory only. Names under a wildcard that have none resume nothing.
    `thread`: where contexts are built, if not in one of their own.
    """

    def __init__(
        self,
        certificates: Source[B],
        say: Callable[[str], None],
        routed: Callable[[str], bool],
        limit: int = LIMIT,
        thread: ThreadPoolExecutor | None = None,
    ) -> None:
        self._certificates = certificates
        self._say = say
        self._limit = limit
        self._sessions = Sessions(routed)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # by id of the record, longest unused first
        self._broken: OrderedDict[str, int] = OrderedDict()  # id -> version that can't be used, and was told
        self._building: dict[tuple[str, int], asyncio.Future[ssl.SSLContext]] = {}
        self.thread = thread or ThreadPoolExecutor(1, "tls-contexts")

    def find(self, name: str) -> B | None:
        """What `name` is served with, unless that can't be used."""
        material = self._certificates.find(name)
        if material is None or self._broken.get(material.id) == material.version:
            return None
        return material

    def known(self, name: str) -> bool:
        """Whether `name` has a certificate."""
        return self.find(name) is not None

    def ready(self, name: str) -> ssl.SSLContext | None:
        """The context for `name`, if it is in memory and of the newest version."""
        material = self.find(name)
        return None if material is None else self._look(name, material)

    async def load(self, name: str) -> ssl.SSLContext | None:
        """The context for `name`, built if need be; None: there is no such name, or its certificate can't be used.

        Any number may wait for the same one; it is built once, also if those who asked have left. The record may change
        while it is built, and what was built of it is forgotten then: it is asked for anew.
        """
        for _ in range(_ATTEMPTS):
            material = self.find(name)
            if material is None:
                return None
            context = self._look(name, material)
            if context is not None:
                return context
            await asyncio.wait((self._build(material),))
        return self.ready(name)

    def relieve(self, name: str) -> None:
        """After a handshake that may have left a session in the context of `name`.

        OpenSSL remembers those of clients without tickets (TLS 1.2), 20,480 per context if it is let. Beyond 256 the
        context is built anew by the next handshake: who comes back then makes a full one.
        """
        self._sessions.relieve(name)
        kept = self._kept.get(name)
        if kept is not None and remembers(kept.context) > SESSIONS:
            del self._kept[name]

    def forget(self, record: str) -> None:
        """The record of this id changed or is gone. Connections that are open keep what they have."""
        self._kept.pop(record, None)
        self._sessions.forget(record)
        self._broken.pop(record, None)

    def close(self) -> None:
        self.thread.shutdown(wait=False, cancel_futures=True)

    def __len__(self) -> int:
        return len(self._kept)

    def _look(self, name: str, material: B) -> ssl.SSLContext | None:
        kept = self._kept.get(material.id)
        if kept is None or kept.version != material.version:
            return None
        self._kept.move_to_end(material.id)
        return kept.context if material.id == name else self._sessions.begin(name, material.id, kept.context)

    def _build(self, material: B) -> asyncio.Future[ssl.SSLContext]:
        at = material.id, material.version
        future = self._building.get(at)
        if future is None:
            future = asyncio.get_running_loop().run_in_executor(self.thread, material.context)
            future.add_done_callback(functools.partial(self._built, material))
            self._building[at] = future
        return future

    def _built(self, material: B, future: asyncio.Future[ssl.SSLContext]) -> None:
        del self._building[material.id, material.version]
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._kept[material.id] = _Kept(material.version, future.result())
            self._kept.move_to_end(material.id)
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        elif isinstance(error, (OSError, ValueError, SecretError)):  # ssl.SSLError is an OSError
            self._broken[material.id] = material.version
            if len(self._broken) > self._limit:
                self._broken.popitem(last=False)
            self._say(f"the certificate for {material.id} can't be used, TLS is refused for it: {error}")
        else:
            raise error


def build(material: Material) -> ssl.SSLContext:
    """Blocking. Raises OSError (ssl.SSLError is one), ValueError or SecretError if the material is damaged."""
    context = blank()
    context.set_alpn_protocols([protocol.decode("ascii") for protocol in OFFERED])
    return load(context, material.chain + b"\n" + material.key())


def load(context: ssl.SSLContext, pem: bytes) -> ssl.SSLContext:
    """The same context, with these certificates and their key. Raises OSError, ValueError."""
    with os.fdopen(os.memfd_create("certificate"), "wb") as file:
        file.write(pem)
        file.flush()
        # A key under a password is damaged, too; without the argument OpenSSL would ask for it on the terminal.
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password="")
    return context
