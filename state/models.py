"""The objects of the store, as frozen values (those of domains and their certificates: `state.certificates`).

Times are integers of microseconds since the epoch (`*_at`); durations are seconds. Nothing here reads a clock.
Each object is stored as compact JSON under its kind (`state.kinds`); `version` is the revision that wrote it and is
kept by the store beside the value, not in it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class DeploymentState(enum.StrEnum):
    """SPEC section 2: the states of a deployment."""

    PENDING = "pending"
    BUILDING = "building"
    STARTING = "starting"
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def in_progress(self) -> bool:
        return self in (DeploymentState.PENDING, DeploymentState.BUILDING, DeploymentState.STARTING)


class ReplicaState(enum.StrEnum):
    """The life of a replica; legal transitions are in `activator.lifecycle`."""

    INTENT = "intent"  # stored, the driver has not been called yet (law 4)
    STARTING = "starting"  # the driver started it, the probe has not seen 200 yet
    READY = "ready"  # in rotation
    UNHEALTHY = "unhealthy"  # 3 failed checks: out of rotation, still alive
    DRAINING = "draining"  # announced as leaving; may be called back
    STOPPING = "stopping"  # the driver is stopping it; no way back
    FAILED = "failed"  # exited or timed out; kept until its backoff is over


class Phase(enum.StrEnum):
    """What a worker does with a request when no replica is ready (SPEC section 3)."""

    SERVING = "serving"  # hold: asleep, starting or restarting, all the same to the worker
    REFUSING = "refusing"  # 503 with the reason and Retry-After


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something failed, in two texts.

    `public` is a sentence that anybody may read: any visitor of a service gets it with his 503. `detail` is for the
    service's owner alone, who reads it in the API: lines of logs, what git said, addresses, paths, ports.
    """

    public: str
    detail: str | None = None

    def __str__(self) -> str:
        """The whole of it, for the owner."""
        return self.public if self.detail is None else f"{self.public}; {self.detail}"


