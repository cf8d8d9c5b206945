"""Pushes that nobody tells of: the leader looks where branches are, and redeploys the services of one that moved.

A service whose forge tells of pushes by webhook is looked at as well, once an hour: deliveries get lost. One look
serves all services of a repository. Not every repository can be asked every minute: at most `1 / PACE` looks begin in a
second and AT_ONCE are under way, so a node with more than `interval / PACE` repositories without webhooks (300 at 60 s)
looks at each of them less often.

Laws kept here: 5 (`news` decides), 6 (who redeploys compares and sets; a second deployment beside one in progress is
never begun) and 7. What was seen is remembered by the leader alone; a new one takes what was deployed for it.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from activator.journal import Journal
from activator.planning import Note
from activator.racing import within
from activator.remotes import Unreachable
from activator.rounds import Rounds
from activator.views import Catalog
from state.kinds import Kind
from state.mirror import Mirror
from state.models import Deployment, Reason, Service
from state.store import StoreError

log = logging.getLogger(__name__)

PACE: Final = 0.2  # seconds between the beginnings of two looks: a look over TLS takes 50 ms of a CPU
AT_ONCE: Final = 4
HOOKED: Final = 3600.0  # seconds between looks at the branch of a service that webhooks tell of
_AGES: Final = 3600.0  # seconds without anything to do
_SLICE: Final = 50  # services compared between two turns of the loop

Redeploy = Callable[[Service], Awaitable[bool]]
"""Deploys the newest commit of the service's branch, because of a push; False = not now. Raises StoreError."""


class Heads(Protocol):
    """`activator.remotes.Remotes`."""

    async def heads(self, repo: str, branches: Collection[str]) -> Mapping[str, str]: ...


class News(enum.Enum):
    """What a branch's head means for a service."""

    NONE = enum.auto()
    DEPLOY = enum.auto()
    LATER = enum.auto()  # a deployment is in progress: the next look decides


def news(head: str, seen: str | None, service: Service, deployments: Sequence[Deployment]) -> News:
    """`seen`: where the branch was when it was looked at last, None if it never was. `deployments`: the service's.

    A head that was seen is no news, whatever became of its deployment: it may have failed, or have been rolled back. On
    the first look, one that was deployed at any time counts as seen.
    """
    by_id = {deployment.id: deployment for deployment in deployments}
    latest, active = by_id.get(service.latest), by_id.get(service.active or "")
    if latest is not None and latest.state.in_progress:
        return News.NONE if latest.commit == head else News.LATER
    if seen is None:
        return News.NONE if any(d.commit == head for d in deployments) else News.DEPLOY
    return News.NONE if head == seen or (active is not None and active.commit == head) else News.DEPLOY


@dataclass(slots=True)
class _Users:
    """The services of one repository, and those of them that no webhook tells of its pushes. By id."""

    all: set[str] = field(default_factory=set)
    untold: set[str] = field(default_factory=set)


