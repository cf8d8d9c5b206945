"""A client of the API for the commands: finds the API and a key, asks, and turns problems into errors for people.

Beside a local data directory it finds both by itself: control writes `api.url` there, and the first start `admin.key`.

Law kept here: a call is repeated only where that is safe. What reads may always be; a POST carries an Idempotency-Key,
so that its repetition after a broken connection does nothing twice; everything else fails at once.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import secrets
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

URL_VARIABLE: Final = "WAKEGATE_API_URL"
KEY_VARIABLE: Final = "WAKEGATE_API_KEY"
DATA_VARIABLE: Final = "WAKEGATE_DATA_DIR"
URL_FILE: Final = "api.url"
KEY_FILE: Final = "admin.key"

_TIMEOUT: Final = 60.0  # seconds; a delete may wait for the workers
_QUIET: Final = 45.0  # seconds without a byte on a stream, three heartbeats of the API: its connection is dead
_REPEATED: Final = ("GET", "POST")  # after a broken connection
_REPEATS: Final = 2  # of a call whose connection broke, without more patience
_CLAIMS: Final = 60  # of the answer of a call whose connection broke
_PAUSE: Final = 0.25  # seconds before the first repetition; doubles
_LONGEST_PAUSE: Final = 5.0
_PASSING: Final = frozenset({429, 500, 502, 503, 504})  # statuses that may differ a little later


class ClientError(Exception):
    """The call could not be made at all."""


class Broken(ClientError):
    """The connection could not be made (`refused`) or broke; nobody knows whether the call was carried out."""

    def __init__(self, message: str, *, refused: bool) -> None:
        super().__init__(message)
        self.refused = refused


class Failed(Exception):
    """The API refused: its problem document, its text as it came, and after how many seconds it wants to be asked."""

    def __init__(self, problem: Mapping[str, Any], text: str, retry_after: float | None = None) -> None:
        super().__init__(problem.get("detail", ""))
        self.problem = problem
        self.text = text
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        return int(self.problem.get("status", 0))

    @property
    def passing(self) -> bool:
        """Whether the same call may well succeed a little later."""
        return self.status in _PASSING

    def lines(self) -> list[str]:
        """What went wrong, each bad field, and by what the operator finds a fault of ours in his log."""
        told = [str(self.problem.get("detail") or self.problem.get("title") or f"the API answered {self.status}")]
        told += [f"  {error['field']}: {error['message']}" for error in self.problem.get("errors", ())]
        if self.status == 429 and self.retry_after is not None:
            told.append(f"  try again in {self.retry_after:g} s")
        if self.status >= 500 and self.problem.get("request_id"):
            told.append(f"  request id: {self.problem['request_id']}")
        return told


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API said: the parsed body (`None` if it is empty), its text as it came, its headers in lower case."""

    status: int
    body: Any
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Client:
    """One API and one key. `url` is `http[s]://host[:port]`; `timeout` is of one exchange, in seconds."""

    def __init__(self, url: str, key: str, timeout: float = _TIMEOUT) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not _has_good_port(url):
            raise ClientError(f"{url!r} is no URL of an API: {URL_VARIABLE} must be http://host:port or https://host")
        self.url = url.rstrip("/")
        self._parts = parts
        self._key = key
        self._timeout = timeout

    def call(
        self,
        method: str,
        *path: str,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        if_match: str | None = None,
        patience: float = 0.0,
    ) -> Answer:
        """`path` in segments, quoted here; query parameters that are None are left out.

        For `patience` seconds a call that is safe to repeat waits for an API that is gone, busy or limits the rate.
        Raises ClientError, Failed.
        """
        headers = self._headers("application/json")
        if body is not None:
            headers["Content-Type"] = "application/json"
        if if_match is not None:
            headers["If-Match"] = if_match
        if method == "POST":
            headers["Idempotency-Key"] = secrets.token_hex(16)
        target, content = self._target(path, query), None if body is None else json.dumps(body)
        deadline, broke = time.monotonic() + patience, False
        for attempt in itertools.count():
            try:
                return self._exchange(method, target, headers, content)
            except (Broken, Failed) as error:
                pause = pause_before_repeat(method, error, attempt, deadline - time.monotonic(), broke=broke)
                if pause is None:
                    raise
                broke = broke or isinstance(error, Broken)
            time.sleep(pause)
        raise AssertionError

    @contextlib.contextmanager
    def stream(
        self, *path: str, query: Mapping[str, Any], last_event_id: str | None
    ) -> Iterator[http.client.HTTPResponse]:
        """A stream of server-sent events: a response to read lines from. Raises ClientError, Failed."""
        headers = self._headers("text/event-stream")
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        with self._connected(_QUIET) as connection:
            connection.request("GET", self._target(path, query), headers=headers)
            response = connection.getresponse()
            if response.status != http.client.OK:
                _judge(response, response.read(), self.url)
            yield response

    def _headers(self, accept: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}", "Accept": accept}

    def _target(self, path: tuple[str, ...], query: Mapping[str, Any] | None) -> str:
        """Bytes of the command line that are no characters go as they are: the API says what is wrong with them."""
        segments = (quote(segment, safe="", errors="surrogateescape") for segment in path)
        target = self._parts.path.rstrip("/") + "/" + "/".join(segments)
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return target + ("?" + urlencode(given, errors="surrogateescape") if given else "")

    def _exchange(self, method: str, target: str, headers: Mapping[str, str], body: str | None) -> Answer:
        with self._connected(self._timeout) as connection:
            connection.request(method, target, body=body, headers=dict(headers))
            response = connection.getresponse()
            content = response.read()
        return _judge(response, content, self.url)

    @contextlib.contextmanager
    def _connected(self, timeout: float) -> Iterator[http.client.HTTPConnection]:
        """A connection; what goes wrong with it becomes Broken."""
        connection = self._connection(timeout)
        try:
            yield connection
        except ssl.SSLCertVerificationError as error:
            why = f"the certificate of {self.url} is not trusted ({error.verify_message})"
            raise ClientError(f"{why}: SSL_CERT_FILE can name others to believe") from error
        except (OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
            raise Broken(
                f"the API at {self.url} can't be reached ({why}): does `wakegate serve` run?",
                refused=isinstance(error, ConnectionRefusedError),
            ) from error
        except ValueError as error:  # of http.client: a key or a validator that can't stand in a header
            raise ClientError(f"the call can't be sent: {error}") from error
        finally:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=timeout)


