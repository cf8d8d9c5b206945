"""A client of the API for the commands: finds the API and a key, asks, and turns problems into errors for people.

Beside a local data directory it finds both by itself: control writes `api.url` there, and the first start `admin.key`.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

URL_VARIABLE: Final = "WAKEGATE_API_URL"
KEY_VARIABLE: Final = "WAKEGATE_API_KEY"
DATA_VARIABLE: Final = "WAKEGATE_DATA_DIR"
URL_FILE: Final = "api.url"
KEY_FILE: Final = "admin.key"

_TIMEOUT: Final = 60.0  # seconds; a delete may wait for the workers


class ClientError(Exception):
    """The call could not be made at all."""


class Failed(Exception):
    """The API refused: its problem document, and its text as it came."""

    def __init__(self, problem: Mapping[str, Any], text: str) -> None:
        super().__init__(problem.get("detail", ""))
        self.problem = problem
        self.text = text

    @property
    def status(self) -> int:
        return int(self.problem.get("status", 0))

    def lines(self) -> list[str]:
        """What went wrong, and each bad field."""
        errors = self.problem.get("errors", ())
        told = [str(self.problem.get("detail") or self.problem.get("title") or "the call failed")]
        return told + [f"  {error['field']}: {error['message']}" for error in errors]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API said: the parsed body (`None` if it is empty), and its text as it came."""

    status: int
    body: Any
    text: str


class Client:
    """One API and one key. `url` is `http[s]://host[:port]`."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClientError(f"{url!r} is no URL of an API: {URL_VARIABLE} must be http://host:port or https://host")
        self.url = url.rstrip("/")
        self._parts = parts
        self._key = key

    def call(
        self, method: str, *path: str, query: Mapping[str, Any] | None = None, body: Mapping[str, Any] | None = None
    ) -> Answer:
        """`path` in segments, quoted here; query parameters that are None are left out. Raises ClientError, Failed."""
        target = self._parts.path.rstrip("/") + "/" + "/".join(quote(segment, safe="") for segment in path)
        given = {name: value for name, value in (query or {}).items() if value is not None}
        if given:
            target += "?" + urlencode(given)
        headers = {"Authorization": f"Bearer {self._key}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        status, text = self._exchange(method, target, headers, None if body is None else json.dumps(body))
        return _judge(status, text, self.url)

    def _exchange(self, method: str, target: str, headers: Mapping[str, str], body: str | None) -> tuple[int, str]:
        connection = self._connect()
        try:
            connection.request(method, target, body=body, headers=dict(headers))
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise ClientError(
                f"the API at {self.url} can't be reached ({error}): does `wakegate serve` run?"
            ) from error
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT)


@dataclass(frozen=True, slots=True)
class Own:
    """Where a key counts when nothing else is said, and which of its namespaces have services."""

    namespace: str
    inhabited: tuple[str, ...]

    @classmethod
    def of(cls, client: Client) -> Own:
        """Raises ClientError, Failed."""
        key = client.call("GET", "auth", "v1", "key").body
        return cls("default" if key["namespace"] == "*" else key["namespace"], tuple(key["namespaces"]))


def _judge(status: int, text: str, url: str) -> Answer:
    try:
        body = json.loads(text) if text else None
    except ValueError:
        raise ClientError(f"{url} answered {status} and no JSON: is it the API of Wakegate?") from None
    if status >= 400:
        raise Failed(body if isinstance(body, dict) else {"status": status}, text)
    return Answer(status, body, text)


def find(environment: Mapping[str, str] = os.environ) -> Client:
    """The client that the environment, or the data directory beside us, describes. Raises ClientError."""
    data = Path(environment.get(DATA_VARIABLE) or ".wakegate")
    url = environment.get(URL_VARIABLE) or _line_of(data / URL_FILE)
    key = environment.get(KEY_VARIABLE) or _line_of(data / KEY_FILE)
    if not url:
        raise ClientError(f"where is the API? Set {URL_VARIABLE}, or run this beside the data directory of a `serve`")
    if not key:
        raise ClientError(f"which key? Set {KEY_VARIABLE} to NAME$SECRET (in single quotes: shells expand the $)")
    return Client(url, key)


def _line_of(file: Path) -> str:
    try:
        return file.read_text("utf-8").strip()
    except OSError:
        return ""