class Branches:
    """`run` for ever; `changed` gets what the mirror applies, `hurry` when the lease was gained or lost.

    `interval`: seconds between two looks at a repository; 0 = never look.
    """

    def __init__(
        self,
        mirror: Mirror,
        catalog: Catalog,
        remotes: Heads,
        redeploy: Redeploy,
        journal: Journal,
        *,
        leads: Callable[[], bool],
        interval: float,
        pace: float = PACE,
    ) -> None:
        self._mirror = mirror
        self._catalog = catalog
        self._remotes = remotes
        self._redeploy = redeploy
        self._journal = journal
        self._leads = leads
        self._interval = interval
        self._rounds = Rounds(pace)
        self._repo_of: dict[str, str] = {}  # service id -> repository
        self._users: dict[str, _Users] = {}  # by repository
        self._seen: dict[str, tuple[str, str]] = {}  # service id -> branch and where it was
        self._ailing: set[str] = set()  # ids of services that were told that their branch can't be seen
        self._leading = False
        self._under_way = 0
        self._more = asyncio.Event()
        self.looks = 0
        self.failures = 0
        """Of the looks, those that saw nothing."""

    def hurry(self) -> None:
        self._more.set()

    def changed(self, touched: Sequence[tuple[Kind, str]]) -> None:
        for kind, object_id in touched:
            if kind is Kind.SERVICE and self._interval:
                self._note(object_id)

    async def run(self) -> None:
        if not self._interval:
            return
        await self._mirror.synced()
        async with asyncio.TaskGroup() as looks:
            while True:
                self._follow_the_lease()
                while (repo := self._next()) is not None:
                    self._under_way += 1
                    looks.create_task(self._look(repo), name=f"branches of {repo}")
                await within(self._more, self._pause())
                self._more.clear()

    # -- what is to be looked at

    def _note(self, service_id: str) -> None:
        service = self._catalog.service(service_id)
        repo = None if service is None or service.deleted_at is not None else service.run.repo
        before = self._repo_of.get(service_id)
        if before is not None and before != repo:
            self._forget(service_id, before)
        if service is not None and repo is not None:
            self._repo_of[service_id] = repo
            users = self._users.setdefault(repo, _Users())
            users.all.add(service_id)
            (users.untold.add if service.hooked_at is None else users.untold.discard)(service_id)
            self._plan(repo)

    def _forget(self, service_id: str, repo: str) -> None:
        del self._repo_of[service_id]
        self._seen.pop(service_id, None)
        self._ailing.discard(service_id)
        users = self._users[repo]
        users.all.discard(service_id)
        users.untold.discard(service_id)
        if users.all:
            self._plan(repo)
        else:
            del self._users[repo]
            self._rounds.drop(repo)

    def _plan(self, repo: str) -> None:
        if self._leading:
            period = self._interval if self._users[repo].untold else max(self._interval, HOOKED)
            self._rounds.put(repo, period, time.monotonic())
            self._more.set()

    def _follow_the_lease(self) -> None:
        """A new tenure remembers nothing of one before."""
        if self._leading == self._leads():
            return
        self._leading = self._leads()
        self._rounds.clear()
        self._seen.clear()
        self._ailing.clear()
        for repo in self._users:
            self._plan(repo)

    def _pause(self) -> float:
        wait = self._rounds.wait(time.monotonic()) if self._may_look else None
        return _AGES if wait is None else wait

    def _next(self) -> str | None:
        return self._rounds.take(time.monotonic()) if self._may_look else None

    @property
    def _may_look(self) -> bool:
        return self._leading and self._under_way < AT_ONCE

    # -- looking

    async def _look(self, repo: str) -> None:
        failed = True
        try:
            failed = not await self._looked(repo)
        except Exception:
            log.exception("the branches of %s can't be looked at", repo)
        finally:
            self._under_way -= 1
            self.looks += 1
            self.failures += failed
            self._rounds.done(repo, time.monotonic(), failed=failed)
            self._more.set()

    async def _looked(self, repo: str) -> bool:
        """Whether the repository answered."""
        ids = self._users[repo].all if repo in self._users else ()
        services = [s for i in ids if (s := self._catalog.service(i)) is not None]
        try:
            heads = await self._remotes.heads(repo, {s.run.branch for s in services if s.run.branch})
        except Unreachable as error:
            for service in services:
                self._ails(service, error.reason)
            return False
        for number, service in enumerate(services):
            await self._compare(service, heads)
            if number % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        return True

    async def _compare(self, asked: Service, heads: Mapping[str, str]) -> None:
        service = self._catalog.service(asked.id)
        branch = asked.run.branch or ""
        if service is None or service.deleted_at is not None or service.run.branch != branch or not self._leads():
            return
        head = heads.get(branch)
        if head is None:
            self._ails(service, Reason(f"repository '{service.run.repo}' has no branch '{branch}'"))
            return
        self._heals(service)
        known = self._seen.get(service.id)
        seen = known[1] if known is not None and known[0] == branch else None
        found = news(head, seen, service, self._catalog.deployments_of(service.id))
        if found is News.NONE or (found is News.DEPLOY and await self._deploy(service, head)):
            self._seen[service.id] = (branch, head)

    async def _deploy(self, service: Service, head: str) -> bool:
        try:
            begun = await self._redeploy(service)
        except StoreError as error:
            log.warning("service %s: %s is deployed later: %s", service.id, head, error)
            return False
        if begun:
            self._journal.tell(service.id, (Note("branch.moved", f"{service.run.branch} was found at {head}"),))
        return begun

    def _ails(self, service: Service, reason: Reason) -> None:
        if service.id not in self._ailing and service.id in self._repo_of:
            self._ailing.add(service.id)
            self._journal.tell(service.id, (Note("branch.unreachable", reason),))

    def _heals(self, service: Service) -> None:
        if service.id in self._ailing:
            self._ailing.discard(service.id)
            self._journal.tell(service.id, (Note("branch.reachable", f"{service.run.branch} can be seen again"),))
