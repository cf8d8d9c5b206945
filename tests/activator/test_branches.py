"""Where branches are, looked at with the real git over a real store. What a redeploy does is control's own matter."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from node_under_test import Repository
from samples import deployment, service

from activator.branches import AT_ONCE, Branches, News, news
from activator.journal import Journal
from activator.remotes import Remotes
from activator.views import KINDS, Catalog
from state.codec import decode, encode
from state.ids import new_id
from state.kinds import Kind
from state.mirror import Mirror
from state.models import Deployment, DeploymentState, RunSpec, Service
from state.store import Change, Store, Unavailable

A, B, C = "a" * 40, "b" * 40, "c" * 40


@pytest.mark.parametrize(
    ("head", "seen", "latest", "active", "before", "found"),
    [
        # the first look: what was deployed at any time counts as seen
        (A, None, (DeploymentState.ACTIVE, A), A, (), News.NONE),
        (B, None, (DeploymentState.ACTIVE, A), A, (), News.DEPLOY),
        (B, None, (DeploymentState.FAILED, B), A, (), News.NONE),
        (B, None, (DeploymentState.ACTIVE, A), A, (B,), News.NONE),  # rolled back from B to A
        (B, None, (DeploymentState.FAILED, None), None, (), News.DEPLOY),  # it could not even be cloned
        (B, None, None, None, (), News.DEPLOY),
        # later ones
        (A, A, (DeploymentState.ACTIVE, A), A, (), News.NONE),
        (B, A, (DeploymentState.ACTIVE, A), A, (), News.DEPLOY),
        (B, A, (DeploymentState.ACTIVE, B), B, (), News.NONE),  # a webhook was faster
        (B, B, (DeploymentState.FAILED, B), A, (), News.NONE),
        (B, B, (DeploymentState.ACTIVE, A), A, (B,), News.NONE),  # rolled back
        (A, B, (DeploymentState.ACTIVE, B), B, (A,), News.DEPLOY),  # pushed back by force
        (A, B, (DeploymentState.FAILED, B), A, (), News.NONE),  # the same, to what serves
        # while a deployment is in progress nothing is begun
        (B, A, (DeploymentState.BUILDING, None), A, (), News.LATER),
        (B, A, (DeploymentState.STARTING, A), None, (), News.LATER),
        (B, A, (DeploymentState.STARTING, B), A, (), News.NONE),
        (B, None, (DeploymentState.PENDING, None), None, (), News.LATER),
    ],
)
def test_what_a_head_means(head, seen, latest, active, before, found):
    kept = [deployment(f"d{n}", DeploymentState.SUPERSEDED, commit=commit) for n, commit in enumerate(before)]
    if active is not None:
        kept.append(deployment("d8", commit=active))
    if latest is not None and latest[0] is not DeploymentState.ACTIVE:
        kept.append(deployment("d9", latest[0], commit=latest[1]))
    newest = None if latest is None else kept[-1].id
    one = service(latest=newest or "none", active=None if active is None else "d8")
    assert news(head, seen, one, kept) is found


class Counting(Remotes):
    """Counts the looks, and how many there were at once."""

    def __init__(self, data_dir: Path, git_url: str) -> None:
        super().__init__(data_dir, git_url, timeout=20.0)
        self.asked: Counter[str] = Counter()
        self.looks = self.now = self.most = 0

    async def heads(self, repo, branches):
        self.looks += 1
        self.asked[repo] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super().heads(repo, branches)
        finally:
            self.now -= 1


class Rig:
    """A leader's branches; `redeploy` writes what the API writes, in short."""

    def __init__(self, store: Store, place: Path, interval: float = 0.05) -> None:
        self.store = store
        self.place = place
        self.mirror = Mirror(store, [*KINDS], self._changed)
        self.catalog = Catalog(self.mirror)
        self.journal = Journal(store)
        self.remotes = Counting(place, f"file://{place}/git/{{repo}}")
        self.leading = True
        self.redeployed: list[str] = []
        self.refuse: Callable[[Service], bool] = lambda _: False
        self.failing = False
        self.branches = Branches(
            self.mirror,
            self.catalog,
            self.remotes,
            self.redeploy,
            self.journal,
            leads=lambda: self.leading,
            interval=interval,
            pace=0.0,
        )

    def _changed(self, touched):
        self.catalog.changed(touched)
        self.branches.changed(touched)

    async def redeploy(self, service: Service) -> bool:
        if self.failing:
            raise Unavailable("gone")
        if self.refuse(service):
            return False
        self.redeployed.append(service.id)
        return True

    def repository(self, name: str) -> Repository:
        return Repository(self.place / "git" / "acme" / name)

    async def put(self, service_id: str, repo: str, commit: str | None, **fields) -> None:
        """A service whose newest deployment is active with this commit, as a finished redeploy leaves it."""
        run = RunSpec(repo=f"acme/{repo}", branch=fields.pop("branch", "main"))
        state = fields.pop("state", DeploymentState.ACTIVE)
        made = Deployment(new_id(), service_id, state, run, 1, commit=commit)
        one = service(id=service_id, name=service_id, run=run, latest=made.id, active=made.id, **fields)
        revision = await self.store.commit(
            [
                Change(Kind.DEPLOYMENT, made.id, encode(made)),
                Change(Kind.SERVICE, service_id, encode(one)),
            ]
        )
        await self.mirror.reached(revision)

    async def change(self, service_id: str, **fields) -> None:
        record = await self.store.get(Kind.SERVICE, service_id)
        assert record is not None
        changed = replace(decode(Service, record.value), **fields)
        await self.mirror.reached(await self.store.commit([Change(Kind.SERVICE, service_id, encode(changed))]))

    async def looked(self, times: int = 2) -> None:
        """So many looks from now have begun: the ones before have ended, or count."""
        wanted = self.remotes.looks + times
        await until(lambda: self.remotes.looks >= wanted)

    async def told(self, service_id: str) -> list[str]:
        return [told.event.kind for told in await self.store.events(service_id)]


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


