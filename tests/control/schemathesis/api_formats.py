"""What `/openapi.json` can't say: values of the formats that are our own, and which parameters exclude each other."""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any

import schemathesis
from hypothesis import strategies
from schemathesis import Case, GenerationMode, HookContext

_WORD = strategies.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
_FORMATS = {
    "git-branch": strategies.builds("{}/{}".format, _WORD, _WORD),
    "image-reference": strategies.builds("registry.example.com/{}:{}".format, _WORD, _WORD),
    "custom-domain": strategies.builds("{}.{}.com".format, _WORD, _WORD),
    "date-time": strategies.datetimes(datetime(1971, 1, 1), datetime(2998, 1, 1)).map(
        "{:%Y-%m-%dT%H:%M:%S.%fZ}".format
    ),
    "pem-certificates": strategies.builds("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n".format, _WORD),
    "pem-private-key": strategies.builds("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n".format, _WORD),
    "expiry": strategies.builds("{}d".format, strategies.integers(1, 9999)),
    "namespace-of-key": _WORD | strategies.just("*"),
}
_numbers = itertools.count()
for _name, _strategy in _FORMATS.items():
    schemathesis.openapi.format(_name, _strategy)


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """What is to be accepted has one name of a parameter, a timeout only with a wait, integers as such, and an end.

    An Idempotency-Key is a new one for each request, since under the same one another request is refused; every second
    `If-Match` fits.
    """
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    for aliases in (("limit", "per_page"), ("limit", "lines", "tail")):
        given = [name for name in aliases if name in case.query]
        for name in given[1:]:
            del case.query[name]
    if "wait" not in case.query:
        case.query.pop("timeout", None)
    if "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = f"number-{next(_numbers)}"
    if "If-Match" in case.headers and next(_numbers) % 2:
        case.headers["If-Match"] = "*"
    if "follow" in case.query:
        case.query["follow"] = "false"  # streams have tests of their own
    case.body = _with_integers(case.body)
    if case.method.upper() == "POST" and case.path.endswith("/services"):
        _agree(case.body)


def _agree(body: dict[str, Any]) -> None:
    """What is to be created has a repository, and fields that go together: the document can't say it."""
    body.pop("image", None)
    body["repo"] = body.get("repo") or "acme/hello"
    if body.get("gpu") == "none":
        body.pop("gpu_count", None)
    body["max_replicas"] = max(body.get("max_replicas") or 1, body.get("min_replicas") or 1)


def _with_integers(value: Any) -> Any:
    """JSON Schema takes 1.0 for an integer, the API does not."""
    match value:
        case dict():
            return {name: _with_integers(member) for name, member in value.items()}
        case float() if value.is_integer():
            return int(value)
        case _:
            return value
