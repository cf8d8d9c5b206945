"""`Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a POST that is sent again is not done again.

Laws kept here: a request is taken in the store before it is done, so that of many, at any node, one is (law 6); the
taking is a lease, which a crash lets run out; what a tenant can keep is bounded, and what has to go early is counted
(law 7). Answers can hold secrets that are shown once (a key's token, a webhook's secret): they are kept sealed (law 8).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from control.contract import query
from control.contract.problem import FieldError, Problem, bad_request, translated
from state.models import ApiKey
from state.secrets import Vault
from state.store import Store, StoreError

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotent-Replayed"
LIFE: Final = 24 * 3600  # seconds for which an answer is kept
LEASE: Final = 30.0  # seconds without a sign of life after which a request counts as never done
MOST: Final = 10_000  # requests of a tenant that are remembered
BYTES: Final = 16 << 20  # of all their answers
ANSWER: Final = 64 << 10  # characters of one answer; of a longer one only the status is kept

_NAME: Final = re.compile(r"[!-~]{1,255}")
_NOT_KEPT: Final = {"content-length", "date", "x-request-id", "ratelimit", "ratelimit-policy", "server"}
_PROBLEM: Final = "problem"

_log = logging.getLogger("wakegate.api")


@dataclass(frozen=True, slots=True)
class Kept:
    """What was answered. `body`: None if it was too long to keep; of a problem its detail and its fields."""

    fingerprint: str
    status: int
    kind: str
    headers: Mapping[str, str]
    body: str | None

    def again(self) -> web.Response:
        """Raises Problem: the same one, or 409 if the answer is not there any more."""
        if self.body is None:
            raise Problem(409, f"This request was done (status {self.status}), but its answer was too long to keep.")
        headers = {**self.headers, REPLAYED: "true"}
        if self.kind != _PROBLEM:
            return web.Response(body=self.body.encode(), status=self.status, headers=headers)
        said = json.loads(self.body)
        raise Problem(self.status, said["detail"], [FieldError(*error) for error in said["errors"]], headers)


class Idempotency:
    """`evicted` counts the answers that had to go before their time."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self._script = store.script(resources.files("control.limits").joinpath("idempotency.lua").read_text())
        self._vault = vault
        self.evicted = 0

    async def once(self, request: web.Request, key: ApiKey, handler: Handler) -> web.StreamResponse:
        """What the handler answers, or has answered. Raises Problem 400, 408, 409, 413, 422; StoreError."""
        name = request.headers[HEADER]
        if not _NAME.fullmatch(name):
            raise bad_request([FieldError(HEADER, "must be 1-255 visible ASCII characters")])
        place = _Place.of(key, request.match_info.get("namespace", ""), name)
        fingerprint = _fingerprint(request, await query.body(request))
        owner = secrets.token_hex(8)
        said, *rest = await self._run("take", place, owner, int(LEASE * 1000))
        match said:
            case b"kept":
                return self._again(place, fingerprint, rest[0].decode())
            case b"busy":
                detail = f"A request with this {HEADER} is being done; its answer can be had by asking again."
                raise Problem(409, detail, headers={"Retry-After": "1"})
            case _:
                return await self._first(request, handler, place, owner, fingerprint)

    def _again(self, place: _Place, fingerprint: str, sealed: str) -> web.Response:
        kept = Kept(**json.loads(self._vault.unseal(place.tenant, place.request, "answer", sealed)))
        if kept.fingerprint != fingerprint:
            detail = f"This {HEADER} was used for another request: take a new one for each."
            raise Problem(422, detail, [FieldError(HEADER, "was used for another request")])
        return kept.again()

    async def _first(
        self, request: web.Request, handler: Handler, place: _Place, owner: str, fingerprint: str
    ) -> web.StreamResponse:
        async with self._holding(place, owner):
            try:
                response = await handler(request)
            except Exception as error:
                problem = translated(error, request)
                await self._finish(place, owner, _kept_problem(problem, fingerprint))
                raise problem from error
            await self._finish(place, owner, _kept(response, fingerprint))
            return response

    @contextlib.asynccontextmanager
    async def _holding(self, place: _Place, owner: str) -> AsyncIterator[None]:
        """The lease is renewed until the request is done."""
        done = asyncio.Event()
        failed: list[Exception] = []
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._renew(place, owner, done), name="idempotency lease")
            try:
                yield
            except Exception as error:
                failed.append(error)  # as itself, not in a group
            done.set()
        if failed:
            raise failed[0]

    async def _renew(self, place: _Place, owner: str, done: asyncio.Event) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEASE / 3):
                    await done.wait()
                    return
            with contextlib.suppress(StoreError):  # it lasts for two more attempts
                await self._run("hold", place, owner, int(LEASE * 1000))

    async def _finish(self, place: _Place, owner: str, kept: Kept | None) -> None:
        """The request was done: a store that can't be told keeps nobody from the answer."""
        try:
            if kept is None:
                await self._run("drop", place, owner)
            else:
                text = json.dumps(asdict(kept), ensure_ascii=False, separators=(",", ":"))
                await self._run("keep", place, owner, self._vault.seal(place.tenant, place.request, "answer", text))
        except StoreError as error:
            _log.warning("an answer was not kept for its %s: %s", HEADER, error)

    async def _run(self, action: str, place: _Place, owner: str, *arguments: Any) -> list[bytes]:
        """Raises StoreError."""
        tenant = f"{{wg}}:idempotency:{place.tenant}"
        limits = (LIFE * 1000, MOST, BYTES)
        said: list[bytes] = await self._script(
            [tenant, f"{tenant}:order"], [action, place.request, owner, *arguments, *limits]
        )
        if len(said) > 1 and said[0] != b"kept":
            self.evicted += int(said[1])
        return said


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a request is kept: beside those of its tenant, named by its key, its namespace and its Idempotency-Key."""

    tenant: str
    request: str

    @classmethod
    def of(cls, key: ApiKey, namespace: str, name: str) -> _Place:
        return cls(key.namespace, hashlib.sha256("\0".join((key.digest, namespace, name)).encode()).hexdigest())


def _fingerprint(request: web.Request, body: bytes) -> str:
    """Two requests with the same one are the same: method, target, body."""
    parts = (request.method.encode(), request.raw_path.encode("utf-8", "surrogateescape"), body)
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _kept(response: web.StreamResponse, fingerprint: str) -> Kept | None:
    if response.status >= 500 or not isinstance(response, web.Response):
        return None
    headers = {name: value for name, value in response.headers.items() if name.lower() not in _NOT_KEPT}
    return _bounded(fingerprint, response.status, "answer", headers, response.text or "")


def _kept_problem(problem: Problem, fingerprint: str) -> Kept | None:
    if problem.status >= 500:
        return None
    errors = [(error.field, error.message) for error in problem.errors]
    body = json.dumps({"detail": problem.detail, "errors": errors})
    return _bounded(fingerprint, problem.status, _PROBLEM, problem.headers, body)


def _bounded(fingerprint: str, status: int, kind: str, headers: Mapping[str, str], body: str) -> Kept:
    return Kept(fingerprint, status, kind, headers, body if len(body) <= ANSWER else None)
