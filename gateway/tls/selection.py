"""What becomes of a ClientHello: the protocol to speak, or the alert that refuses it. Pure.

Whatever else is offered one day (`h2`) is chosen here. `acme-tls/1` is for whoever comes for it alone, and only while
the name is under challenge: it has a certificate of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.tls.alerts import NO_APPLICATION_PROTOCOL, PROTOCOL_VERSION, UNRECOGNIZED_NAME, Refusal
from gateway.tls.client_hello import ClientHello

OFFERED: Final = (b"http/1.1",)  # by ALPN (RFC 7301), the best first
ACME_TLS: Final = b"acme-tls/1"  # RFC 8737
_OLDEST: Final = 0x0303  # TLS 1.2


def select(hello: ClientHello, known: Callable[[str], bool], challenged: Callable[[str], bool]) -> bytes:
    """The application protocol to speak; a client without ALPN speaks HTTP/1.1. Raises Refusal.

    `known`: whether there is a certificate for a name; `challenged`: whether a certificate authority may look at it.
    """
    if not any(_OLDEST <= version <= 0x0304 for version in hello.versions):
        raise Refusal(PROTOCOL_VERSION, "version")
    if not hello.server_name:
        raise Refusal(UNRECOGNIZED_NAME, "no_name")
    if hello.protocols == [ACME_TLS]:
        if challenged(hello.server_name):
            return ACME_TLS
        raise Refusal(NO_APPLICATION_PROTOCOL, "no_challenge")
    if not known(hello.server_name):
        raise Refusal(UNRECOGNIZED_NAME, "unknown_name")
    if not hello.protocols:
        return OFFERED[0]
    for protocol in OFFERED:
        if protocol in hello.protocols:
            return protocol
    raise Refusal(NO_APPLICATION_PROTOCOL, "no_protocol")
