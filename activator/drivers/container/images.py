"""From a deployment to an image that this node keeps: pulled, or built from the Dockerfile of a repository's commit.

Each is kept under a name of this driver's own (`Shelf`), by which the same commit or digest is found again in one
look-up, and by which `prune` removes what nothing needs. The same one is made once, however many ask.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from activator.drivers import Artifact, BuildFailed, BuildJob, BuildLog, Needed
from activator.drivers.process import git
from activator.drivers.process.cloning import MOVES, Cloning, Limits

from . import triggers
from .body import GIB, network_name
from .credentials import Credentials
from .dockerfile import BadDockerfile, Checked, checked, unsafe_trigger
from .engine import Engine, EngineError
from .failures import build_failed, pull_failed
from .leftovers import Leftovers
from .networks import Networks
from .progress import Progress
from .references import Reference, Shelf, is_digest, refusal
from .source import Sources, read_dockerfile

_TAIL = 20
_MEMORY = 4 * GIB  # bytes that the steps of a build may use: as much as a service is given that asks for nothing


@dataclass(frozen=True, slots=True)
class _Work:
    """One pull or build under way."""

    job: BuildJob
    log: BuildLog

    async def say(self, *lines: str) -> None:
        if lines:
            await asyncio.to_thread(self.log, [git.redact(line) for line in lines])


class Images:
    """The images of one node. `credentials` are those of the node's own user for registries."""

    def __init__(
        self,
        engine: Engine,
        shelf: Shelf,
        sources: Sources,
        networks: Networks,
        credentials: Credentials,
        limits: Limits,
    ) -> None:
        self._engine = engine
        self._networks = networks
        self._shelf = shelf
        self._sources = sources
        self._credentials = credentials
        self._limits = limits
        self._leftovers = Leftovers(shelf.node)
        self._building: Counter[str] = Counter()  # by namespace
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def make(self, job: BuildJob, log: BuildLog) -> Artifact:
        """Raises `BuildFailed`."""
        work = _Work(job, log)
        try:
            return await (self._build(work) if job.image is None else self._pull(work, Reference.of(job.image)))
        except OSError as error:
            raise BuildFailed("the node could not build it", error.strerror or type(error).__name__) from error
        except EngineError as error:
            raise BuildFailed("the container engine of the node failed", error.message) from error
        except BuildFailed as failure:
            await work.say(str(failure.reason))
            raise

    async def made(self, job: BuildJob) -> Artifact | None:
        """The image of the commit or digest that the job pins, if it is here; none while the engine fails."""
        if job.commit is None:
            return None
        name = self._shelf.name(job.namespace, job.service_id, job.commit)
        try:
            return None if await self._engine.image(name) is None else Artifact(job.commit, name)
        except EngineError:
            return None

    def builds(self, namespace: str) -> bool:
        """Whether a build of that namespace is under way, in its network."""
        return self._building[namespace] > 0

    async def open(self) -> None:
        """End what an earlier control left of builds. Raises `OSError`."""
        await self._sources.open()
        if self._engine.flavour.leaves_builds:
            await self._leftovers.open()

    async def close(self) -> None:
        await self._leftovers.close()

    # -- images

    async def _pull(self, work: _Work, reference: Reference) -> Artifact:
        job, pinned = work.job, work.job.commit
        if reason := refusal(str(reference)):
            raise BuildFailed(f"image '{reference}' {reason}")
        if pinned is not None:
            name = self._shelf.name(job.namespace, job.service_id, pinned)
            if await self._engine.image(name) is not None:
                await work.say(f"image {reference} with digest {pinned} is here already")
                return Artifact(pinned, name)
        if pinned is not None and is_digest(pinned) and not reference.local:
            reference = reference.at(pinned)
        async with self._locks.setdefault(f"pull {reference.name}", asyncio.Lock()):
            return await self._pulled(work, reference)

    async def _pulled(self, work: _Work, reference: Reference) -> Artifact:
        job = work.job
        before = await self._engine.image(str(reference))
        told = None if reference.local else await self._fetch(work, reference)
        found = await self._engine.image(str(reference))
        if found is None:
            raise BuildFailed(f"image '{reference}' is not on this node, and localhost is no registry to pull from")
        digest = reference.digest or told or reference.digest_among(found.get("RepoDigests") or []) or found["Id"]
        if job.commit is not None and digest != job.commit:
            raise BuildFailed(f"image '{job.image}' with digest {job.commit} is not on this node any more")
        name = self._shelf.name(job.namespace, job.service_id, digest)
        repository = self._shelf.repository(job.namespace, job.service_id)
        await self._engine.tag(found["Id"], repository, self._shelf.tag(digest))
        if before is None:  # from now on it is ours alone, and goes with the service
            await self._engine.untag(str(reference))
        await work.say(f"digest {digest}")
        return Artifact(digest, name)

    async def _fetch(self, work: _Work, reference: Reference) -> str | None:
        """Pull it; the digest, where the engine says one."""
        await work.say(f"pulling {reference}")
        credentials = await asyncio.to_thread(self._credentials.header, reference.registry)
        progress = Progress()
        try:
            async with asyncio.timeout(self._limits.build):
                await self._listen(work, progress, self._engine.pull(reference.name, reference.wanted, credentials))
        except TimeoutError:
            raise BuildFailed(f"image '{reference}' took longer than {self._limits.build:.0f} s to pull") from None
        except EngineError as error:
            raise pull_failed(str(reference), error) from error
        return progress.digest

    # -- repositories

    async def _build(self, work: _Work) -> Artifact:
        job = work.job
        if job.commit is not None and not git.is_commit(job.commit):
            raise BuildFailed(f"'{job.commit}' is not a commit")
        async with self._sources.cloning(job) as cloning:
            for _ in range(MOVES):
                commit = job.commit or await self._sources.head(cloning)
                async with self._locks.setdefault(f"{job.service_id} {commit}", asyncio.Lock()):
                    name = self._shelf.name(job.namespace, job.service_id, commit)
                    if await self._engine.image(name) is not None:
                        await work.say(f"commit {commit} is built already")
                        return Artifact(commit, name)
                    if await self._made(work, cloning, commit, name):
                        return Artifact(commit, name)
        raise BuildFailed(f"branch '{job.branch}' of '{job.repo}' kept moving while it was cloned; redeploy")

    async def _made(self, work: _Work, cloning: Cloning, commit: str, name: str) -> bool:
        """Clone and build; `False` if the branch moved on meanwhile."""
        job = work.job
        await work.say(f"cloning {job.repo}, branch {job.branch}, commit {commit}")
        try:
            source = await self._sources.files(cloning, commit)
            if source is None:
                return False
            dockerfile = await self._checked(work, await asyncio.to_thread(read_dockerfile, source))
            context = await self._sources.context(cloning, dockerfile.text)
            await work.say("building its Dockerfile")
            labels = {"wakegate.service": job.service_id, "wakegate.commit": commit}
            await self._run(work, name, context, labels, cached=not dockerfile.mounts)
        except BuildFailed as failure:
            failure.commit = commit
            raise
        if await self._engine.image(name) is None:
            raise BuildFailed("building its Dockerfile gave no image")
        await work.say("built")
        return True

    async def _checked(self, work: _Work, text: str) -> Checked:
        """What the engine is given, with the images that it names here. Raises `BuildFailed`."""
        namespace, binds = work.job.namespace, self._engine.flavour.safe_binds
        try:
            bases = checked(text, namespace, binds=binds).bases
            ids = {base: await self._base(work, Reference.of(base)) for base in bases}
            return checked(text, namespace, binds=binds, ids=ids)
        except BadDockerfile as error:
            raise BuildFailed("its Dockerfile is not built", str(error)) from error

    async def _base(self, work: _Work, reference: Reference) -> str:
        """The id of an image to start from, pulled if it is not here. Raises `BuildFailed`, BadDockerfile."""
        found = await self._engine.image(str(reference))
        if found is None and not reference.local:
            await self._fetch(work, reference)
            found = await self._engine.image(str(reference))
        if found is None:
            raise BadDockerfile(f"image '{reference}' is not on this node, and localhost is no registry to pull from")
        image = str(found["Id"]).removeprefix("sha256:")
        trigger = unsafe_trigger(await self._triggers(image, found))
        if trigger is not None:
            raise BadDockerfile(f"image '{reference}' has a trigger that is not run here: ONBUILD {trigger[:200]}")
        return image

    async def _triggers(self, image: str, found: Mapping[str, Any]) -> Sequence[str]:
        """Raises `BuildFailed`."""
        flavour = self._engine.flavour
        if not flavour.podman:
            return triggers.told(found)
        try:
            return await asyncio.to_thread(triggers.stored, flavour.storage, image)
        except triggers.TriggersUnknown as error:
            raise BuildFailed("the node can't look at the image that its Dockerfile starts from", str(error)) from error

    async def _run(self, work: _Work, name: str, context: Path, labels: Mapping[str, str], *, cached: bool) -> None:
        network = network_name(self._shelf.node, work.job.namespace)
        options = self._engine.flavour.build_options(network, _MEMORY, cached=cached)
        tail: deque[str] = deque(maxlen=_TAIL)
        group = self._leftovers.begin() if self._engine.flavour.leaves_builds else None
        ended = True
        try:
            self._building[work.job.namespace] += 1
            await self._networks.make(work.job.namespace)
            async with asyncio.timeout(self._limits.build):
                said = self._engine.build(name, context, labels, options, group)
                await self._listen(work, Progress(), said, tail.extend)
            ended = False
        except TimeoutError:
            raise BuildFailed(f"the build took longer than {self._limits.build:.0f} s") from None
        except EngineError as error:
            raise build_failed(error, list(tail)) from error
        finally:
            self._building[work.job.namespace] -= 1
            if group is not None:
                self._leftovers.over(group, ended=ended)

    async def _listen(
        self,
        work: _Work,
        progress: Progress,
        stream: AsyncGenerator[dict[str, Any], None],
        also: Callable[[Iterable[str]], object] = list,
    ) -> None:
        """To the log whatever the engine says. Raises `EngineError` once it says an error."""
        now = asyncio.get_running_loop().time
        async with contextlib.aclosing(stream) as said:
            async for item in said:
                lines = progress.feed(item, now())
                also(lines)
                await work.say(*lines)
                if "error" in item:
                    await work.say(*progress.end())
                    raise EngineError(-1, _error(item))
        await work.say(*progress.end())

    # -- pruning

    async def prune(self, needed: Needed, used: Callable[[str], set[str]]) -> set[str]:
        """Remove the images that nothing needs; the namespaces that have one left. Raises `EngineError`."""
        kept: set[str] = set()
        for image in await self._engine.images():
            for name in image.get("RepoTags") or []:
                owner = self._shelf.owner(name)
                if owner is None:
                    continue
                namespace, service = owner
                wanted = needed(service)
                if wanted is None or name in wanted or name in used(service):
                    kept.add(namespace)
                else:
                    await self._engine.untag(name)
        return kept


def _error(item: dict[str, Any]) -> str:
    detail = item.get("errorDetail")
    said = detail.get("message") if isinstance(detail, dict) else None
    return str(said or item.get("error") or "no reason was given").strip()
