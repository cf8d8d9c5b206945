"""HTTP to an ACME server (RFC 8555 6): bounded answers in bounded time, and every failure an AcmeError.

Redirects are not followed, compressed bodies not read. The only thing that is tried again is a request whose nonce was
refused (RFC 8555 6.5): nothing was done then, and the fresh nonce comes with the refusal.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from yarl import URL

from certs.acme import headers
from certs.acme.errors import BadAnswer, Unreachable
from certs.acme.fields import Fields, is_url, parse, printable
from certs.acme.nonces import Nonces
from certs.acme.problem import Problem, problem

ATTEMPTS: Final = 10  # of one request whose nonces are refused
TIMEOUT: Final = 30.0  # seconds, for all of one answer
BODY: Final = 256 * 1024  # bytes

Sign = Callable[[str], bytes]  # by nonce, the body of the request


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a request to `url` that succeeded (2xx). `links`: values of the header. `retry_after`: seconds."""

    url: str
    status: int
    location: str | None
    links: tuple[str, ...]
    retry_after: float | None
    body: bytes
    secure: bool

    def fields(self, what: str) -> Fields:
        """The object in the body. Raises BadAnswer."""
        try:
            return Fields.of(parse(self.body), what, secure=self.secure)
        except ValueError as error:
            raise BadAnswer(f"{what} is not JSON: {printable(str(error), 100)}") from error

    def created(self, what: str) -> str:
        """Where what was made is. Raises BadAnswer."""
        if self.location is None or not is_url(self.location, secure=self.secure):
            raise BadAnswer(f"the server does not say where {what} is")
        return self.location

    def alternates(self) -> tuple[str, ...]:
        """RFC 8555 7.4.2."""
        return headers.links(self.links, "alternate", self.url, secure=self.secure)


class Transport:
    """`secure`: URLs have to be `https:`. `now`: wall clock, microseconds since the epoch. `timeout`: seconds."""

    def __init__(
        self, session: aiohttp.ClientSession, now: Callable[[], int], timeout: float = TIMEOUT, *, secure: bool = True
    ) -> None:
        self._session = session
        self._now = now
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self.secure = secure
        self.nonces = Nonces()

    async def get(self, url: str) -> Answer:
        """Raises AcmeError."""
        return await self._request("GET", url)

    async def post(self, url: str, sign: Sign, new_nonce: str, accept: str | None = None) -> Answer:
        """`new_nonce`: where to get one if there is none left. Raises AcmeError."""
        for _ in range(ATTEMPTS - 1):
            with contextlib.suppress(_NonceRefused):
                return await self._post(url, sign, new_nonce, accept)
        return await self._post(url, sign, new_nonce, accept)

    async def _post(self, url: str, sign: Sign, new_nonce: str, accept: str | None) -> Answer:
        nonce = self.nonces.take() or await self._new_nonce(new_nonce)
        return await self._request("POST", url, sign(nonce), accept)

    async def _new_nonce(self, url: str) -> str:
        await self._request("HEAD", url)
        nonce = self.nonces.take()
        if nonce is None:
            raise BadAnswer("the server gives no nonce")
        return nonce

    async def _request(self, method: str, url: str, body: bytes | None = None, accept: str | None = None) -> Answer:
        async with self._sent(method, url, body, accept) as response:
            if (nonce := headers.nonce(response.headers.get("Replay-Nonce"))) is not None:
                self.nonces.add(nonce)
            retry_after = headers.retry_after(response.headers.get("Retry-After"), self._now())
            status, content = response.status, await _bounded(response)
            location = response.headers.get("Location")
            links = tuple(response.headers.getall("Link", ())[: headers.LINKS])
        if status >= 400:
            raise _refusal(problem(content or b"", status, retry_after, secure=self.secure))
        if not 200 <= status < 300:
            raise BadAnswer(f"HTTP status {status} from {url}, and redirects are not followed", retry_after)
        if content is None:
            raise BadAnswer(f"the answer of {url} is compressed or has more than {BODY} bytes", retry_after)
        return Answer(url, status, location, links, retry_after, content, self.secure)

    @contextlib.asynccontextmanager
    async def _sent(
        self, method: str, url: str, body: bytes | None, accept: str | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if not is_url(url, secure=self.secure):
            raise BadAnswer(f"{printable(url, 200)} is not a URL to be asked")
        options: dict[str, Any] = {"allow_redirects": False, "auto_decompress": False, "raise_for_status": False}
        fields = {"User-Agent": user_agent(), "Accept-Encoding": "identity", "Accept-Language": "en"}
        fields |= {"Accept": accept} if accept is not None else {}
        fields |= {"Content-Type": "application/jose+json"} if body is not None else {}
        with _translated(url):
            async with self._session.request(
                method, URL(url, encoded=True), data=body, headers=fields, timeout=self._timeout, **options
            ) as response:
                yield response


class _NonceRefused(Problem):
    """Type badNonce."""


def _refusal(found: Problem) -> Problem:
    if found.type != "badNonce":
        return found
    return _NonceRefused(found.type, found.detail, found.status, found.subproblems, found.instance, found.retry_after)


@functools.cache
def user_agent() -> str:
    """RFC 8555 6.1."""
    return f"wakegate/{importlib.metadata.version('wakegate')}"


async def _bounded(response: aiohttp.ClientResponse) -> bytes | None:
    """None if it is too long, or not plain."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        return None
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > BODY:
            response.close()
            return None
    return bytes(content)


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    """What aiohttp, the resolver and TLS raise."""
    try:
        yield
    except TimeoutError as error:
        raise Unreachable(f"{url} does not answer in time") from error
    except aiohttp.ClientResponseError as error:
        raise BadAnswer(f"{url} does not speak HTTP: {printable(error.message, 200)}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Unreachable(f"{url} can't be reached: {printable(str(error), 200) or type(error).__name__}") from error
    except ValueError as error:
        raise BadAnswer(f"{url} can't be asked: {printable(str(error), 200)}") from error
