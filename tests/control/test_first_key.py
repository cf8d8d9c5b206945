"""The first key of an empty store: made once, by one node, kept by its owner alone."""

from __future__ import annotations

import asyncio
import stat

from control.keys import make_first_key
from state.kinds import Kind
from state.mirror import Mirror


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
