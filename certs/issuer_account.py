"""Our accounts at ACME servers: made when they are first needed, and again when a server has forgotten them.

Laws kept here: 6 (the key is stored before the server is asked, so that whoever goes on after a crash finds the same
account by it: RFC 8555 7.3.1) and 8 (it is sealed, and opened only to sign).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from certs.acme.client import AcmeClient
from certs.acme.directory import Directory
from certs.acme.errors import AcmeError
from certs.acme.problem import Problem
from certs.backoff import LONGEST_ASKED
from certs.budget import ACCOUNT_ORDERS
from certs.due import Ca
from certs.issuer_records import Lost, Tenure
from certs.keys import key_of, new_key
from certs.setbacks import ACCOUNT_ERROR, Setback, of_error
from state.certificates import AcmeAccount
from state.codec import decode, encode
from state.kinds import Kind
from state.secrets import Vault
from state.store import ABSENT, Change, Conflict, Store

KEY_FIELD: Final = "key"
_REFUSED: Final = 60.0  # seconds until a server that refused the account is asked for it again, if it said nothing

Connect = Callable[[str, ec.EllipticCurvePrivateKey, str | None], AcmeClient]
"""A client by the URL of a directory, the account's key, and the account's URL."""


@dataclass(slots=True)
class _Held:
    """What is known of the account at one server."""

    lock: asyncio.Lock
    record: AcmeAccount | None = None
    version: int = ABSENT
    client: AcmeClient | None = None


@dataclass(frozen=True, slots=True)
class Membership:
    """A registered account: who asks in its name, what the server offers, and the key that answers challenges."""

    ca: Ca
    client: AcmeClient
    directory: Directory
    key: ec.EllipticCurvePrivateKey


class Accounts:
    """Safe to be used by several orders at once: one of them makes the account, the others wait for it.

    `contact`: an address of e-mail. `now`: microseconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        tenure: Tenure,
        vault: Vault,
        connect: Connect,
        contact: str | None,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._tenure = tenure
        self._vault = vault
        self._connect = connect
        self._contact = contact
        self._now = now
        self._held: dict[str, _Held] = {}

    async def of(self, ca: Ca) -> Membership:
        """Registered by now. Raises Setback, AcmeError, Lost, StoreError."""
        held = self._held.setdefault(ca.directory, _Held(asyncio.Lock()))
        async with held.lock:
            await self._read(ca, held)
            if held.record is None:
                await self._make(ca, held)
            record, client = held.record, held.client
            if record is None or client is None:
                raise Lost("the account is gone")
            if record.retry_at is not None and record.retry_at > self._now():
                wait = (record.retry_at - self._now()) / 1e6
                raise Setback(record.reason or ACCOUNT_ERROR, "the CA refused our account a short time ago", asked=wait)
            directory = await client.directory()
            if record.url is None:
                client = await self._registered(ca, held, record, client)
            return Membership(ca, client, directory, self._key(ca, record))

    async def forgotten(self, ca: Ca) -> None:
        """The server knows nothing of our account any more: register it anew. Raises Lost, StoreError."""
        held = self._held.setdefault(ca.directory, _Held(asyncio.Lock()))
        async with held.lock:
            await self._read(ca, held)
            if held.record is not None and held.record.url is not None:
                await self._write(ca, held, replace(held.record, url=None))

    async def orders(self, ca: Ca) -> tuple[int, ...]:
        """When orders were made. Raises StoreError."""
        held = self._held.setdefault(ca.directory, _Held(asyncio.Lock()))
        async with held.lock:
            await self._read(ca, held)
            return held.record.orders if held.record is not None else ()

    async def ordering(self, ca: Ca, now: int) -> None:
        """An order will be made that counts. Raises Lost, StoreError."""
        held = self._held.setdefault(ca.directory, _Held(asyncio.Lock()))
        async with held.lock:
            await self._read(ca, held)
            if held.record is not None:
                orders = ACCOUNT_ORDERS.noted(held.record.orders, now)
                await self._write(ca, held, replace(held.record, orders=orders))

    async def _read(self, ca: Ca, held: _Held) -> None:
        record = await self._store.get(Kind.ACCOUNT, ca.directory)
        if record is None:
            held.record, held.version, held.client = None, ABSENT, None
        elif record.version != held.version:
            self._hold(ca, held, decode(AcmeAccount, record.value), record.version)

    async def _make(self, ca: Ca, held: _Held) -> None:
        key = await asyncio.to_thread(new_key)
        sealed = self._vault.seal("", ca.directory, KEY_FIELD, key)
        await self._write(ca, held, AcmeAccount(ca.directory, sealed, contact=self._contact, created_at=self._now()))

    async def _registered(self, ca: Ca, held: _Held, record: AcmeAccount, client: AcmeClient) -> AcmeClient:
        """Who asks from now on."""
        try:
            account = await client.register(self._contact, ca.eab)
        except AcmeError as error:
            setback = of_error(error)
            if isinstance(error, Problem):
                if error.type == "unauthorized":
                    await self._make(ca, held)  # the account of this key was closed (RFC 8555 7.3.6)
                await self._refused(ca, held, held.record or record, setback)
            raise Setback(setback.reason, f"the account: {setback.detail}", asked=setback.asked) from error
        if account.status != "valid":
            await self._make(ca, held)  # this one was closed for good
            raise Setback(ACCOUNT_ERROR, f"the account is {account.status}: another is made")
        registered = replace(record, url=account.url, contact=self._contact, retry_at=None, reason=None)
        await self._write(ca, held, registered)
        return held.client or client

    async def _refused(self, ca: Ca, held: _Held, record: AcmeAccount, setback: Setback) -> None:
        """Other orders need not hear the same."""
        wait = min(int((_REFUSED if setback.asked is None else setback.asked) * 1e6), LONGEST_ASKED)
        await self._write(ca, held, replace(record, retry_at=self._now() + wait, reason=setback.reason))

    async def _write(self, ca: Ca, held: _Held, record: AcmeAccount) -> None:
        fence = self._tenure.fence
        if fence is None:
            raise Lost("another control leads")
        change = Change(Kind.ACCOUNT, ca.directory, encode(record), held.version)
        try:
            self._hold(ca, held, record, await self._store.commit([change], fence=fence))
        except Conflict as conflict:
            raise Lost(str(conflict)) from conflict

    def _hold(self, ca: Ca, held: _Held, record: AcmeAccount, version: int) -> None:
        """The client is kept as long as its key and URL: it knows nonces and the directory."""
        before = held.record
        if held.client is None or before is None or (before.key, before.url) != (record.key, record.url):
            held.client = self._connect(ca.directory, self._key(ca, record), record.url)
        held.record, held.version = record, version

    def _key(self, ca: Ca, record: AcmeAccount) -> ec.EllipticCurvePrivateKey:
        """Raises SecretError, BadCertificate."""
        return key_of(self._vault.unseal("", ca.directory, KEY_FIELD, record.key))
