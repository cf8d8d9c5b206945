"""The shapes of the API's answers, as types: the views are checked against them, `/openapi.json` made from them."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, cast

from pydantic import Field
from pydantic.fields import FieldInfo
from typing_extensions import TypedDict

from activator.logs import Stream
from activator.status import STATUSES
from certs.status import STATES
from state.models import DeploymentState

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Count = Annotated[int, Field(ge=0)]


def _one_of(*choices: str) -> FieldInfo:
    """For a text that is one of some."""
    return cast("FieldInfo", Field(json_schema_extra={"enum": list(choices)}))


Status = Annotated[str, _one_of(*STATUSES)]
State = Annotated[str, _one_of(*(state.value for state in DeploymentState))]
DomainStatus = Annotated[str, _one_of(*STATES)]
Cause = Annotated[str, _one_of("create", "update", "redeploy", "rollback", "push")]
Scope = Annotated[str, _one_of("read", "write", "admin")]
Limits = Annotated[str, _one_of("enforced", "none")]
Affinity = Annotated[str, _one_of("none", "cookie", "prefix")]
Output = Annotated[str, _one_of(*(stream.value for stream in Stream))]


class FieldErrorView(TypedDict):
    """One bad field, by its path with dots."""

    field: str
    message: str


class ProblemView(TypedDict):
    """RFC 9457. `errors` names every bad field at once."""

    title: str
    status: int
    detail: str
    request_id: str
    errors: NotRequired[list[FieldErrorView]]


class ReplicaCounts(TypedDict):
    desired: Count
    ready: Count
    starting: Count
    unhealthy: Count
    draining: Count


class DeploymentView(TypedDict):
    """`commit` of a repo, `digest` of an image."""

    id: str
    state: State
    cause: Cause
    commit: str | None
    digest: str | None
    created_at: Time
    finished_at: Time | None
    reason: str | None


class DeploymentPage(TypedDict):
    """Newest first."""

    items: list[DeploymentView]
    page: int
    limit: int
    total: Count


class ScalingView(TypedDict):
    concurrency: int
    target_concurrency: int
    target_requests_per_second: int | None
    target_queue_delay_ms: int | None
    idle_timeout: float
    scale_down_delay: int
    hold_timeout: float
    startup_timeout: int
    affinity: Affinity
    hold_keepalive: bool
    waiting_page: bool
    warm_reserve: bool


class DomainRecord(TypedDict):
    """What DNS should say, and what it was last heard to say. Several values of one type are joined by ", "."""

    type: str
    name: str
    value: str
    observed: str | None


class CertificateView(TypedDict):
    """What a domain is served with. `issuer`: `internal`, the URL of an ACME directory, or `uploaded`; `renew_at`: null
    if it will not be renewed; `trusted`: clients that know only the usual authorities accept it."""

    issuer: str
    not_before: Time
    not_after: Time
    renew_at: Time | None
    trusted: bool


class DomainView(TypedDict):
    """`reason` is for programs, `detail` for people. `redirect_to`: where requests are sent on to. `next_check_at`:
    at the latest; null if only its owner has it looked at again."""

    name: str
    status: DomainStatus
    reason: str | None
    detail: str | None
    redirect_to: str | None
    records: list[DomainRecord]
    certificate: CertificateView | None
    created_at: Time
    verified_at: Time | None
    checked_at: Time | None
    next_check_at: Time | None


class DomainList(TypedDict):
    """Oldest first."""

    items: list[DomainView]


class RunView(TypedDict):
    repo: str | None
    branch: str | None
    image: str | None
    gpu: str
    gpu_count: int | None
    cpu: int
    memory: int
    port: int
    health_check_path: str
    env: dict[str, str]


class CapacityView(TypedDict):
    min_replicas: int
    max_replicas: int
    target_gpu_utilization: int
    region: str
    custom_domain: str | None
    scaling: ScalingView


class ServiceView(RunView, CapacityView):
    """`deployment`: the one that serves, else the newest; `rollout`: one in progress beside it, or failed after it.

    `domains`: all of them; `domain`: that of `custom_domain`.
    """

    id: str
    namespace: str
    name: str
    status: Status
    endpoint: str
    limits: Limits
    replicas: ReplicaCounts
    deployment: DeploymentView | None
    rollout: DeploymentView | None
    domain: DomainView | None
    domains: list[DomainView]
    created_at: Time
    updated_at: Time


class WebhookView(TypedDict):
    """Where a forge tells of pushes, and the secret that it signs them with, shown this once."""

    url: str
    secret: str


class ReceptionView(TypedDict):
    """What became of a delivery. `deployment`: the id of the one that began."""

    action: Literal["redeploy", "queued", "none"]
    reason: str
    deployment: str | None


class NewServiceView(ServiceView):
    """`webhook`: of a repo."""

    webhook: WebhookView | None


class ServicePage(TypedDict):
    items: list[ServiceView]
    page: int
    limit: int
    total: Count


class KeyView(TypedDict):
    """A key without its secret."""

    name: str
    namespace: str
    scope: Scope
    created_at: Time
    expires_at: Time | None
    used_at: Time | None


class NewKeyView(KeyView):
    """`key`: the whole token, `NAME$SECRET`, shown this once."""

    key: str


class OwnKeyView(KeyView):
    """`namespaces`: those that the key reaches and that have services."""

    namespaces: list[str]


class KeyList(TypedDict):
    items: list[KeyView]


class LogView(TypedDict):
    time: Time
    replica: str | None
    deployment: str | None
    stream: Output
    line: str
    partial: NotRequired[Literal[True]]


class LogPage(TypedDict):
    """Oldest first. `next`: the cursor behind what was looked at; `truncated`: older lines were left out, or, after a
    cursor, lines that followed it are not kept any more. `partial`: the line goes on in the next one of its stream."""

    items: list[LogView]
    next: str
    truncated: bool


class PhasesView(TypedDict):
    """Of a replica's start, one after the other, in milliseconds; those that it had, and their sum."""

    decide_ms: NotRequired[float]
    schedule_ms: NotRequired[float]
    fetch_ms: NotRequired[float]
    start_ms: NotRequired[float]
    ready_ms: NotRequired[float]
    first_byte_ms: NotRequired[float]
    total_ms: float


class EventView(TypedDict):
    """`phases`: of a start, as far as it came. `phase`: the one that it failed in."""

    time: Time
    kind: str
    reason: str
    deployment: str | None
    replica: str | None
    phases: NotRequired[PhasesView]
    phase: NotRequired[str]


class EventList(TypedDict):
    """Oldest first. `next`: the cursor behind what was looked at; `truncated`: older events were left out."""

    items: list[EventView]
    next: str
    truncated: bool


class AliveView(TypedDict):
    status: Literal["ok"]


class ReadyView(TypedDict):
    """`reasons` speak against readiness, `warnings` don't."""

    status: Literal["ready", "unready"]
    reasons: list[str]
    warnings: list[str]
