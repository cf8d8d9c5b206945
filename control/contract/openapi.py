"""`/openapi.json`: OpenAPI 3.1, made from the declared operations (`contract.operations`) and the models of bodies and
answers, so that it can't say anything else than the code.
"""

from __future__ import annotations

import functools
import http
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from aiohttp import web
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from control.contract.operations import Content, Operation, declared
from control.contract.problem import CONTENT_TYPE
from control.contract.shapes import ProblemView
from control.services import names

Document = dict[str, Any]
_Operations = tuple[tuple[str, str, Operation], ...]  # path, method
OPENAPI: Final = web.AppKey("openapi", bytes)

_REFERENCE: Final = "#/components/schemas/{model}"
_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream"
_STRING: Final[Document] = {"type": "string"}
_PATH: Final[Mapping[str, Document]] = {
    "namespace": {
        "type": "string",
        "pattern": names.NAMESPACE_PATTERN,
        "not": {"enum": sorted(names.RESERVED_NAMESPACES)},
        "examples": ["acme"],
    },
    "name": {"type": "string", "minLength": 1, "examples": ["hello"]},
    "domain": {"type": "string", "minLength": 1, "examples": ["www.acme.com"]},
}
_HEADERS: Final[Mapping[str, str]] = {
    "Allow": "The methods of this path.",
    "ETag": "A validator of the answer: `If-None-Match` takes it; that of a service, `If-Match` of a write, too.",
    "Link": "RFC 8288: first, prev, next and last page.",
    "Location": "Where what was made can be read.",
    "Retry-After": "Seconds to wait.",
    "WWW-Authenticate": "The schemes of credentials.",
    "X-Request-Id": "Finds the request in the node's log.",
    "RateLimit": "What is left of the quota, and in how many seconds it is whole again.",
    "RateLimit-Policy": "The quota and its window in seconds.",
    "Idempotent-Replayed": "The answer was given to an earlier request with this Idempotency-Key.",
}
_IDEMPOTENCY: Final[Document] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A repeated request with this key gets the first one's answer, for 24 hours.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
_LAST_EVENT_ID: Final[Document] = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "With `follow`: the id of the last event that was seen; what came after it follows.",
    "schema": {"type": "string", "pattern": "^[0-9]{0,18}$"},
}
_WHY: Final[Mapping[int, str]] = {
    400: "Malformed, of the wrong type, out of range or unknown; `errors` names every bad field.",
    401: "No key, or one that is unknown, revoked or expired.",
    403: "The key is not for this namespace, or its scope does not reach that far.",
    404: "There is no such thing.",
    408: "The body did not come in time.",
    409: "In conflict with what is there.",
    412: "`If-Match` differs.",
    413: "The body is larger than 1 MiB.",
    415: "The body is not JSON.",
    422: "Each field is valid, but not together or not here.",
    429: "More requests than the quota of the key or its namespace, or more at once than its share.",
    500: "A fault of ours; the request id finds it in the log.",
    503: "The store can't be reached.",
}


def serialized(routes: Iterable[web.AbstractRoute], version: str) -> bytes:
    """The document of these routes, as it is answered."""
    operations = sorted(_operations(routes), key=lambda found: (found[0], found[1]))
    return _serialized(tuple(operations), version)


@functools.lru_cache(maxsize=1)
def _serialized(operations: _Operations, version: str) -> bytes:
    """Kept for the next application of the process: making it takes 100 ms."""
    return json.dumps(_document(operations, version), ensure_ascii=False, separators=(",", ":")).encode()


def _document(operations: _Operations, version: str) -> Document:
    schemas, components = _schemas(operation for _, _, operation in operations)
    paths: Document = {}
    for path, method, operation in operations:
        paths.setdefault(path, {})[method] = _Page(path, method, operation, schemas).document()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Wakegate Services API",
            "version": version,
            "description": "Auto-scaling HTTP services: create, update, watch, delete.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {str(status): _problem(status) for status in _WHY},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer NAME$SECRET`"},
                "apiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`Authorization: API-Key NAME$SECRET`",
                },
            },
        },
    }


def _operations(routes: Iterable[web.AbstractRoute]) -> Iterator[tuple[str, str, Operation]]:
    for route in routes:
        if route.method == "HEAD" or route.resource is None:
            continue  # GET says all about it
        if found := declared(route.handler):
            yield route.resource.canonical, route.method.lower(), found


_Key = tuple[int, JsonSchemaMode]


def _schemas(operations: Iterable[Operation]) -> tuple[dict[_Key, Document], Document]:
    """The schema of each model by its identity and direction, and the components that they refer to."""
    wanted: dict[_Key, tuple[_Key, JsonSchemaMode, TypeAdapter[Any]]] = {}
    for operation in operations:
        shapes = [shape for shape in operation.answers.values() if shape is not None and not isinstance(shape, Content)]
        for shape in [ProblemView, *shapes, *([operation.streams] if operation.streams else [])]:
            _want(wanted, shape, "serialization")
        if operation.body:
            _want(wanted, operation.body, "validation")
    by_key, definitions = TypeAdapter.json_schemas(
        list(wanted.values()), ref_template=_REFERENCE, schema_generator=GenerateJsonSchema
    )
    return {key: schema for (key, _), schema in by_key.items()}, definitions.get("$defs", {})


