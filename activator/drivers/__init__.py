"""What activation needs of the thing that runs replicas: build, start, stop, watch.

Laws kept here: the reconciler is idempotent (law 4), so every call may be repeated, and what runs is learnt from
`observe`, never remembered by the caller; replicas of one tenant are nothing to those of another (law 8).

The order that a caller keeps: `allocate` a port, store the intent (id, port), `start`; later `stop`, and `forget` once
nothing asks for the replica any more. A replica that ends by itself is reported once by `on_exit` and stays in
`observe` (`alive=False`) until it is forgotten, also over a restart of control.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from state.models import Reason

_DETAIL = 500  # characters

BuildLog = Callable[[Sequence[str]], None]
"""Takes whole lines of a build's output. Called from a worker thread, in order; it may block, it must not raise."""


class DriverError(Exception):
    """The driver could not do it. `public` is one sentence that anybody may read, `detail` is for the owner alone:
    whatever comes from the tenant's code, from git or from the node goes there. Secrets go into neither."""

    def __init__(self, public: str, detail: str | None = None) -> None:
        self.reason = Reason(public, None if detail is None else detail[:_DETAIL])
        super().__init__(str(self.reason))


class NodeUnfit(Exception):
    """The node can't run replicas as it is set up; the text says the fix. Trying again is of no use until then."""


class BuildFailed(DriverError):
    """The deployment can't become an artifact: no repository, no branch, no Procfile, a build that failed.

    `commit` is the one that was to be built, if it was known by then.
    """

    commit: str | None = None


class StartFailed(DriverError):
    """The replica was not started; nothing of it runs."""


class NoRoom(StartFailed):
    """The node has no place for another replica now, whosever it is: try again later."""


class ArtifactMissing(StartFailed):
    """This node does not have the artifact (pruned, or built elsewhere): `build` with the same `commit`, then start."""


@dataclass(frozen=True, slots=True)
class BuildJob:
    """What is to be made runnable: a `repo` at its `branch`, or an `image` (then `repo` and `branch` are empty).

    `env` holds plain values; `commit` pins one, `None` = the branch's newest. Of an image it pins the digest that was
    pulled for this deployment (a node that lost it pulls the same again), `None` = what the reference means now.
    """

    service_id: str
    namespace: str
    deployment_id: str
    repo: str = ""
    branch: str = ""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    commit: str | None = None
    image: str | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """What `start` can start: the commit (or image digest) that it came from, and the driver's own reference."""

    commit: str
    ref: str


@dataclass(frozen=True, slots=True)
class Launch:
    """One replica to start. `artifact` is `Artifact.ref`; `cpu` in cores, `memory` in GiB, both ceilings.

    `port` is the node's (of `allocate`); `container_port` the service's own, where replicas have networks of their
    own. `image` is the reference that the service names, if it names one. `gpu_count` devices of the type `gpu`.
    """

    replica_id: str
    service_id: str
    namespace: str
    deployment_id: str
    artifact: str
    port: int
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cpu: int = 2
    memory: int = 4
    image: str | None = None
    container_port: int = 8080
    gpu: str = "none"
    gpu_count: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """Where the replica will listen once it is up; `pid` where the driver has one."""

    host: str
    port: int
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """How a replica ended: `code`, or the `signal` that ended it, or neither where nobody could know.

    `stopped`: it was asked to, by `stop`. `last_lines` are the last ones that it wrote, oldest first.
    """

    code: int | None = None
    signal: int | None = None
    stopped: bool = False
    last_lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.signal is not None:
            return f"ended by signal {self.signal}"
        return "ended" if self.code is None else f"exited with code {self.code}"

    @property
    def last_line(self) -> str | None:
        """The last thing that it said."""
        return next((line.strip() for line in reversed(self.last_lines) if line.strip()), None)


@dataclass(frozen=True, slots=True)
class Observed:
    """A replica of this node as the driver finds it, alive or ended and not yet forgotten.

    `gpus`: those that it has, by their numbers on the node (`activator.drivers.gpus`) or their UUIDs.
    """

    replica_id: str
    service_id: str
    namespace: str
    deployment_id: str
    host: str
    port: int
    alive: bool
    pid: int | None = None
    exit: Exit | None = None
    gpus: tuple[str, ...] = ()


OnExit = Callable[[str, Exit], None]
"""Called in the event loop with the replica's id, once per replica, after its last line reached the log."""


Needed = Callable[[str], Collection[str] | None]
"""The references that are needed of the service with this id; `None` = all (something of it is being built). Called in
the event loop at the moment of removal: what was true a little earlier may be wrong by then."""


class Driver(Protocol):
    """Runs replicas on this node. All methods are safe to call at once for different replicas, and to repeat."""

    @property
    def limits(self) -> Literal["enforced", "none"]:
        """Whether `cpu` and `memory` bind the replica."""
        ...

    @property
    def isolated(self) -> bool:
        """Whether namespaces are kept apart; `False` = for trusted code only."""
        ...

    async def open(self, on_exit: OnExit) -> None:
        """Find and adopt the replicas that an earlier control left; whatever else it left is ended.

        Raises `NodeUnfit`. After anything else that it raises it may be called again.
        """
        ...

    async def build(self, job: BuildJob, log: BuildLog) -> Artifact:
        """Make the job runnable; a commit that is built already costs one look-up. Cancelling it ends the build.

        Raises `BuildFailed`.
        """
        ...

    async def made(self, job: BuildJob) -> Artifact | None:
        """What a job that pins a commit (or digest) became before, if this node still has it as it was built. Nobody
        else is asked, and nothing is built; a job that pins nothing has nothing."""
        ...

    def allocate(self, in_use: Collection[int]) -> int:
        """A port for a new replica: not in `in_use` (those of the store), not in this driver's use, free now.

        Raises `NoRoom` when there is none.
        """
        ...

    async def start(self, launch: Launch) -> Started:
        """Start it, or find it already started (same id). Raises `StartFailed`, `ArtifactMissing`."""
        ...

    async def listens(self, replica_id: str) -> bool:
        """Whether what listens at the replica's address is the replica's own (a probe's 200 may be a stranger's)."""
        ...

    async def usurped(self) -> Collection[str]:
        """The replicas at whose address somebody else listens now: nothing may be sent there. One look for all of
        them, made to be asked every second."""
        ...

    async def verify(self, replica_id: str) -> bool:
        """Whether what a replica that did not come up was started from is still what was built.

        If not it is dropped, so that the next `start` raises `ArtifactMissing`; but never below another replica that
        runs from it: then, and for unknown ids, the answer is `True`.
        """
        ...

    async def stop(self, replica_id: str, grace_seconds: float) -> None:
        """Ask it to end, and end all that is left of it after the grace (0 = at once). Unknown ids are stopped.

        Returns once nothing of it runs; its `on_exit` has been called by then.
        """
        ...

    async def observe(self) -> list[Observed]:
        """Every replica of this node."""
        ...

    async def forget(self, replica_id: str) -> None:
        """Drop what is kept of an ended replica (its lines stay in the service's log). Unknown ids are forgotten.

        One that is alive is stopped at once first.
        """
        ...

    async def prune(self, needed: Needed) -> None:
        """Remove artifacts that nothing needs, and whatever else is kept for services of which nothing is needed."""
        ...

    async def close(self, *, keep: bool) -> None:
        """End all replicas, or leave them running (`keep`) for the next control. Builds are ended either way.

        It may be called again, if it raises.
        """
        ...
