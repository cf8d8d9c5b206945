"""The duty of control that keeps the development CA and the certificates of the platform's own names.

Names that another CA's certificate counts for (`certs.issuer`) are left alone until it ends.

Laws kept here: 5 (whether it is time is `certs.renewal`, pure; here are the clock and the store), 6 (one control does
it, under its lease; every commit is fenced and compare-and-set, so that two controls make one CA) and 8 (keys are
sealed before they are stored, and the root's is opened only to sign).

Every control writes the root's certificate, which is no secret, to a file of its node, so that clients there can be
told to trust it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from certs import renewal
from certs.authority import LEAF_LIFETIME, ROOT_LIFETIME, BadCertificate, Pair, make_leaf, make_root, term
from state.certificates import Authority, Certificate
from state.codec import DecodeError, encode
from state.ids import now_us
from state.kinds import Kind
from state.mirror import Mirror
from state.secret_key import SecretError
from state.secrets import Vault
from state.store import ABSENT, Change, Fence, Store, StoreError

log = logging.getLogger(__name__)

AUTHORITY: Final = "certificate-authority"  # id of the record of kind META
ISSUER: Final = "internal"
KEY_FIELD: Final = "key"

_AT_LEAST_EVERY: Final = 3600.0  # seconds between looks: the wall clock may be stepped
_RETRY: Final = 1.0  # seconds, after the store or another writer was in the way
_DAMAGED_RETRY: Final = 60.0  # seconds, while what is stored can't be used


class Tenure(Protocol):
    """`state.leases.Lease`: who has no fence does not lead."""

    @property
    def fence(self) -> Fence | None: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """`names`: DNS names that share the platform's certificate. `alone`: others that have one each.

    Lifetimes in microseconds.
    """

    names: tuple[str, ...]
    root_file: Path
    leaf_lifetime: int = LEAF_LIFETIME
    root_lifetime: int = ROOT_LIFETIME
    alone: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The names of each certificate."""
        return (self.names, *((name,) for name in self.alone))

    @property
    def all_names(self) -> tuple[str, ...]:
        return (*self.names, *self.alone)


@dataclass(frozen=True, slots=True)
class _Made:
    """Payloads of records: a new root, and by name what is served for it."""

    root: bytes | None
    leaves: dict[str, bytes]


