"""The duty that keeps the CA and the platform's certificate, against a real store and a clock of our own."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from certs.authority import DAY, LEAF_LIFETIME, signed_by
from certs.internal import AUTHORITY, InternalCertificates, Settings, write_public
from certs.renewal import renew_at
from state.certificates import Authority, Certificate
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.leases import Lease
from state.mirror import Mirror
from state.secret_key import CERTIFICATES, SecretError, derive
from state.secrets import Vault
from state.store import Change, Store

DOMAIN, WILDCARD = "apps.example.com", "*.apps.example.com"
KEY = bytes(range(32))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


class Control:
    """What a control process has around the duty: a mirror, a try for the lease, a clock."""

    def __init__(
        self,
        store: Store,
        place: Path,
        *,
        name: str = "one",
        domain: str = DOMAIN,
        key: bytes = KEY,
        alone: tuple[str, ...] = (),
    ) -> None:
        self.time = now_us()
        self.file = place / f"{name}.pem"
        self.vault = Vault(derive(key, CERTIFICATES))
        self.mirror = Mirror(store, [Kind.CERTIFICATE, Kind.META], lambda touched: self.duty.changed(touched))
        self.lease = Lease(store, "leader", holder=name, owner=name)
        settings = Settings((domain, f"*.{domain}"), self.file, alone=alone)
        self.duty = InternalCertificates(store, self.mirror, self.lease, self.vault, settings, lambda: self.time)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Control]:
        hurry = self.duty.hurry
        async with asyncio.TaskGroup() as tasks:
            life = [
                tasks.create_task(self.mirror.run()),
                tasks.create_task(self.lease.run(lambda _: hurry(), hurry)),
                tasks.create_task(self.duty.run()),
            ]
            yield self
            for task in life:
                task.cancel()

    def certificate(self, name: str = DOMAIN) -> Certificate | None:
        return self.mirror.decoded(Kind.CERTIFICATE, name, Certificate)

    def authority(self) -> Authority | None:
        return self.mirror.decoded(Kind.META, AUTHORITY, Authority)

    async def served(self) -> Certificate:
        async with asyncio.timeout(30):
            await self.duty.stored()
        found = self.certificate()
        assert found is not None
        return found

    def at(self, time: int) -> None:
        self.time = time
        self.duty.hurry()


async def test_the_first_start_makes_a_ca_and_a_certificate(store: Store, tmp_path: Path) -> None:
    async with Control(store, tmp_path).running() as control:
        certificate = await control.served()
        root = control.authority()
        assert root is not None
        assert control.certificate(WILDCARD) is not None
        assert certificate.names == (DOMAIN, WILDCARD)
        assert (certificate.issuer, certificate.trusted) == ("internal", False)
        assert signed_by(certificate.chain, root.certificate)
        assert control.file.read_text() == root.certificate, "it is there before anybody is told"
        assert control.file.stat().st_mode & 0o777 == 0o644


async def test_keys_are_sealed_each_for_its_place(store: Store, tmp_path: Path) -> None:
    async with Control(store, tmp_path).running() as control:
        certificate = await control.served()
        root = control.authority()
        assert root is not None
        assert "PRIVATE" not in certificate.key + root.key
        assert "BEGIN PRIVATE KEY" in control.vault.unseal("", DOMAIN, "key", certificate.key)
        assert "BEGIN PRIVATE KEY" in control.vault.unseal("", AUTHORITY, "key", root.key)
        with pytest.raises(SecretError):
            control.vault.unseal("", WILDCARD, "key", certificate.key)


async def test_two_controls_make_one_ca(store: Store, tmp_path: Path) -> None:
    one, two = Control(store, tmp_path, name="one"), Control(store, tmp_path, name="two")
    async with one.running(), two.running():
        await asyncio.gather(one.served(), two.served())
        assert one.file.read_text() == two.file.read_text()
        assert one.certificate() == two.certificate()
        record = await store.get(Kind.META, AUTHORITY)
        assert record is not None
        assert await store.revision() == record.version  # one commit made all of it


async def test_a_leaf_is_renewed_when_it_is_time_and_the_root_stays(store: Store, tmp_path: Path) -> None:
    async with Control(store, tmp_path).running() as control:
        first = await control.served()
        root = control.authority()
        control.at(renew_at(first) - 1)
        control.at(renew_at(first))
        await until(lambda: control.certificate() != first)
        second = control.certificate()
        assert second is not None
        assert second.not_after == pytest.approx(control.time + LEAF_LIFETIME, abs=1_000_000)
        assert control.certificate(WILDCARD).chain == second.chain  # type: ignore[union-attr] - it is there
        assert control.authority() == root


async def test_a_root_that_ends_is_replaced_with_all_that_it_signed(store: Store, tmp_path: Path) -> None:
    async with Control(store, tmp_path).running() as control:
        await control.served()
        root = control.authority()
        assert root is not None
        control.at(root.not_after - 80 * DAY)
        await until(lambda: control.authority() != root)
        new, leaf = control.authority(), control.certificate()
        assert new is not None
        assert leaf is not None
        assert signed_by(leaf.chain, new.certificate)
        await until(lambda: control.file.read_text() == new.certificate)


async def test_a_restart_keeps_everything(store: Store, tmp_path: Path) -> None:
    async with Control(store, tmp_path).running() as control:
        first = await control.served()
    revision = await store.revision()
    async with Control(store, tmp_path).running() as control:
        assert await control.served() == first
    assert await store.revision() == revision


async def test_another_domain_gets_its_certificate(store: Store, tmp_path: Path) -> None:
    async with Control(store, tmp_path).running() as control:
        first = await control.served()
    async with Control(store, tmp_path, domain="new.example.com").running() as control:
        await control.served()
        new = control.certificate("new.example.com")
        assert new is not None
        assert new.names == ("new.example.com", "*.new.example.com")
        assert control.certificate() == first


async def test_a_name_alone_has_a_certificate_of_its_own(store: Store, tmp_path: Path) -> None:
    async with Control(store, tmp_path, alone=("api.example.org",)).running() as control:
        await control.served()
        certificate = control.certificate("api.example.org")
        assert certificate is not None
        assert certificate.names == ("api.example.org",)


async def test_what_another_ca_certified_is_left_alone_until_it_ends(store: Store, tmp_path: Path) -> None:
    now = now_us()
    both = (DOMAIN, WILDCARD)
    ordered = Certificate(both, "chain", "sealed", "https://ca.test/dir", True, now, now + DAY)
    await store.commit([Change(Kind.CERTIFICATE, name, encode(ordered)) for name in both])
    async with Control(store, tmp_path, alone=("api.example.org",)).running() as control:
        await control.served()
        await until(lambda: control.certificate("api.example.org"))
        assert control.certificate() == control.certificate(WILDCARD) == ordered
        control.at(now + 2 * DAY)
        await until(lambda: (found := control.certificate()) and found.issuer == "internal")


async def test_the_certificates_of_others_are_left_alone(store: Store, tmp_path: Path) -> None:
    ended = Certificate(("www.example.org",), "chain", "sealed", "uploaded", True, 0, 1)
    await store.commit([Change(Kind.CERTIFICATE, "www.example.org", encode(ended))])
    async with Control(store, tmp_path).running() as control:
        await control.served()
        assert control.certificate("www.example.org") == ended


async def test_what_is_damaged_or_gone_is_made_anew(store: Store, tmp_path: Path) -> None:
    async with Control(store, tmp_path).running() as control:
        await control.served()
        root = control.authority()
        await store.commit([Change(Kind.CERTIFICATE, DOMAIN, b"{")])
        await until(lambda: (record := control.mirror.get(Kind.CERTIFICATE, DOMAIN)) and record.value != b"{")
        await store.commit([Change(Kind.CERTIFICATE, WILDCARD, None)])
        await until(lambda: control.mirror.get(Kind.CERTIFICATE, WILDCARD))
        assert control.authority() == root


async def test_a_key_that_opens_nothing_changes_nothing(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Control(store, tmp_path).running() as control:
        first = await control.served()
    async with Control(store, tmp_path, key=bytes(32)).running() as control:
        await control.served()
        control.at(renew_at(first))
        await until(lambda: "sealed with key" in caplog.text)
        assert control.certificate() == first


async def test_who_does_not_lead_makes_nothing_and_writes_the_file(store: Store, tmp_path: Path) -> None:
    holder = Lease(store, "leader", holder="other", owner="other")
    await holder.step(lambda _: None, lambda: None)
    async with Control(store, tmp_path).running() as control:
        await control.mirror.synced()
        assert control.certificate() is None
        await holder.release()
        await control.served()
        await until(lambda: control.file.exists())


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    write_public(path, "one")
    os.utime(path, (0, 0))
    write_public(path, "one")
    assert path.stat().st_mtime == 0  # what is right is not written
    write_public(path, "two")
    assert (path.read_text(), [file.name for file in tmp_path.iterdir()]) == ("two", ["ca.pem"])
    with pytest.raises(OSError, match="No such file"):
        write_public(tmp_path / "gone" / "ca.pem", "three")
