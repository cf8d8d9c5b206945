"""The last use of keys: kept, coarse, never in the way, never over another change."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from control.credentials import key_use
from control.credentials.key_use import KeyUse
from state.codec import decode, encode
from state.ids import now_us
from state.kinds import Kind
from state.models import ApiKey
from state.store import Change, Store


async def used_at(rig, identity: str) -> int | None:
    record = await rig.store.get(Kind.KEY, identity)
    return None if record is None else decode(ApiKey, record.value).used_at


async def until_used(rig, identity: str, after: int = 0) -> int:
    async with asyncio.timeout(30):
        while (at := await used_at(rig, identity) or 0) <= after:
            await asyncio.sleep(0.005)
    return at


async def test_a_use_is_shown(rig):
    before = now_us()
    token = await rig.key("ci", "acme", "read")
    assert (await rig.api("GET", "/auth/v1/keys")).json["items"][1]["used_at"] is None
    assert (await rig.api("GET", "/acme/services", token=token)).status == 200
    assert before < await until_used(rig, "acme/ci") <= now_us()
    await rig.mirror.reached(await rig.store.revision())
    assert all(key["used_at"] for key in (await rig.api("GET", "/auth/v1/keys")).json["items"])


async def test_uses_within_a_minute_are_one(rig, monkeypatch):
    first = await until_used(rig, "*/admin") if (await rig.api("GET", "/acme/services")).status == 200 else 0
    revision = await rig.store.revision()
    for _ in range(20):
        await rig.api("GET", "/acme/services")
    assert await rig.store.revision() == revision
    monkeypatch.setattr(key_use, "EVERY", 0)
    await rig.api("GET", "/acme/services")
    await until_used(rig, "*/admin", first)


async def test_a_refused_token_is_no_use(rig):
    await rig.key("ci", "acme", "read")
    assert (await rig.api("GET", "/acme/services", token="ci$wrong")).status == 401
    assert await used_at(rig, "acme/ci") is None


async def test_a_service_keeps_its_etag_and_version(rig):
    service = (await rig.create("api")).json["id"]
    before = await rig.store.get(Kind.SERVICE, service)
    etag = (await rig.api("GET", "/acme/service/api")).headers["ETag"]
    await until_used(rig, "*/admin")
    assert await rig.store.get(Kind.SERVICE, service) == before
    assert (await rig.api("GET", "/acme/service/api")).headers["ETag"] == etag


@pytest.mark.parametrize("revoked", [True, False])
async def test_what_changed_meanwhile_stays(rig, revoked):
    """The note is about a version that is not there any more."""
    await rig.key("ci", "acme", "read")
    key = rig.mirror.decoded(Kind.KEY, "acme/ci", ApiKey)
    seen = rig.mirror.get(Kind.KEY, "acme/ci")

    class Behind:
        """The mirror as it was before the change."""

        def get(self, *_):
            return seen

        def decoded(self, *_):
            return key

    other = None if revoked else encode(replace(key, scope="write"))
    await rig.store.commit([Change(Kind.KEY, "acme/ci", other)])
    use = KeyUse(rig.store, Behind())
    use.note(key)
    running = asyncio.create_task(use.run())
    async with asyncio.timeout(30):
        while use._due:
            await asyncio.sleep(0)
    use.note(replace(key, name="other"))  # the second round begins after the first has ended
    async with asyncio.timeout(30):
        while use._due:
            await asyncio.sleep(0.001)
    running.cancel()
    record = await rig.store.get(Kind.KEY, "acme/ci")
    assert (record and record.value) == other


async def test_without_a_store_a_use_is_forgotten(rig, tmp_path):
    use = KeyUse(Store(f"unix://{tmp_path}/nobody.sock"), rig.mirror)
    key = rig.mirror.decoded(Kind.KEY, "*/admin", ApiKey)
    use.note(key)
    running = asyncio.create_task(use.run())
    async with asyncio.timeout(30):
        while use._due:
            await asyncio.sleep(0.001)
    assert not running.done()
    running.cancel()
