"""The bodies that the API takes (SPEC section 2, Create and Update).

Laws kept here: every bad field is named at once, unknown ones included (400); what holds between fields is judged only
when each is valid by itself (422); integers are JSON integers (`true`, `1.0`, `"1"` are not); `null` is absent, but
where it says that something goes: `custom_domain` and members of `scaling` in an update, names of `env` in its patch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, RootModel, ValidationError, model_validator
from pydantic_core import CoreSchema, ErrorDetails

from control.contract import times
from control.contract.fields import (
    NOT_UNICODE,
    Affinity,
    Branch,
    Chain,
    Concurrency,
    Cpu,
    Delay,
    Domain,
    Env,
    EnvName,
    EnvValue,
    Expiry,
    Flag,
    Gpu,
    GpuCount,
    HealthPath,
    IdleTimeout,
    Image,
    KeyName,
    KeyNamespace,
    MaxReplicas,
    Memory,
    MinReplicas,
    Name,
    Port,
    PrivateKey,
    Region,
    Repo,
    Scope,
    Seconds,
    TargetConcurrency,
    TargetDelay,
    TargetRate,
    Text,
    Utilization,
    error_message,
    error_path,
    is_unicode,
)
from control.contract.problem import FieldError, bad_request
from control.domains import BadDomain, Platform, custom_domain
from control.services import names

M = TypeVar("M", bound=BaseModel)


class Body(BaseModel):
    """A JSON object of known fields; members that are null count as absent, but for those that are `nullable`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    nullable: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Every field that may be absent may be null."""
        shown = handler.resolve_ref_schema(handler(schema))
        for name, field in shown.get("properties", {}).items():
            if name not in shown.get("required", ()) and {"type": "null"} not in field.get("anyOf", ()):
                about = {key: field.pop(key) for key in ("default", "title", "description") if key in field}
                shown["properties"][name] = {"anyOf": [field, {"type": "null"}], **about}
        return shown

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None or name in cls.nullable}


class ScalingBody(Body):
    concurrency: Concurrency = 0
    target_concurrency: TargetConcurrency = 100
    target_requests_per_second: TargetRate | None = None
    target_queue_delay_ms: TargetDelay | None = None
    idle_timeout: IdleTimeout | None = None
    scale_down_delay: Delay = 60
    hold_timeout: Seconds | None = None
    startup_timeout: Seconds = 600
    affinity: Affinity = "none"
    hold_keepalive: Flag = False
    waiting_page: Flag = True
    warm_reserve: Flag = False


class CreateBody(Body):
    """`POST /auth/v1/seed/{namespace}/services`. Exactly one of `repo` and `image`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "hello", "repo": "acme/hello", "gpu": "none", "min_replicas": 0, "env": {"MODE": "a"}}
            ],
        }
    )

    name: Name
    repo: Repo | None = None
    image: Image | None = None
    branch: Branch | None = None
    gpu: Gpu
    gpu_count: GpuCount | None = None
    cpu: Cpu = 2
    memory: Memory = 4
    min_replicas: MinReplicas = 1
    max_replicas: MaxReplicas | None = None
    target_gpu_utilization: Utilization = 70
    port: Port = 8080
    health_check_path: HealthPath = "/"
    env: Env = {}
    region: Region | None = None
    custom_domain: Domain | None = None
    scaling: ScalingBody = ScalingBody()

    def together(self) -> list[FieldError]:
        """What is wrong between fields that are each valid (SPEC section 2, Errors: 422)."""
        errors = []
        if self.repo is not None and self.image is not None:
            errors += [FieldError("repo", "not with image"), FieldError("image", "not with repo")]
        if self.repo is None and self.image is None:
            errors += [FieldError(field, "repo or image is required") for field in ("repo", "image")]
        if self.branch is not None and self.repo is None:
            errors.append(FieldError("branch", "only with repo"))
        if self.gpu == "none" and self.gpu_count is not None:
            errors.append(FieldError("gpu_count", "only with a gpu"))
        if self.max_replicas is not None and self.min_replicas > self.max_replicas:
            errors.append(FieldError("min_replicas", f"is more than max_replicas, {self.max_replicas}"))
        return errors


class ScalingChange(Body):
    """The members of `scaling` that an update changes; `null` puts one back to its default."""

    nullable = frozenset(ScalingBody.model_fields)

    concurrency: Concurrency | None = None
    target_concurrency: TargetConcurrency | None = None
    target_requests_per_second: TargetRate | None = None
    target_queue_delay_ms: TargetDelay | None = None
    idle_timeout: IdleTimeout | None = None
    scale_down_delay: Delay | None = None
    hold_timeout: Seconds | None = None
    startup_timeout: Seconds | None = None
    affinity: Affinity | None = None
    hold_keepalive: Flag | None = None
    waiting_page: Flag | None = None
    warm_reserve: Flag | None = None


