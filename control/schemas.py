"""The bodies that the API takes: types, bounds and defaults of SPEC section 2, Create.

Laws kept here: every bad field is named at once, unknown ones included (400); what holds between fields is judged only
when each is valid by itself (422); integers are JSON integers (`true`, `1.0`, `"1"` are not); `null` is absent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from control import names, refs, times
from control.domains import BadDomain, Platform, custom_domain
from control.problem import FieldError, bad_request
from control.site import GPUS, REGIONS

MASK: Final = "***"
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENV_COUNT: Final = 256
_ENV_BYTES: Final = 32 * 1024
_PATH_LENGTH: Final = 1024

_NOT_UNICODE: Final = "must be valid Unicode"

M = TypeVar("M", bound="Body")


def _checked(why_not: Callable[[str], str | None]) -> AfterValidator:
    """A validator from a function that says what is wrong."""

    def check(value: str) -> str:
        if reason := why_not(value) if _is_unicode(value) else _NOT_UNICODE:
            raise PydanticCustomError("refused", "{reason}", {"reason": reason})
        return value

    return AfterValidator(check)


def _one_of(*choices: int | str) -> AfterValidator:
    def check(value: Any) -> Any:
        if isinstance(value, str) and not _is_unicode(value):
            raise PydanticCustomError("refused", "{reason}", {"reason": _NOT_UNICODE})
        if value not in choices:
            listed = ", ".join(map(str, choices))
            raise PydanticCustomError("refused", "{reason}", {"reason": f"must be one of {listed}"})
        return value

    return AfterValidator(check)


def _path_error(path: str) -> str | None:
    if not path.startswith("/"):
        return "must start with /"
    if len(path) > _PATH_LENGTH:
        return f"must be at most {_PATH_LENGTH} characters"
    if not all("\x21" <= c <= "\x7e" for c in path) or "#" in path:
        return "must be a request target: visible ASCII characters without #; percent-encode the others"
    return None


def _env_value_error(value: str) -> str | None:
    if value == MASK:
        return f"is {MASK}, as masked when read: send the real value"
    if "\0" in value:
        return "must not contain NUL"
    if len(value.encode()) > _ENV_BYTES:
        return "must be at most 32 KiB"
    return None


def _env_error(env: Mapping[str, str]) -> Mapping[str, str]:
    if len(env) > _ENV_COUNT:
        raise PydanticCustomError("refused", "{reason}", {"reason": f"must have at most {_ENV_COUNT} names"})
    return env


def _env_name_error(name: str) -> str | None:
    if not _ENV_NAME.fullmatch(name):
        return "must be a name of A-Z, a-z, 0-9 and _, not starting with a digit"
    return "is set by the platform" if name == "PORT" else None


Text = Annotated[str, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
EnvName = Annotated[str, Field(strict=True), _checked(_env_name_error)]
EnvValue = Annotated[str, Field(strict=True), _checked(_env_value_error)]
Seconds = Annotated[int, Field(strict=True, ge=1, le=3600)]


class Body(BaseModel):
    """A JSON object of known fields; members that are null count as absent."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, dict) else data


class ScalingBody(Body):
    concurrency: Annotated[int, Field(strict=True, ge=0, le=10_000)] = 0
    target_concurrency: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 100
    idle_timeout: Annotated[int, Field(strict=True, ge=1, le=86_400)] | None = None
    scale_down_delay: Annotated[int, Field(strict=True, ge=0, le=3600)] = 60
    hold_timeout: Seconds | None = None
    startup_timeout: Seconds = 600
    affinity: Annotated[Text, _one_of("none", "cookie")] = "none"


class CreateBody(Body):
    """`POST /auth/v1/seed/{namespace}/services`."""

    name: Annotated[Text, _checked(names.service_name_error)]
    repo: Annotated[Text, _checked(refs.repo_error)] | None = None
    image: Annotated[Text, _checked(refs.image_error)] | None = None
    branch: Annotated[Text, _checked(refs.branch_error)] | None = None
    gpu: Annotated[Text, _one_of(*GPUS)]
    gpu_count: Annotated[Whole, _one_of(1, 2, 4, 8)] | None = None
    cpu: Annotated[Whole, _one_of(2, 4, 8, 16, 32, 64)] = 2
    memory: Annotated[int, Field(strict=True, ge=1, le=1024)] = 4
    min_replicas: Annotated[int, Field(strict=True, ge=0, le=100)] = 1
    max_replicas: Annotated[int, Field(strict=True, ge=1, le=100)] | None = None
    target_gpu_utilization: Annotated[int, Field(strict=True, ge=10, le=95)] = 70
    port: Annotated[int, Field(strict=True, ge=1, le=65_535)] = 8080
    health_check_path: Annotated[Text, _checked(_path_error)] = "/"
    env: Annotated[dict[EnvName, EnvValue], AfterValidator(_env_error)] = {}
    region: Annotated[Text, _one_of(*REGIONS)] | None = None
    custom_domain: Text | None = None
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


class KeyBody(Body):
    """`POST /auth/v1/keys`. `namespace`: the caller's own if absent; `expires`: `90d` and the like, or ISO 8601."""

    name: Annotated[Text, _checked(names.key_name_error)]
    namespace: Text | None = None
    scope: Annotated[Text, _one_of("read", "write", "admin")]
    expires: Text | None = None


def read_create(data: Any, platform: Platform) -> CreateBody:
    """A create's body; `custom_domain` comes out in A-labels. Raises Problem 400."""
    return _read(CreateBody, data, {"custom_domain": lambda text: _domain(text, platform)})


def read_key(data: Any, now: int) -> KeyBody:
    """A new key's body; `expires` comes out as ISO 8601. Raises Problem 400."""
    return _read(KeyBody, data, {"namespace": _key_namespace, "expires": lambda text: _expiry(text, now)})


def _read(model: type[M], data: Any, more: Mapping[str, Callable[[str], str]]) -> M:
    """Validate by the model and by what it can't know (`more`: per text field), collecting every error."""
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
        found = {_path(e): FieldError(_path(e), _message(e)) for e in reversed(error.errors(include_url=False))}
        raise bad_request(sorted([*errors, *found.values()], key=lambda e: e.field)) from None
    if errors:
        raise bad_request(errors)
    return body


def _unicode(text: str) -> str:
    """JSON can hold half of a surrogate pair, which is no character. Raises ValueError."""
    if not _is_unicode(text):
        raise ValueError(_NOT_UNICODE)
    return text


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


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


def _path(error: ErrorDetails) -> str:
    return ".".join(str(part) for part in error["loc"] if part != "[key]") or "body"


def _message(error: ErrorDetails) -> str:
    """In the words of the API's users."""
    context = error.get("ctx", {})
    match error["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "unknown field"
        case "int_type" | "int_from_float" | "int_parsing_size":
            return "must be an integer"
        case "string_type":
            return "must be a string"
        case "string_unicode":
            return _NOT_UNICODE
        case "dict_type" | "model_type":
            return "must be an object"
        case "greater_than_equal":
            return f"must be {context['ge']} or more"
        case "less_than_equal":
            return f"must be {context['le']} or less"
        case _:
            return error["msg"]
