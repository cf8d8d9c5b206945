"""The engine's API in the driver's words, over a unix socket (Docker's Engine API, which Podman speaks as well).

Foreign exceptions end here: what goes wrong is an `EngineError` with the HTTP status (0: no answer). Every call but the
streams has a deadline. Bodies that we send hold tenants' environments: they go into no error and no log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp

from .flavour import ENDS, Flavour

_OLDEST = "v1.41"  # until it is known what the engine speaks
_CALL = 60.0  # seconds: creating a container copies files on some storage drivers
_CHUNK = 256 * 1024
_OBJECT = 1024 * 1024  # bytes of one object of a stream


class EngineError(Exception):
    """The engine refused or did not answer. `status` of HTTP, 0 = it did not answer; `message` is its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{message} ({status})" if status else message)
        self.status = status
        self.message = message


class EngineMissing(Exception):
    """There is no engine to use; says the fix."""


class Engine:
    """One engine. `connect` before anything else, `close` at the end."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._connector = aiohttp.UnixConnector(str(socket), limit=0)  # each replica's log is a connection
        self._docker = aiodocker.Docker("unix://localhost", connector=self._connector, api_version=_OLDEST)
        self.flavour = Flavour(podman=False, version="?", cpus=1)

    async def connect(self) -> None:
        """Learn what engine it is. Raises `EngineMissing` if it does not answer; it is closed then."""
        try:
            # together: Podman runs other programs for each, half a second where the machine is busy
            asked = (self._json("GET", path, versioned=False) for path in ("version", "info"))
            version, info = await asyncio.gather(*asked)
        except EngineError as error:
            await self.close()
            raise EngineMissing(
                f"the container engine at {self.socket} does not answer: {error}; start it, or name another with "
                "--engine-socket"
            ) from error
        self.flavour = Flavour.of(version, info)
        self._docker.api_version = Flavour.api_version(version)

    async def close(self) -> None:
        await self._docker.close()
        await self._connector.close()

    # -- containers

    async def create(self, name: str, body: Mapping[str, Any]) -> str:
        """The new container's id. 404: no such image; 409: the name is taken."""
        made = await self._json("POST", "containers/create", {"name": name}, body=body)
        return str(made["Id"])

    async def start(self, container: str) -> None:
        await self._done("POST", f"containers/{container}/start")

    async def kill(self, container: str, signal: str) -> None:
        """Signal its first process; one that has ended is none the worse."""
        with _forgiving(404, 409, 500):  # Podman answers 500 for one that ended meanwhile
            await self._done("POST", f"containers/{container}/kill", {"signal": signal})

    async def remove(self, container: str) -> None:
        """End it if it runs, and remove it with its anonymous volumes; one that is gone is removed."""
        with _forgiving(404):
            await self._done("DELETE", f"containers/{container}", {"force": "true", "v": "true"})

    async def inspect(self, container: str) -> dict[str, Any] | None:
        """`None`: there is none."""
        return await self._found(f"containers/{container}/json")

    async def containers(self, label: str) -> list[dict[str, Any]]:
        """Those with the label, in every state."""
        filters = json.dumps({"label": [label]})
        return list(await self._json("GET", "containers/json", {"all": "true", "filters": filters}))

    def deaths(self, label: str) -> AsyncGenerator[str | None, None]:
        """The ids of containers with the label, as they end; `None` once the stream stands. Ends with the stream."""
        return self._deaths({"type": ["container"], "label": [label]})

    async def _deaths(self, filters: Mapping[str, Sequence[str]]) -> AsyncGenerator[str | None, None]:
        async with self._response("GET", "events", {"filters": json.dumps(filters)}) as response:
            yield None
            async for event in _objects(response):
                found = event.get("id") or event.get("Actor", {}).get("ID")
                if found and (event.get("Action") or event.get("status")) in ENDS:
                    yield str(found)

    async def output(self, container: str, since: int, *, follow: bool) -> AsyncGenerator[bytes, None]:
        """What it wrote from `since` (s) on, in any pieces: see `follow.pieces` for the form. `follow`: and writes."""
        params = {"stdout": "true", "stderr": "true", "timestamps": "true", "follow": str(follow).lower()}
        if since > 0:
            params["since"] = str(since)
        async with self._response("GET", f"containers/{container}/logs", params) as response:
            async for data in response.content.iter_any():
                yield data

    # -- images

    async def image(self, reference: str) -> dict[str, Any] | None:
        """`None`: the engine has none of that name."""
        return await self._found(f"images/{reference}/json")

    async def images(self) -> list[dict[str, Any]]:
        return list(await self._json("GET", "images/json"))

    def pull(self, name: str, tag: str, credentials: str | None) -> AsyncGenerator[dict[str, Any], None]:
        """What the engine says while it pulls `name` at `tag` (or digest); an `error` among it ends it."""
        headers = {} if credentials is None else {"X-Registry-Auth": credentials}
        return self._said("images/create", {"fromImage": name, "tag": tag}, headers)

    def build(
        self,
        tag: str,
        context: Path,
        labels: Mapping[str, str],
        options: Mapping[str, str],
        cgroup: str | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """What the engine says while it builds the Dockerfile of the tar file `context`. Leaving it ends the build.

        `options`: of `Flavour.build_options`.
        """
        params = {"t": tag, "dockerfile": "Dockerfile", "rm": "true", "forcerm": "true", **options}
        params["labels"] = json.dumps(dict(labels))
        if cgroup is not None:
            params["cgroupparent"] = cgroup
        return self._said("build", params, {"Content-Type": "application/x-tar"}, _pieces(context))

    async def _said(
        self, path: str, params: Mapping[str, str], headers: Mapping[str, str], data: Any = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        async with self._response("POST", path, params, headers=headers, data=data) as response:
            async for said in _objects(response):
                yield said

    async def tag(self, image: str, repository: str, tag: str) -> None:
        await self._done("POST", f"images/{image}/tag", {"repo": repository, "tag": tag})

    async def untag(self, reference: str) -> None:
        """Remove a name of an image, and the image if it was the last; one that is in use or gone stays as it is."""
        with _forgiving(404, 409):
            await self._done("DELETE", f"images/{reference}")

    # -- networks

    async def network(self, name: str) -> bool:
        return await self._found(f"networks/{name}") is not None

    async def networks(self, label: str) -> list[dict[str, Any]]:
        return list(await self._json("GET", "networks", {"filters": json.dumps({"label": [label]})}))

    async def make_network(self, name: str, labels: Mapping[str, str]) -> None:
        body = {
            "Name": name,
            "Driver": "bridge",
            "CheckDuplicate": True,
            "Labels": dict(labels),
            "Options": self.flavour.network_options(),
        }
        with _forgiving(409):
            await self._json("POST", "networks/create", body=body)

    async def remove_network(self, name: str) -> None:
        """One that is in use or gone stays as it is."""
        with _forgiving(403, 404, 409, 500):
            await self._done("DELETE", f"networks/{name}")

    # -- requests

    async def _found(self, path: str) -> dict[str, Any] | None:
        try:
            return dict(await self._json("GET", path))
        except EngineError as error:
            if error.status == 404:
                return None
            raise

    async def _json(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        *,
        versioned: bool = True,
    ) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = self._response(method, path, params, data=data, versioned=versioned)
        with _translated():
            async with asyncio.timeout(_CALL), asked as response:
                return await response.json(content_type=None)

    async def _done(self, method: str, path: str, params: Mapping[str, str] | None = None) -> None:
        with _translated():
            async with asyncio.timeout(_CALL), self._response(method, path, params) as response:
                await response.read()

    @contextlib.asynccontextmanager
    async def _response(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        versioned: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """aiodocker's own request: its public methods lose the stream of a piece of output, its bytes and its time."""
        query = self._docker._query(
            path, method, params=dict(params or {}), headers=headers, data=data, versioned_api=versioned
        )
        with _translated():
            async with query as response, response:
                yield response


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except aiodocker.DockerError as error:
        answered = error.status < 900  # aiodocker's number for a connection that failed
        raise EngineError(error.status if answered else 0, error.message.strip()) from None
    except (aiohttp.ClientError, OSError, EOFError, ValueError) as error:
        raise EngineError(0, f"the container engine did not answer: {str(error) or type(error).__name__}") from None


@contextlib.contextmanager
def _forgiving(*statuses: int) -> Iterator[None]:
    try:
        yield
    except EngineError as error:
        if error.status not in statuses:
            raise


async def _objects(response: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON objects of a stream, one a line."""
    rest = b""
    async for data in response.content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                yield json.loads(line)
        if len(rest) > _OBJECT:
            raise EngineError(0, "a line of the container engine's answer is too long")
    if rest.strip():
        yield json.loads(rest)


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while piece := await asyncio.to_thread(file.read, _CHUNK):
            yield piece
    finally:
        await asyncio.to_thread(file.close)