class UpdateBody(Body):
    """`PUT /auth/v1/seed/{namespace}/services/{name}`. What is absent stays as it is; `env` replaces all of it.

    `custom_domain`: null removes it; whether it was given at all is in `model_fields_set`.
    """

    nullable = frozenset({"custom_domain"})

    min_replicas: MinReplicas | None = None
    max_replicas: MaxReplicas | None = None
    target_gpu_utilization: Utilization | None = None
    env: Env | None = None
    branch: Branch | None = None
    custom_domain: Domain | None = None
    scaling: ScalingChange | None = None
    image: Image | None = None
    port: Port | None = None
    health_check_path: HealthPath | None = None
    cpu: Cpu | None = None
    memory: Memory | None = None


class EnvBody(RootModel[dict[EnvName, EnvValue | None]]):
    """`PATCH /auth/v1/seed/{namespace}/services/{name}/env`: names with new values; `null` removes one."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, json_schema_extra={"additionalProperties": False})


class RollbackBody(Body):
    """`POST /auth/v1/seed/{namespace}/services/{name}/rollback`. Without a `deployment`: the one before."""

    deployment: Text | None = None


class NoBody(Body):
    """Of calls that take none: an empty object at most."""


class KeyBody(Body):
    """`POST /auth/v1/keys`. `namespace`: the caller's own if absent; `expires`: `90d` and the like, or ISO 8601."""

    name: KeyName
    namespace: KeyNamespace | None = None
    scope: Scope
    expires: Expiry | None = None


class DomainBody(Body):
    """`POST /auth/v1/seed/{namespace}/services/{name}/domains`. `redirect_to`: another domain of the service, to which
    requests are sent on; null: none; absent: as it is."""

    nullable = frozenset({"redirect_to"})

    domain: Domain
    redirect_to: Domain | None = None


class CertificateBody(Body):
    """`PUT …/domains/{domain}/certificate`: PEM, the leaf first, and its key without a password."""

    certificate: Chain
    key: PrivateKey = Field(repr=False)


_FIXED: Final = CreateBody.model_fields.keys() - UpdateBody.model_fields.keys()


def read_create(data: Any, platform: Platform) -> CreateBody:
    """A create's body; `custom_domain` comes out in A-labels. Raises Problem 400."""
    return read(CreateBody, data, {"custom_domain": lambda text: _domain(text, platform)})


def read_update(data: Any, platform: Platform) -> UpdateBody:
    """An update's body; `custom_domain` comes out in A-labels. Raises Problem 400."""
    return read(UpdateBody, data, {"custom_domain": lambda text: _domain(text, platform)})


def read_domain(data: Any, platform: Platform) -> DomainBody:
    """A domain to be added; both names come out in A-labels. Raises Problem 400."""
    read_name = functools.partial(_domain, platform=platform)
    return read(DomainBody, data, {"domain": read_name, "redirect_to": read_name})


def read_key(data: Any, now: int) -> KeyBody:
    """A new key's body; `expires` comes out as ISO 8601. Raises Problem 400."""
    return read(KeyBody, data, {"namespace": _key_namespace, "expires": lambda text: _expiry(text, now)})


def read(model: type[M], data: Any, more: Mapping[str, Callable[[str], str]] = MappingProxyType({})) -> M:
    """Validate by the model and by what it can't know (`more`: per text field). Raises Problem 400 with every error."""
    errors, normal = [], {}
    for field, normalize in more.items():
        if isinstance(data, dict) and isinstance(data.get(field), str):
            try:
                normal[field] = normalize(_unicode(data[field]))
            except ValueError as error:
                errors.append(FieldError(field, str(error)))
    try:
        body = model.model_validate({**data, **normal} if isinstance(data, dict) else data)
    except ValidationError as error:
        # a key of `env` can be wrong at once in itself and in its value: one message per field is enough
        found = {error_path(e): _field_error(e, model) for e in reversed(error.errors(include_url=False))}
        raise bad_request(sorted([*errors, *found.values()], key=lambda e: e.field)) from None
    if errors:
        raise bad_request(errors)
    return body


def _field_error(error: ErrorDetails, model: type[BaseModel]) -> FieldError:
    field = error_path(error)
    fixed = model is UpdateBody and error["type"] == "extra_forbidden" and field in _FIXED
    return FieldError(field, "fixed at creation" if fixed else error_message(error))


def _unicode(text: str) -> str:
    """JSON can hold half of a surrogate pair, which is no character. Raises ValueError."""
    if not is_unicode(text):
        raise ValueError(NOT_UNICODE)
    return text


def _domain(text: str, platform: Platform) -> str:
    try:
        return custom_domain(text, platform)
    except BadDomain as error:
        raise ValueError(str(error)) from error


def _key_namespace(text: str) -> str:
    if text != names.EVERY_NAMESPACE and (reason := names.namespace_error(text)):
        raise ValueError(reason)
    return text


def _expiry(text: str, now: int) -> str:
    at = times.expiry(text, now)
    if at <= now:
        raise ValueError("must lie in the future")
    return times.iso(at)
