"""What becomes of a ClientHello."""

from __future__ import annotations

import pytest

from gateway.tls.alerts import Refusal
from gateway.tls.client_hello import ClientHello
from gateway.tls.selection import select


def known(name: str) -> bool:
    return name == "app.test"


def challenged(name: str) -> bool:
    return name in ("app.test", "new.test")


@pytest.mark.parametrize("protocols", [[], [b"http/1.1"], [b"h2", b"http/1.1"], [b"http/1.1", b"acme-tls/1"]])
@pytest.mark.parametrize("versions", [[0x0303], [0x0304], [0x7A7A, 0x0305, 0x0303]])
def test_served(protocols: list[bytes], versions: list[int]) -> None:
    assert select(ClientHello("app.test", protocols, versions), known, challenged) == b"http/1.1"


@pytest.mark.parametrize("name", ["app.test", "new.test"])
def test_who_looks_at_a_name_under_challenge(name: str) -> None:
    """With a certificate of its own or without one."""
    assert select(ClientHello(name, [b"acme-tls/1"], [0x0303]), known, challenged) == b"acme-tls/1"


@pytest.mark.parametrize(
    ("hello", "alert", "reason"),
    [
        (ClientHello("app.test", [], [0x0302, 0x0301]), 70, "version"),
        (ClientHello("app.test", [], [0x7A7A]), 70, "version"),
        (ClientHello("", [], [0x0303]), 112, "no_name"),
        (ClientHello("other.test", [b"h2"], [0x0303]), 112, "unknown_name"),
        (ClientHello("app.test", [b"h2", b"acme-tls/1"], [0x0304]), 120, "no_protocol"),
        (ClientHello("app.test", [b"acme-tls/1", b"acme-tls/1"], [0x0304]), 120, "no_protocol"),
        (ClientHello("other.test", [b"acme-tls/1"], [0x0304]), 120, "no_challenge"),
        (ClientHello("app.test", [b"acme-tls/1"], [0x0302]), 70, "version"),
        (ClientHello("", [b"acme-tls/1"], [0x0304]), 112, "no_name"),
    ],
)
def test_refused(hello: ClientHello, alert: int, reason: str) -> None:
    with pytest.raises(Refusal) as caught:
        select(hello, known, challenged)
    assert (caught.value.alert, caught.value.reason) == (alert, reason)