def _want(wanted: dict[_Key, tuple[_Key, JsonSchemaMode, TypeAdapter[Any]]], model: Any, mode: JsonSchemaMode) -> None:
    key: _Key = (id(model), mode)
    if key not in wanted:
        wanted[key] = (key, mode, TypeAdapter(model))


class _Page:
    """What the document says of one operation."""

    def __init__(self, path: str, method: str, operation: Operation, schemas: Mapping[_Key, Document]) -> None:
        self._path = path
        self._method = method
        self._operation = operation
        self._schemas = schemas

    def document(self) -> Document:
        operation = self._operation
        found: Document = {
            "operationId": f"{operation.group}_{operation.name.rpartition('.')[2]}",
            "tags": [operation.group],
            "summary": operation.summary,
            "description": operation.description,
            "security": [{"bearer": []}, {"apiKey": []}] if operation.needs else [],
            "parameters": [*self._path_parameters(), *self._query_parameters(), *self._header_parameters()],
        }
        if operation.body:
            schema = self._schemas[id(operation.body), "validation"]
            found["requestBody"] = {"required": operation.body_required, "content": {_JSON: {"schema": schema}}}
        found["responses"] = {
            **{str(status): self._success(status, shape) for status, shape in operation.answers.items()},
            **{str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(self._failures())},
        }
        return found

    @property
    def _idempotent(self) -> bool:
        """Whether an Idempotency-Key makes it so."""
        return self._method == "post" and self._operation.needs is not None

    def _path_parameters(self) -> Iterator[Document]:
        for name in re.findall(r"\{(\w+)\}", self._path):
            yield {"name": name, "in": "path", "required": True, "schema": _PATH.get(name, _STRING)}

    def _query_parameters(self) -> Iterator[Document]:
        for name, reader in self._operation.query.items():
            yield {"name": name, "in": "query", "schema": dict(reader.schema)}

    def _header_parameters(self) -> Iterator[Document]:
        if self._idempotent:
            yield _IDEMPOTENCY
        if self._operation.if_match:
            yield {
                "name": "If-Match",
                "in": "header",
                "schema": _STRING,
                "description": f"An ETag of the {'domain' if '{domain}' in self._path else 'service'}, or *.",
            }
        if 304 in self._operation.answers:
            yield {"name": "If-None-Match", "in": "header", "schema": _STRING, "description": "An ETag of before."}
        if self._operation.streams:
            yield _LAST_EVENT_ID

    def _failures(self) -> set[int]:
        operation = self._operation
        found = {400, 500, *operation.fails}
        if operation.needs:
            found |= {401, 403, 429, 503}
        if "{name}" in self._path:
            found.add(404)
        if operation.body:
            found |= {408, 413, 415}
        if operation.if_match:
            found.add(412)
        if self._idempotent:
            found |= {408, 409, 413, 422}
        return found - set(operation.answers)

    def _success(self, status: int, shape: Any) -> Document:
        fields = [
            "X-Request-Id",
            *self._operation.headers,
            *(["RateLimit", "RateLimit-Policy"] if self._operation.needs else []),
        ]
        if self._idempotent:
            fields.append("Idempotent-Replayed")
        answer: Document = {"description": http.HTTPStatus(status).phrase, "headers": _headers(fields)}
        if isinstance(shape, Content):
            answer["content"] = {shape.type: {"schema": _STRING}}
        elif shape is not None:
            answer["content"] = {_JSON: {"schema": self._schemas[id(shape), "serialization"]}}
        if self._operation.streams and status == http.HTTPStatus.OK:
            answer["content"][_EVENTS] = {"schema": _event(self._schemas[id(self._operation.streams), "serialization"])}
        return answer


def _event(data: Document) -> Document:
    """One server-sent event, whose data is JSON."""
    told = {"type": "string", "contentMediaType": _JSON, "contentSchema": data}
    return {"type": "object", "properties": {"id": _STRING, "event": _STRING, "data": told}, "required": ["data"]}


def _problem(status: int) -> Document:
    more = {401: ["WWW-Authenticate"], 429: ["Retry-After"], 503: ["Retry-After"]}
    return {
        "description": _WHY.get(status, http.HTTPStatus(status).phrase),
        "headers": _headers(["X-Request-Id", *more.get(status, [])]),
        "content": {CONTENT_TYPE: {"schema": {"$ref": _REFERENCE.format(model=ProblemView.__name__)}}},
    }


def _headers(fields: Iterable[str]) -> Document:
    return {field: {"description": _HEADERS.get(field, field), "schema": _STRING} for field in fields}
