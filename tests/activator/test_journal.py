"""Events on their way to the store: in order, once each, bounded, and none lost while it is gone for a while."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from activator import journal as journal_module
from activator.draft import Note
from activator.journal import Journal
from state.models import Event, Reason
from state.store import Store, Unavailable
from tests.conftest import Valkey


class Forgetful(Store):
    """A store whose first answers are lost: the event is kept, its writer is not told."""

    lost = 0

    async def append_event(self, service: str, event: Event) -> None:
        await super().append_event(service, event)
        if self.lost < 3:
            self.lost += 1
            raise Unavailable("the answer was lost")


@contextlib.asynccontextmanager
async def running(store: Store) -> AsyncIterator[Journal]:
    journal = Journal(store)
    task = asyncio.get_running_loop().create_task(journal.run())
    yield journal
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def told(store: Store, count: int) -> list[str]:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(Unavailable):
                reasons = [one.event.reason for one in await store.events("svc")]
                if len(reasons) >= count:
                    return reasons
            await asyncio.sleep(0.01)


async def test_events_wait_for_a_store_that_is_gone_and_come_once_and_in_order(
    valkey: Valkey, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_RETRY", 0.02)
    async with running(store) as journal:
        journal.tell("svc", [Note("service.woke", "0"), Note("replica.started", "1")])
        assert await told(store, 2) == ["0", "1"]
        valkey.kill()
        journal.tell("svc", [Note("replica.ready", str(n)) for n in range(2, 30)])
        await asyncio.sleep(0.1)  # it tries, in vain
        valkey.start()
        assert await told(store, 30) == [str(n) for n in range(30)]
        assert journal.dropped == 0


async def test_an_answer_that_was_lost_doubles_no_event(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_RETRY", 0.01)
    store = Forgetful(store_url)
    async with running(store) as journal:
        journal.tell("svc", [Note("replica.ready", str(n)) for n in range(5)])
        assert await told(store, 5) == ["0", "1", "2", "3", "4"]
    assert store.lost == 3
    await store.close()


async def test_what_waits_is_bounded_and_what_is_lost_is_counted(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal_module, "_BOUND", 10)
    journal = Journal(store)
    journal.tell("svc", [Note("replica.ready", str(n)) for n in range(25)])
    assert journal.dropped == 15
    assert sum("are lost" in record.message for record in caplog.records) == 1
    task = asyncio.get_running_loop().create_task(journal.run())
    assert await told(store, 10) == [str(n) for n in range(15, 25)]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_a_tenant_s_code_said_is_for_its_owner(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    async with running(store) as journal:
        with caplog.at_level("INFO"):
            journal.tell(
                "svc", (Note("replica.failed", Reason("exited with code 1", "last line of its log: KEY=s3cret")),)
            )
        assert await told(store, 1) == ["exited with code 1; last line of its log: KEY=s3cret"]
    assert "service svc: replica.failed: exited with code 1" in caplog.messages
    assert "s3cret" not in caplog.text
