"""What becomes of a ClientHello: the protocol to speak, or the alert that refuses it. Pure.

Whatever else is offered one day (`h2`; `acme-tls/1`, which brings a certificate of its own) is chosen here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.tls.alerts import NO_APPLICATION_PROTOCOL, PROTOCOL_VERSION, UNRECOGNIZED_NAME, Refusal
from gateway.tls.client_hello import ClientHello

OFFERED: Final = (b"http/1.1",)  # by ALPN (RFC 7301), the best first
_OLDEST: Final = 0x0303  # TLS 1.2


def select(hello: ClientHello, known: Callable[[str], bool]) -> bytes:
    """The application protocol to speak; a client without ALPN speaks HTTP/1.1. Raises Refusal.

    `known`: whether there is a certificate for a name.
    """
    if not any(_OLDEST <= version <= 0x0304 for version in hello.versions):
        raise Refusal(PROTOCOL_VERSION, "version")
    if not hello.server_name:
        raise Refusal(UNRECOGNIZED_NAME, "no_name")
    if not known(hello.server_name):
        raise Refusal(UNRECOGNIZED_NAME, "unknown_name")
    if not hello.protocols:
        return OFFERED[0]
    for protocol in OFFERED:
        if protocol in hello.protocols:
            return protocol
    raise Refusal(NO_APPLICATION_PROTOCOL, "no_protocol")