def pause_before_repeat(
    method: str, error: Broken | Failed, attempt: int, patience: float, *, broke: bool = False
) -> float | None:
    """Seconds until the call is made again; None: it is not. `attempt` counts from 0, `patience` is what is left.

    A connection that broke is made again even without patience: of all that can happen that is the likeliest to pass.
    One that is refused is not: nobody is there. `broke`: an earlier attempt did; a 409 with `Retry-After` says then
    that this attempt is still being carried out, and its answer can be had soon.
    """
    if method not in _REPEATED:
        return None
    pause = min(_PAUSE * 2.0**attempt, _LONGEST_PAUSE)
    if isinstance(error, Broken):
        return pause if (attempt < _REPEATS and not error.refused) or pause < patience else None
    pause = pause if error.retry_after is None else max(error.retry_after, pause)
    if broke and error.status == 409 and error.retry_after is not None:
        return pause if attempt < _CLAIMS else None
    return pause if error.passing and pause < patience else None


@dataclass(frozen=True, slots=True)
class Own:
    """Where a key counts when nothing else is said, and which of its namespaces have services."""

    namespace: str
    inhabited: tuple[str, ...]
    everywhere: bool = False

    @classmethod
    def of(cls, client: Client) -> Own:
        """Raises ClientError, Failed."""
        key = client.call("GET", "auth", "v1", "key").body
        everywhere = key["namespace"] == "*"
        return cls("default" if everywhere else key["namespace"], tuple(key["namespaces"]), everywhere)


def _judge(response: http.client.HTTPResponse, content: bytes, url: str) -> Answer:
    """Raises ClientError, Failed."""
    text, status = content.decode("utf-8", "replace"), response.status
    try:
        body = json.loads(text) if text else None
    except ValueError:
        raise ClientError(f"{url} answered {status} and no JSON: is it the API of Wakegate?") from None
    if status >= 400:
        problem = body if isinstance(body, dict) else {}
        raise Failed({**problem, "status": status}, text, _seconds(response.headers.get("Retry-After")))
    return Answer(status, body, text, {name.lower(): value for name, value in response.headers.items()})


def _seconds(text: str | None) -> float | None:
    """`Retry-After` as the API writes it."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else None


def _has_good_port(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def find(environment: Mapping[str, str] | None = None, timeout: float = _TIMEOUT) -> Client:
    """The client that the environment, or the data directory beside us, describes. Raises ClientError."""
    environment = os.environ if environment is None else environment
    data = Path(environment.get(DATA_VARIABLE) or ".wakegate")
    url = environment.get(URL_VARIABLE) or _line_of(data / URL_FILE)
    key = environment.get(KEY_VARIABLE) or _line_of(data / KEY_FILE)
    if not url:
        raise ClientError(f"where is the API? Set {URL_VARIABLE}, or run this beside the data directory of a `serve`")
    if not key:
        raise ClientError(f"which key? Set {KEY_VARIABLE} to NAME$SECRET (in single quotes: shells expand the $)")
    return Client(url, key, timeout)


def _line_of(file: Path) -> str:
    try:
        return file.read_text("utf-8").strip()
    except OSError:
        return ""
