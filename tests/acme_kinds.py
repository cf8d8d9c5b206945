"""What kind of request a path is for, learnt from the answers of an ACME server (`tests.acme_proxy`)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from multidict import CIMultiDict

RENEWAL = "/renewal-info/"
_RESOURCES = ("newNonce", "newAccount", "newOrder", "revokeCert", "keyChange")


class Kinds:
    """`directory`: the path that is known from the start."""

    def __init__(self, directory: str) -> None:
        self._kinds = {directory: "directory"}
        self._names: dict[str, tuple[str, ...]] = {}

    def of(self, path: str) -> str:
        return "renewalInfo" if path.startswith(RENEWAL) else self._kinds.get(path, "other")

    def names(self, path: str) -> tuple[str, ...]:
        """Of the order that this path is of, or an authorization of."""
        return self._names.get(path, ())

    def path(self, kind: str) -> str:
        """Of a resource of the directory, once that has been asked for."""
        return next(path for path, known in self._kinds.items() if known == kind)

    def learn(self, kind: str, told: dict[str, Any], headers: CIMultiDict[str]) -> None:
        """From the object that answered a request of this kind."""
        if kind == "directory":
            for resource in _RESOURCES:
                self._is(told.get(resource), resource)
        if kind == "newOrder":
            self._is(headers["Location"], "order")
            ordered = tuple(identifier["value"] for identifier in told["identifiers"])
            for url in (headers["Location"], *told["authorizations"]):
                self._names[urlsplit(url).path] = ordered
        if kind == "certificate":
            for link in headers.getall("Link", ()):
                if 'rel="alternate"' in link:
                    self._is(link[1 : link.index(">")], "certificate")
        for member in ("finalize", "certificate"):
            self._is(told.get(member), member)
        for url in told.get("authorizations", ()):
            self._is(url, "authorization")
        for challenge in told.get("challenges", ()):
            self._is(challenge["url"], "challenge")

    def _is(self, url: str | None, kind: str) -> None:
        if url:
            self._kinds[urlsplit(url).path] = kind
