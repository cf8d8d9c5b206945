"""The first key of an empty store: made once, by one node, kept by its owner alone."""

from __future__ import annotations

import asyncio
import stat
from dataclasses import replace

from control.credentials.keys import make_first_key
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.mirror import Mirror
from state.models import ApiKey
from state.store import Change


async def test_of_two_nodes_at_once_one_makes_it(store, tmp_path):
    mirror = Mirror(store, [Kind.KEY])
    following = asyncio.create_task(mirror.run())
    await mirror.synced()
    files = [tmp_path / name for name in ("one", "two")]
    files[0].write_text("left by an earlier store\n")
    tokens = await asyncio.gather(*(make_first_key(store, mirror, file) for file in files))
    assert sorted(token is None for token in tokens) == [False, True]
    for token, file in zip(tokens, files, strict=True):
        if token is None:
            assert not file.exists()
        else:
            assert file.read_text() == token + "\n"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert await make_first_key(store, mirror, tmp_path / "three") is None
    assert {path.name for path in tmp_path.iterdir()} <= {"one", "two"}
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_where_all_admin_keys_have_expired_the_next_start_makes_one(store, tmp_path):
    mirror = Mirror(store, [Kind.KEY])
    following = asyncio.create_task(mirror.run())
    await mirror.synced()
    first = await make_first_key(store, mirror, tmp_path / "admin.key")
    key = mirror.decoded(Kind.KEY, "*/admin", ApiKey)
    others = [ApiKey("boss", "acme", "admin", "0" * 64, now_us()), ApiKey("all", "*", "write", "1" * 64, now_us())]
    expired = replace(key, expires_at=now_us() - 1)
    changes = [Change(Kind.KEY, f"{one.namespace}/{one.name}", encode(one)) for one in [expired, *others]]
    await mirror.reached(await store.commit(changes))
    second = await make_first_key(store, mirror, tmp_path / "admin.key")
    assert second not in (None, first)
    assert (tmp_path / "admin.key").read_text() == f"{second}\n"
    assert mirror.decoded(Kind.KEY, "*/admin", ApiKey).expires_at is None
    assert len(mirror.records(Kind.KEY)) == 3
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
