"""What names under one wildcard don't share: sessions. Its certificate serves them all, and may belong to many tenants.

Laws kept here: 8 (what was begun at one name is resumed at no other, as RFC 6066 3 demands and RFC 8446 4.6.1 would
allow) and 7 (at most 1,000 names are remembered, 13 KiB each, and none that nobody has a route for: anybody can think
of names under a wildcard, which cost those in use nothing).

OpenSSL looks for sessions, and seals and opens tickets, in the context that a connection began in, and doesn't compare
names (3.0 has a TODO there). So each name has a context without a certificate to begin in, made in 0.2 ms; the callback
for the server name then goes on to the context that has the certificate.
"""

from __future__ import annotations

import functools
import ssl
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

LIMIT: Final = 1000  # names remembered
SESSIONS: Final = 256  # that a context may remember, 1 KiB each

# Mozilla's "intermediate" (server side TLS 5.7) less the finite-field groups: they need parameters of their own, and no
# client in use needs them. TLS 1.3 has suites of its own. The client's order counts: it knows whether its AES is fast.
CIPHERS: Final = ":".join(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
    )
)


def blank() -> ssl.SSLContext:
    """What all contexts have in common; no certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    return context


def remembers(context: ssl.SSLContext) -> int:
    """Sessions of clients without tickets (TLS 1.2)."""
    return context.session_stats()["number"]


class _Kept(NamedTuple):
    certificate: ssl.SSLContext
    context: ssl.SSLContext
    record: str


class Sessions:
    """The contexts in which handshakes under wildcards begin. `routed`: whether a name has a route; memory only."""

    def __init__(self, routed: Callable[[str], bool], limit: int = LIMIT) -> None:
        self._routed = routed
        self._limit = limit
        # By name, longest unused first. Those without a route are together under their record's id, which has a "*".
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def begin(self, name: str, record: str, certificate: ssl.SSLContext) -> ssl.SSLContext:
        """For a handshake at `name`, which `certificate`, the context of `record`, then serves."""
        kept = self._kept.get(name)
        resumable = kept is not None or self._routed(name)
        key = name if resumable else record
        if not resumable:
            kept = self._kept.get(record)
            if kept is not None and remembers(kept.context):
                kept = None
        if kept is None or kept.certificate is not certificate:
            kept = self._kept[key] = _Kept(certificate, _beginning(certificate, resumable), record)
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return kept.context

    def relieve(self, name: str) -> None:
        """See `Contexts.relieve`."""
        kept = self._kept.get(name)
        if kept is not None and remembers(kept.context) > SESSIONS:
            del self._kept[name]

    def forget(self, record: str) -> None:
        """The certificate changed or is gone, and with it all that was begun under it."""
        for name in [name for name, kept in self._kept.items() if kept.record == record]:
            del self._kept[name]

    def __len__(self) -> int:
        return len(self._kept)


class _Begun(ssl.SSLObject):
    """Keeps the context that it began in: a second ClientHello (RFC 8446 4.1.4) calls its callback once more, and
    Python holds only the context that a connection has gone on to."""

    began: ssl.SSLContext | None = None


def _beginning(certificate: ssl.SSLContext, resumable: bool) -> ssl.SSLContext:
    """Not `resumable`: without tickets. What TLS 1.2 then remembers can't be turned off: `begin` takes a new one."""
    context = blank()
    context.sslobject_class = _Begun
    context.sni_callback = functools.partial(_go_on, certificate)
    if not resumable:
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _go_on(certificate: ssl.SSLContext, tls: ssl.SSLObject, _name: str | None, began: ssl.SSLContext) -> None:
    if isinstance(tls, _Begun):
        tls.began = began
    tls.context = certificate
