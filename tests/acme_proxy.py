"""A proxy before an ACME server: it counts what is asked, offers renewal information, and breaks what it is told to.

Clients use `proxy.directory` as they would the server's. The server makes its URLs from the Host field, which is passed
on: everything it names goes through here, and the signed URLs are those that it expects. Kinds of requests are learnt
from its answers: directory newNonce newAccount newOrder order authorization challenge finalize certificate revokeCert
keyChange renewalInfo other.

In a test's own loop (faults are in `tests.acme_faults`):

    async with AcmeProxy(pebble) as proxy:
        proxy.counts["newOrder"]                            # and proxy.requests: each with what was signed
        proxy.break_(rate_limited("newOrder", "120"))       # the next one is answered 429, Retry-After: 120
        proxy.break_(bad_nonces("*", 3), dropped("finalize", after=True), slow("order", 5.0), down("*", count=9))
        proxy.renewal.windows[certificate_id] = Window("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")
        proxy.renewal.share = (0.5, 0.6)                    # of the lifetime, for certificates without a window

In a process of its own, `python -m tests.acme_proxy --upstream https://localhost:14000 --path /dir --trust ca.pem
--certificate cert.pem --key key.pem` prints one line of JSON, `{"directory": …, "control": …}`; `tests.acme_process`
starts it and asks the control address (HTTP): `GET /state`, `POST /break`, `/mend`, `/renewal`, `/meta`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import dataclasses
import json
import ssl
import time
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from yarl import URL

from tests.acme_faults import URN, Fault
from tests.acme_kinds import RENEWAL, Kinds
from tests.acme_windows import Renewal, Window

REQUESTS = 10_000  # that are kept
_PASSED = ("Content-Type", "User-Agent", "Accept", "Accept-Language")
_HOP = frozenset({"connection", "content-length", "content-encoding", "date", "keep-alive", "transfer-encoding"})
_GRACE = 0.2  # seconds, for connections at the end (aiohttp takes 0 for ever)


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """`names`: of the order that it is of, if that is known. `payload`: what was signed, {} for POST-as-GET.

    `broken`: by which action. `at`: seconds, monotonic.
    """

    kind: str
    method: str
    path: str
    names: tuple[str, ...]
    payload: dict[str, Any]
    agent: str
    broken: str | None
    at: float


class Server(Protocol):
    """`tests.pebble.Pebble`, or another with files for TLS of localhost."""

    @property
    def directory(self) -> str: ...
    @property
    def minica(self) -> Tls: ...


class Tls(Protocol):
    def client(self) -> ssl.SSLContext: ...
    def server(self) -> ssl.SSLContext: ...


class AcmeProxy:
    """Listens on a free port of 127.0.0.1 with `async with`; `directory` is known from then on."""

    def __init__(self, server: Server) -> None:
        parts = urlsplit(server.directory)
        self._upstream = f"{parts.scheme}://{parts.netloc}"
        self._tls = server.minica
        self._kinds = Kinds(parts.path)
        self._path = parts.path
        self._faults: list[tuple[Fault, list[int]]] = []  # and how many are left: to skip, to break
        self.counts: Counter[str] = Counter()  # by kind; without those whose nonce the server refused by itself
        self.requests: deque[Seen] = deque(maxlen=REQUESTS)
        self.renewal = Renewal()
        self.meta: dict[str, Any] = {}
        self._exit = contextlib.AsyncExitStack()
        self._closing = asyncio.Event()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            connector = aiohttp.TCPConnector(ssl=self._tls.client())
            self._session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            application = web.Application(client_max_size=1 << 20)
            application.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=_GRACE)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            stack.callback(_hang_up, runner)
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls.server())
            await site.start()
            self._host = f"localhost:{runner.addresses[0][1]}"
            self._exit = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        await self._exit.aclose()

    @property
    def directory(self) -> str:
        return f"https://{self._host}{self._path}"

    def break_(self, *faults: Fault) -> None:
        """Those told first come first; each request meets one at most."""
        self._faults += [(fault, [fault.skip, fault.count]) for fault in faults]

    def mend(self) -> None:
        self._faults.clear()

    def payloads(self, kind: str) -> list[dict[str, Any]]:
        """What was signed for requests of this kind."""
        return [seen.payload for seen in self.requests if seen.kind == kind]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        payload, kind = _payload(body), self._kinds.of(request.path)
        fault = self._fault(kind)
        self.counts[kind] += 1
        agent = request.headers.get("User-Agent", "")
        broken = fault.action if fault else None
        names = self._kinds.names(request.path) or tuple(named["value"] for named in payload.get("identifiers", ()))
        now = time.monotonic()
        self.requests.append(Seen(kind, request.method, request.path, names, payload, agent, broken, now))
        if fault is None:
            return await self._answer(request, kind, body, payload)
        return await self._broken(fault, request, kind, body, payload)

    async def _broken(
        self, fault: Fault, request: web.Request, kind: str, body: bytes, payload: dict[str, Any]
    ) -> web.StreamResponse:
        match fault.action:
            case "answer":
                return web.Response(status=fault.status, headers=fault.headers, body=fault.body.encode("latin-1"))
            case "bad_nonce":
                return await self._bad_nonce()
            case "drop_before":
                return _cut(request)
            case "drop_after":
                await self._answer(request, kind, body, payload)
                return _cut(request)
            case "slow":
                answer = await self._answer(request, kind, body, payload)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(fault.seconds):
                        await self._closing.wait()
                return answer
            case "change":
                return _changed(await self._answer(request, kind, body, payload), fault)

    def _fault(self, kind: str) -> Fault | None:
        for fault, left in self._faults:
            if fault.kind not in ("*", kind) or not left[1]:
                continue
            if left[0]:
                left[0] -= 1
                continue
            left[1] -= 1
            return fault
        return None

    async def _answer(self, request: web.Request, kind: str, body: bytes, payload: dict[str, Any]) -> web.Response:
        if kind == "renewalInfo":
            return self._renewal_info(request.path.removeprefix(RENEWAL))
        if kind == "newOrder" and payload.get("replaces") in self.renewal.replaced:
            return _problem("alreadyReplaced", 409)
        answer = await self._forward(request.method, request.path_qs, body, request.headers)
        if answer.status < 300:
            self._learn(kind, request.path, answer, payload)
        elif b":badNonce" in (answer.body or b""):  # type: ignore[operator]
            self.counts[kind] -= 1  # it comes again
        return answer

    def _learn(self, kind: str, path: str, answer: web.Response, payload: dict[str, Any]) -> None:
        told = _json(answer)
        self._kinds.learn(kind, told, answer.headers)
        match kind:
            case "directory":
                told["meta"] = told.get("meta", {}) | self.meta
                told |= {"renewalInfo": f"https://{self._host}{RENEWAL.rstrip('/')}"} if self.renewal.offered else {}
                answer.body = json.dumps(told).encode()
            case "newOrder":
                self.renewal.ordered(urlsplit(told["finalize"]).path, payload.get("replaces"))
            case "finalize":
                self.renewal.finalized(path)
            case "certificate":
                self.renewal.issued(answer.body)  # type: ignore[arg-type]

    def _renewal_info(self, identifier: str) -> web.Response:
        window = self.renewal.window(identifier)
        if window is None:
            return _problem("malformed", 404)
        headers = {} if self.renewal.retry_after is None else {"Retry-After": self.renewal.retry_after}
        return web.json_response({"suggestedWindow": dataclasses.asdict(window)}, headers=headers)

    async def _forward(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> web.Response:
        passed = {name: headers[name] for name in _PASSED if name in headers} | {"Host": self._host}
        url = URL(self._upstream + path, encoded=True)
        async with self._session.request(
            method, url, data=body or None, headers=passed, allow_redirects=False
        ) as answer:
            kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in _HOP]
            response = web.Response(status=answer.status, body=await answer.read())
        response.headers.clear()
        for name, value in kept:
            response.headers.add(name, value)
        return response

    async def _bad_nonce(self) -> web.Response:
        nonce = (await self._forward("HEAD", self._kinds.path("newNonce"), b"", {})).headers["Replay-Nonce"]
        answer = _problem("badNonce", 400)
        answer.headers["Replay-Nonce"] = nonce
        return answer


def _payload(body: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = json.loads(body)["payload"]
        found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return found if isinstance(found, dict) else {}
    return {}


def _json(answer: web.Response) -> dict[str, Any]:
    """The object in it, {} if there is none."""
    with contextlib.suppress(ValueError):
        found = json.loads(answer.body or b"null")  # type: ignore[arg-type]
        return found if isinstance(found, dict) else {}
    return {}


def _problem(kind: str, status: int) -> web.Response:
    body = {"type": URN + kind, "detail": f"{kind}, says the proxy", "status": status}
    return web.json_response(body, status=status, content_type="application/problem+json")


def _hang_up(runner: web.AppRunner) -> None:
    """TLS would wait for the clients to say goodbye, and the loop of a test ends before."""
    assert runner.server is not None
    for connection in runner.server.connections:
        if connection.transport is not None:
            connection.transport.abort()


def _cut(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def _changed(answer: web.Response, fault: Fault) -> web.Response:
    if fault.changes:
        answer.body = json.dumps(json.loads(answer.body) | dict(fault.changes)).encode()  # type: ignore[arg-type]
    answer.headers.update(fault.headers)
    return answer


class Control:
    """The control address of a proxy in a process of its own."""

    def __init__(self, proxy: AcmeProxy) -> None:
        self._proxy = proxy

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/state", self._state)
        for what in (self._break, self._mend, self._renewal, self._meta):
            application.router.add_post(f"/{what.__name__.strip('_')}", what)
        return application

    async def _state(self, _: web.Request) -> web.Response:
        requests = [dataclasses.asdict(seen) for seen in self._proxy.requests]
        return web.json_response({"counts": self._proxy.counts, "requests": requests})

    async def _break(self, request: web.Request) -> web.Response:
        self._proxy.break_(*(Fault(**fields) for fields in await request.json()))
        return web.Response(status=204)

    async def _mend(self, _: web.Request) -> web.Response:
        self._proxy.mend()
        return web.Response(status=204)

    async def _renewal(self, request: web.Request) -> web.Response:
        told, renewal = await request.json(), self._proxy.renewal
        for identifier, (start, end) in told.pop("windows", {}).items():
            renewal.windows[identifier] = Window(start, end)
        for name, value in told.items():
            setattr(renewal, name, tuple(value) if name == "share" else value)
        return web.Response(status=204)

    async def _meta(self, request: web.Request) -> web.Response:
        self._proxy.meta |= await request.json()
        return web.Response(status=204)


@dataclasses.dataclass(frozen=True, slots=True)
class _Files:
    """A Server by its files."""

    directory: str
    trust: Path
    certificate: Path
    key: Path

    @property
    def minica(self) -> Self:
        return self

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.trust)

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


async def serve(server: Server) -> None:
    """For ever."""
    async with AcmeProxy(server) as proxy:
        runner = web.AppRunner(Control(proxy).application(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        control = f"http://127.0.0.1:{runner.addresses[0][1]}"
        print(json.dumps({"directory": proxy.directory, "control": control}), flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.acme_proxy")
    parser.add_argument("--upstream", required=True, metavar="URL")
    parser.add_argument("--path", default="/dir")
    for name in ("trust", "certificate", "key"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    given = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(_Files(given.upstream + given.path, given.trust, given.certificate, given.key)))


if __name__ == "__main__":
    main()