@dataclass(frozen=True, slots=True)
class Scaling:
    """`scaling` of a service: requests at once, seconds. `None`: the node's default; of a target: there is none.

    `affinity`: "cookie" brings a client back to the replica that answered it before, "prefix" a prompt to the replica
    that saw its beginning before, "none" neither. `hold_keepalive`: who is held is told so from time to time;
    `waiting_page`: browsers get a page that refreshes itself instead. `warm_reserve`: it is woken ahead of the hours of
    the week in which it has had requests before.
    """

    concurrency: int = 0
    target_concurrency: int = 100
    target_requests_per_second: int | None = None
    target_queue_delay_ms: int | None = None
    idle_timeout: int | None = None
    scale_down_delay: int = 60
    hold_timeout: int | None = None
    startup_timeout: int = 600
    affinity: str = "none"
    hold_keepalive: bool = False
    waiting_page: bool = True
    warm_reserve: bool = False


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What a deployment runs; a copy is kept with each deployment, so that a rollback is exact.

    `env` maps names to sealed values (`state.secrets`), never plain text.
    """

    repo: str | None = None
    branch: str | None = None
    image: str | None = None
    port: int = 8080
    health_check_path: str = "/"
    cpu: int = 2
    memory: int = 4
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Service:
    """A service as its owner configured it (kind `service`, id = `Service.id`)."""

    id: str
    namespace: str
    name: str
    label: str
    run: RunSpec
    gpu: str
    gpu_count: int | None
    min_replicas: int
    max_replicas: int
    target_gpu_utilization: int
    region: str
    custom_domain: str | None
    scaling: Scaling
    created_at: int
    updated_at: int
    latest: str  # id of the newest deployment
    active: str | None = None  # id of the deployment that serves
    deleted_at: int | None = None  # set while its replicas are being removed
    forced: bool = False  # deleted by force: what is in flight is not waited for
    queued: bool = False  # a push came while a deployment was in progress: the branch's head is deployed after it
    pushed: str | None = None  # the commit that the last of the queued pushes told of
    webhook: str = ""  # secret of the push webhook, sealed (Vault ENVIRONMENT; object = `id`, field "webhook secret")
    hooked_at: int | None = None  # last valid push by webhook: the branch of such a service is not polled


@dataclass(frozen=True, slots=True)
class Deployment:
    """One attempt to run a service (kind `deployment`, id = `Deployment.id`).

    One that begins with a `commit` or `digest` is pinned to it; else it takes the branch's newest commit, or pulls the
    image, and records what that was.
    """

    id: str
    service: str
    state: DeploymentState
    run: RunSpec
    created_at: int
    commit: str | None = None
    node: str | None = None  # the node that builds it
    artifact: str | None = None  # what the driver starts: a checkout or an image digest
    proven: bool = False  # a replica of it was ready once
    reason: str | None = None  # why it failed, for anybody (`Reason.public`)
    detail: str | None = None  # why it failed, for the owner alone (`Reason.detail`)
    finished_at: int | None = None
    cause: str = "create"  # create | update | redeploy | rollback | push
    digest: str | None = None  # of an image: what was pulled (of a repo it is `commit`)

    @property
    def explanation(self) -> str | None:
        """Why it failed, the whole of it, for the owner."""
        return None if self.reason is None else str(Reason(self.reason, self.detail))


@dataclass(frozen=True, slots=True)
class StartPhases:
    """How long the parts of a replica's start took, microseconds, one after the other; None: there was no such part,
    or it is not over.
    """

    decide: int | None = None  # from the wake to the decision; None: no wake asked for it
    schedule: int | None = None  # until its node acted
    fetch: int | None = None  # what it is made of, if its node lacked that
    start: int | None = None  # until the driver had started it
    ready: int | None = None  # until a check saw 200
    first_byte: int | None = None  # until the first byte for somebody who was held left a worker


@dataclass(frozen=True, slots=True)
class Replica:
    """One running (or meant to run) copy of a service (kind `replica`, id = `Replica.id`)."""

    id: str
    service: str
    deployment: str
    node: str
    state: ReplicaState
    created_at: int
    host: str = "127.0.0.1"
    port: int = 0
    started_at: int | None = None
    ready_at: int | None = None
    reason: str | None = None  # for anybody
    phases: StartPhases = StartPhases()
    cold: bool = False  # its start ended a wake (`activator.verdicts.ends_wake`)


@dataclass(frozen=True, slots=True)
class History:
    """In which hours of the week a service had requests (`activator.forecast`). Hours are counted since the epoch, UTC.

    `weeks`: for each of the 168 hours one digit to the base of 32, its bits the latest five weeks, the newest lowest.
    """

    began: int
    hour: int  # up to which `weeks` tells
    weeks: str
    start_ms: int | None = None  # how long its replicas take from the wake until ready


@dataclass(frozen=True, slots=True)
class Scale:
    """What the autoscaler decided and remembers (kind `scale`, id = the service's id)."""

    desired: int = 0
    active_at: int | None = None  # last activity seen, stored every 10 s
    failures: int = 0  # wakes or starts that failed in a row
    reason: str | None = None  # of the last failure, for anybody
    asleep: bool = False  # its owner put it to sleep: only a request that waits for it, or he, wakes it
    stranded: str | None = None  # wanted, and no live node can run it: why, for anybody
    lost: tuple[str, ...] = ()  # nodes whose loss was told in its events, and not yet their return
    history: History | None = None  # kept with `warm_reserve` only
    woken_at: int | None = None  # when its owner woke it; None: not, or what that asked for is on its way


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A replica as a worker sees it: where to connect, and whether new requests may go there."""

    id: str
    host: str
    port: int
    ready: bool = True  # False: draining, for requests in flight only
    ready_at: int | None = None  # the first time
    phases: StartPhases | None = None  # of its start, without the first byte, which workers measure
    node: str = ""  # that it runs on; "": written before that was said


@dataclass(frozen=True, slots=True)
class Backend:
    """All that a worker must know of a service to forward or to hold (kind `backend`, id = the service's id).

    Derived by control from service, deployment and replicas, and written in the same commit as the change of the
    replicas, so that one revision says everything (law 3).
    """

    service: str
    namespace: str
    name: str
    phase: Phase = Phase.SERVING
    reason: str | None = None  # REFUSING: what the client is told, whoever he is
    retry_after: int = 1  # REFUSING: seconds
    endpoints: tuple[Endpoint, ...] = ()
    concurrency: int = 0
    hold_timeout: int | None = None
    affinity: str = "none"  # these three as `Scaling` says
    hold_keepalive: bool = False
    waiting_page: bool = True


@dataclass(frozen=True, slots=True)
class Route:
    """Where a host leads (kind `route`, id = the host in lower case, without port).

    `deleted_at` set: the host answers 503 until the tombstone's time to live is over. `redirect`: requests are sent on
    to this host with 308. The route of a custom domain is also who holds it: its `namespace`, tombstones included.
    """

    service: str
    namespace: str
    name: str
    deleted_at: int | None = None
    redirect: str | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """What a node can run: services of its region, with so many GPUs of a type, of a repository or an image."""

    driver: str
    region: str
    gpus: Mapping[str, int] = field(default_factory=dict)
    images: bool = False
    repos: bool = True


@dataclass(frozen=True, slots=True)
class Node:
    """A node that runs replicas (kind `node`, id = the node's).

    `offer` is written by its own control. `lost_at` is the leader's: the moment since which it was not heard, once that
    is too long ago; None: it lives, as far as anybody knows.
    """

    offer: Offer
    lost_at: int | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A credential (kind `key`, id = `<namespace>/<name>`, `*/<name>` for every namespace).

    `digest` is the SHA-256 of the random 32-byte secret, in hex: with 256 bits of entropy a slow hash adds nothing.
    """

    name: str
    namespace: str
    scope: str  # read | write | admin
    digest: str
    created_at: int
    expires_at: int | None = None
    used_at: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a service's state, with its reason (bulk, per service, the last 1,000 are kept)."""

    time: int
    kind: str  # e.g. deployment.failed, replica.ready, service.slept
    reason: str
    deployment: str | None = None
    replica: str | None = None
    phases: StartPhases | None = None  # of a start, as far as it came
    phase: str | None = None  # of a start that failed: the one that it failed in