class InternalCertificates:
    """`run` for ever in a task; `changed` gets what the mirror applied, `hurry` is called when the lease changes hands.

    `now`: wall clock, microseconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        tenure: Tenure,
        vault: Vault,
        settings: Settings,
        now: Callable[[], int] = now_us,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._tenure = tenure
        self._vault = vault
        self._settings = settings
        self._now = now
        self._wake = asyncio.Event()
        self._present = asyncio.Event()
        self._complaint = ""

    def hurry(self) -> None:
        """Look now."""
        self._wake.set()

    def changed(self, touched: Sequence[tuple[Kind, str]]) -> None:
        """For the mirror's `on_change`."""
        if any(self._concerns(kind, object_id) for kind, object_id in touched):
            self.hurry()

    def _concerns(self, kind: Kind, object_id: str) -> bool:
        if kind is Kind.CERTIFICATE:
            return object_id in self._settings.all_names
        return kind is Kind.META and object_id == AUTHORITY

    async def stored(self) -> int:
        """Returns once there is a certificate for each of the names and the root's file was written.

        The revision that wrote the newest of them.
        """
        await self._present.wait()
        records = self._mirror.records(Kind.CERTIFICATE)
        return max((records[name].version for name in self._settings.all_names if name in records), default=0)

    async def run(self) -> None:
        """For ever. Nothing that fails ends it: what is served is served on, and it is tried again."""
        await self._mirror.synced()
        while True:
            self._wake.clear()
            pause = await self._look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _look(self) -> float:
        """Do what is due; returns the seconds until the next look."""
        try:
            told = await self._write_root()
            pause = await self._renew()
        except StoreError as error:
            log.debug("certificates are looked at again: %s", error)
            return _RETRY
        except (BadCertificate, DecodeError, SecretError, OSError) as error:
            self._complain(f"the development CA: {error}")
            return _DAMAGED_RETRY
        self._complaint = ""
        if told and all(name in self._mirror.records(Kind.CERTIFICATE) for name in self._settings.all_names):
            self._present.set()
        return pause

    async def _renew(self) -> float:
        """Raises StoreError, BadCertificate, DecodeError, SecretError."""
        fence, now = self._tenure.fence, self._now()
        if fence is None:
            return _AT_LEAST_EVERY
        root, stored = self._root(), self._stored()
        root_due = renewal.root_due(root, now, self._settings.leaf_lifetime)
        ours = [group for group in self._settings.groups if not _others(stored, group, now)]
        due = [g for g in ours if root is None or root_due or renewal.leaves_due(root, stored, g, now)]
        if not due and not root_due:
            return self._until(min((_look_at(c) for c in stored.values() if c is not None), default=now), now)
        versions = {name: self._version(Kind.CERTIFICATE, name) for group in due for name in group}
        root_version = self._version(Kind.META, AUTHORITY)
        made = await asyncio.to_thread(self._made, None if root_due else root, due, now)
        changes = [Change(Kind.CERTIFICATE, name, made.leaves[name], versions[name]) for name in versions]
        if made.root is not None:
            changes.append(Change(Kind.META, AUTHORITY, made.root, root_version))
        revision = await self._store.commit(changes, fence=fence)
        log.info("certificates for %s were made%s", ", ".join(versions) or "nobody", " by a new CA" if root_due else "")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETRY):
                await self._mirror.reached(revision)
        return 0.0  # look at what came of it

    def _until(self, moment: int, now: int) -> float:
        return min(max((moment - now) / 1e6, _RETRY), _AT_LEAST_EVERY)

    def _version(self, kind: Kind, object_id: str) -> int:
        record = self._mirror.get(kind, object_id)
        return ABSENT if record is None else record.version

    def _made(self, root: Authority | None, groups: Sequence[tuple[str, ...]], now: int) -> _Made:
        """A certificate for each group of names, and a root if there is none to sign it. In a thread: values only."""
        settings = self._settings
        if root is None:
            signer = make_root(now, settings.root_lifetime)
        else:
            signer = Pair(root.certificate, self._vault.unseal("", AUTHORITY, KEY_FIELD, root.key))
        leaves = {names: make_leaf(signer, names, now, settings.leaf_lifetime) for names in groups}
        return _Made(
            encode(self._authority(signer)) if root is None else None,
            {name: encode(self._certificate(name, names, leaf)) for names, leaf in leaves.items() for name in names},
        )

    def _authority(self, root: Pair) -> Authority:
        counts = term(root.certificate)
        key = self._vault.seal("", AUTHORITY, KEY_FIELD, root.key)
        return Authority(root.certificate, key, counts.not_before, counts.not_after)

    def _certificate(self, name: str, names: tuple[str, ...], leaf: Pair) -> Certificate:
        counts = term(leaf.certificate)
        return Certificate(
            names=names,
            chain=leaf.certificate,
            key=self._vault.seal("", name, KEY_FIELD, leaf.key),
            issuer=ISSUER,
            trusted=False,
            not_before=counts.not_before,
            not_after=counts.not_after,
        )

    def _root(self) -> Authority | None:
        """Raises DecodeError."""
        return self._mirror.decoded(Kind.META, AUTHORITY, Authority)

    def _stored(self) -> dict[str, Certificate | None]:
        """By each of our names. One that can't be read counts as none: it is made anew."""
        found: dict[str, Certificate | None] = {}
        for name in self._settings.all_names:
            try:
                found[name] = self._mirror.decoded(Kind.CERTIFICATE, name, Certificate)
            except DecodeError as error:
                log.warning("the certificate for %s can't be read and is made anew: %s", name, error)
                found[name] = None
        return found

    async def _write_root(self) -> bool:
        """Whether there is a root. Raises DecodeError. A file that can't be written is told, and no more than that."""
        root = self._root()
        if root is None:
            return False
        try:
            await asyncio.to_thread(write_public, self._settings.root_file, root.certificate)
        except OSError as error:
            self._complain(f"{self._settings.root_file} can't be written: {error.strerror}")
        return True

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            log.error("%s", text)
        self._complaint = text


def _others(stored: Mapping[str, Certificate | None], names: Sequence[str], now: int) -> bool:
    """Whether these names are served with a certificate of another CA that has not ended: it is left alone."""
    found = [stored.get(name) for name in names]
    return all(c is not None and c.issuer != ISSUER and not renewal.over(c, now) for c in found)


def _look_at(certificate: Certificate) -> int:
    """When this CA has to do with it again."""
    return renewal.renew_at(certificate) if certificate.issuer == ISSUER else certificate.not_after


def write_public(path: Path, text: str) -> None:
    """Make `path` (0644) hold `text`: whoever reads sees what was there before or all of it. Raises OSError."""
    with contextlib.suppress(OSError, ValueError):
        if path.read_text() == text:
            return
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644), "w") as file:
            os.fchmod(file.fileno(), 0o644)  # whatever the umask
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
