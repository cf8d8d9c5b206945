"""What a certificate authority is answered that looks at a domain (RFC 8555 8.3, RFC 8737).

Laws kept here: 1 (memory only, so that any worker answers, with the store gone as well) and 7 (as many domains as have
an order in progress; a request is compared, and nothing of it kept). While there is none, a request costs one look at
an empty dict.
"""

from __future__ import annotations

import hashlib
from typing import Final

from gateway.messages import Request
from gateway.table import plain_host
from state.certificates import Challenge

PATH: Final = b"/.well-known/acme-challenge/"  # RFC 8555 8.3: comes as plain HTTP
_HTTP: Final = "http-01"
_TLS: Final = "tls-alpn-01"


class Challenges:
    """Of one worker: `put` what the store has of a domain."""

    __slots__ = ("_digests", "http")

    def __init__(self) -> None:
        self.http: dict[bytes, dict[bytes, bytes]] = {}  # by host, its key authorizations by token
        self._digests: dict[str, bytes] = {}  # by host

    def put(self, domain: str, challenge: Challenge | None) -> None:
        """What is answered for `domain` from now on. None: nothing any more."""
        self.http.pop(domain.encode(), None)
        self._digests.pop(domain, None)
        for answer in () if challenge is None else challenge.answers:
            if answer.type == _HTTP:
                tokens = self.http.setdefault(domain.encode(), {})
                tokens[answer.token.encode()] = answer.key_authorization.encode()
            elif answer.type == _TLS:
                self._digests[domain] = hashlib.sha256(answer.key_authorization.encode()).digest()

    def proof(self, request: Request) -> bytes | None:
        """The key authorization that answers this request; None: it is nobody's who asks for one."""
        if not request.target.startswith(PATH) or request.method not in (b"GET", b"HEAD"):
            return None
        tokens = self.http.get(plain_host(request.host))
        return None if tokens is None else tokens.get(request.target[len(PATH) :])

    def digest(self, name: str) -> bytes | None:
        """SHA-256 of the key authorization that a handshake for `name` is to show (RFC 8737 3)."""
        return self._digests.get(name)

    def __repr__(self) -> str:
        return f"<Challenges http={list(self.http)} tls={list(self._digests)}>"
