"""Which certificate a name is served with: from the mirror, from the cache before it; keys opened on demand."""

from __future__ import annotations

import asyncio

import pytest

from gateway.certificates import StoredCertificates
from gateway.source import RecordSource
from state.certificates import Certificate
from state.codec import encode
from state.kinds import Kind
from state.mirror import Mirror
from state.secret_key import CERTIFICATES, SecretError, derive
from state.secrets import Vault
from state.store import Change, Record, Store

KINDS = (Kind.ROUTE, Kind.BACKEND, Kind.CERTIFICATE)
VAULT = Vault(derive(bytes(32), CERTIFICATES))


def payload(name: str, chain: str = "chain", *, trusted: bool = False) -> bytes:
    return encode(Certificate((name,), chain, VAULT.seal("", name, "key", f"key of {name}"), "internal", trusted, 0, 1))


def of(*names: str, vault: Vault = VAULT, say: object = print) -> StoredCertificates:
    """As after a start from the cache."""
    source = RecordSource(Mirror(Store("unix:///nowhere"), KINDS), say)  # type: ignore[arg-type] - a list's append
    records = {name: Record(payload(name), number) for number, name in enumerate(names, 1)}
    source.start_from({Kind.ROUTE: {}, Kind.BACKEND: {}, Kind.CERTIFICATE: records})
    return StoredCertificates(source, vault)


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("www.example.org", "www.example.org"),
        ("apps.example.com", "apps.example.com"),
        ("web.apps.example.com", "*.apps.example.com"),
        ("own.apps.example.com", "own.apps.example.com"),  # a name of its own comes before the wildcard
        ("a.b.apps.example.com", None),  # a wildcard is one label
        ("example.com", None),
        ("com", None),
        ("", None),
    ],
)
def test_a_name_finds_its_own_certificate_then_its_wildcard(name: str, served: str | None) -> None:
    stored = of("www.example.org", "apps.example.com", "*.apps.example.com", "own.apps.example.com")
    material = stored.find(name)
    assert (material and material.id) == served
    if material is not None:
        assert (material.chain, material.key()) == (b"chain", f"key of {served}".encode())
        assert stored.find(name) is material  # decoded once


def test_a_key_that_can_not_be_opened_is_an_error_of_its_use_only() -> None:
    material = of("www.example.org", vault=Vault(derive(bytes(range(32)), CERTIFICATES))).find("www.example.org")
    assert material is not None
    with pytest.raises(SecretError, match="sealed with key"):
        material.key()


async def test_changes_count_at_once(store: Store) -> None:
    await store.commit([Change(Kind.CERTIFICATE, "a.example", payload("a.example"))])
    said: list[str] = []
    mirror = Mirror(store, KINDS)
    certificates = StoredCertificates(RecordSource(mirror, said.append), VAULT)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(mirror.run())
        await mirror.synced()
        before = certificates.find("a.example")
        assert before is not None
        assert not before.trusted
        renewed = payload("a.example", "new chain", trusted=True)
        await mirror.reached(revision := await store.commit([Change(Kind.CERTIFICATE, "a.example", renewed)]))
        after = certificates.find("a.example")
        assert after is not None
        assert (after.version, after.chain, after.trusted) == (revision, b"new chain", True)
        await mirror.reached(await store.commit([Change(Kind.CERTIFICATE, "a.example", b"{")]))
        assert certificates.find("a.example") is None
        assert said[0].startswith("certificate a.example can't be read")
        await mirror.reached(await store.commit([Change(Kind.CERTIFICATE, "a.example", None)]))
        assert certificates.find("a.example") is None
        running.cancel()


def test_what_is_remembered_is_bounded() -> None:
    names = [f"n{number}.example" for number in range(2500)]
    certificates = of(*names)
    assert all(certificates.find(name) for name in names)
    assert len(certificates._known) <= 1000
