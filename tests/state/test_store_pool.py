"""Connections to the store are handed out in order, and none is lost."""

from __future__ import annotations

import asyncio
import signal

import pytest

from state.kinds import Kind
from state.store import CONNECTIONS, Store, Unavailable

CALLERS = 6 * CONNECTIONS


async def test_nobody_is_overtaken_while_he_waits(store: Store) -> None:
    done = [0] * CALLERS
    ahead = 0

    async def ask(caller: int) -> None:
        nonlocal ahead
        for _ in range(10):
            await store.get(Kind.SERVICE, "x")
            done[caller] += 1
            ahead = max(ahead, max(done) - min(done))

    await asyncio.gather(*(ask(caller) for caller in range(CALLERS)))
    assert ahead <= 3


async def test_whoever_gives_up_leaves_his_turn_to_others(store_url: str) -> None:
    store = Store(store_url)
    waiting = [asyncio.create_task(store.get(Kind.SERVICE, "x")) for _ in range(CALLERS)]
    await asyncio.sleep(0)
    for number, task in enumerate(waiting):
        if number % 3:
            task.cancel()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(answer) for answer in found} <= {type(None), asyncio.CancelledError, Unavailable}
    await asyncio.gather(*(store.get(Kind.SERVICE, "x") for _ in range(CALLERS)))
    await store.close()


async def test_a_store_that_is_gone_and_back_has_all_its_connections(valkey, store_url: str) -> None:
    store = Store(store_url, timeout=20.0)
    await asyncio.gather(*(store.ping() for _ in range(CALLERS)))
    valkey.kill()
    found = await asyncio.gather(*(store.ping() for _ in range(CALLERS)), return_exceptions=True)
    assert {type(answer) for answer in found} == {Unavailable}
    valkey.start()
    await asyncio.gather(*(store.ping() for _ in range(CALLERS)))
    await store.close()


async def test_who_waits_too_long_for_a_turn_is_told(valkey, store_url: str) -> None:
    store = Store(store_url, timeout=0.3)
    await store.ping()
    assert valkey.process is not None
    valkey.process.send_signal(signal.SIGSTOP)  # nobody is answered
    try:
        with pytest.raises(Unavailable):
            await asyncio.gather(*(store.ping() for _ in range(CALLERS)))
    finally:
        valkey.process.send_signal(signal.SIGCONT)
    async with asyncio.timeout(30):
        while True:
            try:
                await store.ping()
                break
            except Unavailable:
                await asyncio.sleep(0.01)
    await store.close()
