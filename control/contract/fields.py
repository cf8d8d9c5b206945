"""The types of fields in the API's bodies, with their bounds (SPEC section 2, Create) in the words of its users.

Each rule says in JSON Schema what it takes, for `/openapi.json`; where that language can't, by a `format` of our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from certs import uploads
from control.services import names, refs
from control.site import GPUS, REGIONS

MASK: Final = "***"
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENV_NAME_LENGTH: Final = 256
_ENV_BYTES: Final = 32 * 1024  # of one value
ENV_COUNT: Final = 256
ENV_TOTAL: Final = 1 << 20  # bytes; execve(2) takes 2 MiB of arguments and environment with the usual stack
_PATH_LENGTH: Final = 1024
_PATH_PATTERN: Final = r"^/[\x21\x22\x24-\x7e]*$"
_NO_NUL: Final = r"^[^\x00]*$"

NOT_UNICODE: Final = "must be valid Unicode"


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """A check of a value of the right type, and its JSON Schema."""

    check: Callable[[Any], Any]
    schema: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), **self.schema}


def checked(why_not: Callable[[str], str | None], **schema: Any) -> Rule:
    """From a function that says what is wrong."""

    def check(value: str) -> str:
        if reason := why_not(value) if is_unicode(value) else NOT_UNICODE:
            raise PydanticCustomError("refused", "{reason}", {"reason": reason})
        return value

    return Rule(check, schema)


def one_of(*choices: int | str) -> Rule:
    def check(value: Any) -> Any:
        if isinstance(value, str) and not is_unicode(value):
            raise PydanticCustomError("refused", "{reason}", {"reason": NOT_UNICODE})
        if value not in choices:
            listed = ", ".join(map(str, choices))
            raise PydanticCustomError("refused", "{reason}", {"reason": f"must be one of {listed}"})
        return value

    return Rule(check, {"enum": list(choices)})


def path_error(path: str) -> str | None:
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


def env_size(values: Mapping[str, int]) -> int:
    """The bytes of an environment as a program gets it, `NAME=value` and a NUL each; `values`: bytes by name."""
    return sum(len(name.encode()) + value + 2 for name, value in values.items())


def _env_error(env: Mapping[str, str]) -> Mapping[str, str]:
    reasons = []
    if len(env) > ENV_COUNT:
        reasons.append(f"must have at most {ENV_COUNT} names")
    if env_size({name: len(value.encode()) for name, value in env.items()}) > ENV_TOTAL:
        reasons.append("must be at most 1 MiB in all")
    if reasons:
        raise PydanticCustomError("refused", "{reason}", {"reason": ", and ".join(reasons)})
    return env


def _env_name_error(name: str) -> str | None:
    if not _ENV_NAME.fullmatch(name):
        return "must be a name of A-Z, a-z, 0-9 and _, not starting with a digit"
    if len(name) > _ENV_NAME_LENGTH:
        return f"must be at most {_ENV_NAME_LENGTH} characters"
    return "is set by the platform" if name == "PORT" else None


_env_name: Final = checked(_env_name_error, pattern=rf"^(?!PORT$)[A-Za-z_][A-Za-z0-9_]{{0,{_ENV_NAME_LENGTH - 1}}}$")
_env_value: Final = checked(_env_value_error, pattern=_NO_NUL, maxLength=_ENV_BYTES, **{"not": {"const": MASK}})

Text = Annotated[str, Field(strict=True)]
Name = Annotated[Text, checked(names.service_name_error, pattern=names.SERVICE_PATTERN)]
KeyName = Annotated[Text, checked(names.key_name_error, pattern=names.KEY_PATTERN)]
Scope = Annotated[Text, one_of("read", "write", "admin")]
Repo = Annotated[Text, checked(refs.repo_error, pattern=refs.REPO_PATTERN, maxLength=refs.REPO_LENGTH)]
Image = Annotated[Text, checked(refs.image_error, format="image-reference")]
Branch = Annotated[Text, checked(refs.branch_error, format="git-branch", minLength=1, maxLength=refs.BRANCH_LENGTH)]
Gpu = Annotated[Text, one_of(*GPUS)]
GpuCount = Annotated[int, Field(strict=True), one_of(1, 2, 4, 8)]
Cpu = Annotated[int, Field(strict=True), one_of(2, 4, 8, 16, 32, 64)]
Memory = Annotated[int, Field(strict=True, ge=1, le=1024)]
MinReplicas = Annotated[int, Field(strict=True, ge=0, le=100)]
MaxReplicas = Annotated[int, Field(strict=True, ge=1, le=100)]
Utilization = Annotated[int, Field(strict=True, ge=10, le=95)]
Port = Annotated[int, Field(strict=True, ge=1, le=65_535)]
HealthPath = Annotated[Text, checked(path_error, pattern=_PATH_PATTERN, maxLength=_PATH_LENGTH)]
Region = Annotated[Text, one_of(*REGIONS)]
EnvName = Annotated[str, Field(strict=True), _env_name]
EnvValue = Annotated[
    str,
    Field(strict=True),
    _env_value,
]
Env = Annotated[
    dict[EnvName, EnvValue],
    Rule(
        _env_error,
        {"maxProperties": ENV_COUNT, "additionalProperties": False, "description": "At most 1 MiB in all."},
    ),
]


def _longest(length: int, what: str) -> Rule:
    """A text that is judged by what it says; `what`: its format."""

    def why_not(text: str) -> str | None:
        return f"must be at most {length} characters" if len(text) > length else None

    return checked(why_not, format=what, maxLength=length)


Chain = Annotated[Text, _longest(uploads.CHAIN_LENGTH, "pem-certificates")]
PrivateKey = Annotated[Text, _longest(uploads.KEY_LENGTH, "pem-private-key")]

# checked by what only the reader of the whole body knows (`control.contract.schemas`)
Domain = Annotated[Text, Field(json_schema_extra={"format": "custom-domain"})]
Expiry = Annotated[Text, Field(json_schema_extra={"format": "expiry"})]
KeyNamespace = Annotated[Text, Field(json_schema_extra={"format": "namespace-of-key"})]

Concurrency = Annotated[int, Field(strict=True, ge=0, le=10_000)]
TargetConcurrency = Annotated[int, Field(strict=True, ge=1, le=10_000)]
TargetRate = Annotated[int, Field(strict=True, ge=1, le=100_000)]
TargetDelay = Annotated[int, Field(strict=True, ge=1, le=60_000)]
IdleTimeout = Annotated[int, Field(strict=True, ge=1, le=86_400)]
Delay = Annotated[int, Field(strict=True, ge=0, le=3600)]
Seconds = Annotated[int, Field(strict=True, ge=1, le=3600)]
Affinity = Annotated[Text, one_of("none", "cookie", "prefix")]
Flag = Annotated[bool, Field(strict=True)]


def is_unicode(text: str) -> bool:
    """JSON can hold half of a surrogate pair, which is no character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def error_path(error: ErrorDetails) -> str:
    """With dots; `body` for all of it. A member of `env` whose name is wrong has `[key]` behind that name."""
    path = [str(part) for part in error["loc"]]
    if len(path) > 1 and path[-1] == "[key]" and error["type"] != "extra_forbidden":
        path.pop()
    return ".".join(path) if path else "body"


def error_message(error: ErrorDetails) -> str:
    """In the words of the API's users."""
    context = error.get("ctx", {})
    match error["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "unknown field"
        case "int_type" | "int_from_float" | "int_parsing_size":
            return "must be an integer"
        case "bool_type":
            return "must be true or false"
        case "string_type":
            return "must be a string"
        case "string_unicode":
            return NOT_UNICODE
        case "dict_type" | "model_type":
            return "must be an object"
        case "greater_than_equal":
            return f"must be {context['ge']} or more"
        case "less_than_equal":
            return f"must be {context['le']} or less"
        case _:
            return error["msg"]