@pytest.fixture
def place(ground: Path) -> Path:
    (ground / "git" / "acme").mkdir(parents=True)
    return ground


@pytest.fixture
async def rig(store: Store, place: Path) -> AsyncIterator[Rig]:
    made = Rig(store, place)
    works = (made.mirror.run(), made.journal.run(), made.branches.run())
    tasks = [asyncio.create_task(work) for work in works]
    await made.mirror.synced()
    yield made
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks)


async def test_a_branch_that_moves_is_deployed_once(rig):
    repository = rig.repository("app")
    first = repository.commit({"a": "1"})
    await rig.put("s1", "app", first)
    await rig.looked()
    assert rig.redeployed == []
    second = repository.commit({"a": "2"})
    await until(lambda: rig.redeployed == ["s1"])
    await rig.looked(3)
    assert rig.redeployed == ["s1"]
    # it failed, and nothing is tried again until the branch moves on
    await rig.put("s1", "app", second, state=DeploymentState.FAILED)
    await rig.looked(3)
    assert rig.redeployed == ["s1"]
    repository.commit({"a": "3"})
    await until(lambda: rig.redeployed == ["s1", "s1"])
    assert "branch.moved" in await rig.told("s1")


async def test_one_look_serves_every_service_and_branch_of_a_repository(rig):
    repository = rig.repository("app")
    first = repository.commit({"a": "1"})
    repository._git("branch", "dev")
    for n in range(20):
        await rig.put(f"s{n}", "app", first, branch="dev" if n % 2 else "main")
    repository.commit({"a": "2"})
    await until(lambda: len(rig.redeployed) == 10)
    assert sorted(rig.redeployed) == sorted(f"s{n}" for n in range(0, 20, 2))
    assert rig.remotes.most == 1


async def test_a_bounded_number_of_looks_at_once(rig):
    for n in range(12):
        commit = rig.repository(f"app{n}").commit({"a": "1"})
        await rig.put(f"s{n}", f"app{n}", commit)
    await rig.looked(40)
    assert 1 < rig.remotes.most <= AT_ONCE


async def test_nothing_is_looked_at_for_images_or_for_services_that_are_gone(rig):
    commit = rig.repository("app").commit({"a": "1"})
    other = rig.repository("other").commit({"a": "1"})
    await rig.put("s1", "app", commit)
    await until(lambda: rig.remotes.asked["acme/app"])
    await rig.change("s1", deleted_at=1)
    await rig.change("s1", run=RunSpec(image="nginx"), deleted_at=None)
    asked = rig.remotes.asked["acme/app"]
    await rig.put("s2", "other", other)
    await until(lambda: rig.remotes.asked["acme/other"] >= 3)
    assert rig.remotes.asked["acme/app"] == asked


async def test_only_the_leader_looks(rig):
    rig.leading = False
    rig.branches.hurry()
    await rig.put("s1", "app", rig.repository("app").commit({"a": "1"}))
    assert rig.branches._rounds.wait(time.monotonic()) is None
    rig.leading = True
    rig.branches.hurry()
    await rig.looked(2)
    rig.leading = False
    rig.branches.hurry()
    await until(lambda: rig.branches._rounds.wait(time.monotonic()) is None and not rig.remotes.now)
    assert len(rig.branches._rounds) == 0


async def test_trouble_is_told_once_and_its_end_too(rig):
    await rig.put("s1", "late", None, state=DeploymentState.FAILED)
    await rig.looked(3)
    repository = rig.repository("late")
    repository.commit({"a": "1"})
    await until(lambda: rig.redeployed == ["s1"])
    await rig.put("s2", "late", A, branch="none")
    await rig.looked(4)
    async with asyncio.timeout(30):
        while await rig.told("s2") != ["branch.unreachable"]:
            await asyncio.sleep(0.01)
    assert await rig.told("s1") == ["branch.unreachable", "branch.reachable", "branch.moved"]
    assert "no branch 'none'" in (await rig.store.events("s2"))[0].event.reason


async def test_a_webhook_makes_looks_rare_and_a_second_service_without_one_often_again(rig):
    repository = rig.repository("app")
    await rig.put("s1", "app", repository.commit({"a": "1"}), hooked_at=1)
    await until(lambda: len(rig.branches._rounds) == 1)
    wait = rig.branches._rounds.wait(time.monotonic())
    assert wait is not None
    assert rig.remotes.looks == 0
    await rig.put("s2", "app", repository.commit({"a": "2"}))
    await rig.looked(2)
    assert rig.redeployed == ["s1"]


async def test_what_was_refused_or_failed_is_tried_at_the_next_look(rig):
    repository = rig.repository("app")
    rig.refuse = lambda _: True
    await rig.put("s1", "app", repository.commit({"a": "1"}))
    repository.commit({"a": "2"})
    await rig.looked(3)
    rig.refuse, rig.failing = (lambda _: False), True
    await rig.looked(3)
    assert rig.redeployed == []
    rig.failing = False
    await until(lambda: rig.redeployed == ["s1"])


async def test_never(store, place):
    """--git-poll 0."""
    rig = Rig(store, place, interval=0)
    await rig.branches.run()
    rig.branches.changed([(Kind.SERVICE, "s1")])
