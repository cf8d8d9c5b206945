"""A custom domain from the API's call to the padlock, on the real processes, with a real CA that looks at real workers.

Pebble asks the same DNS as the node does, and looks at the node's own listeners.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator

import pytest
from cryptography import x509
from e2e_node import Node, eventually
from scenes import deploy, host

from tests.dns_responder import DnsProcess
from tests.pebble import Pebble

pytestmark = pytest.mark.e2e

NAME = "www.acme.test"
KINDS = {"http": ("--public-http", "80"), "tls": ("--public-http", "8080", "--public-https", "443")}


@pytest.fixture
def names() -> Iterator[DnsProcess]:
    with DnsProcess() as responder:
        responder.put("*.apps.localhost", "A", "127.0.0.1")
        yield responder


def with_ca(make_node: Callable[..., Node], pebble: Pebble, names: DnsProcess, *options: str) -> Node:
    """A node whose CA is `pebble`."""
    listeners = ("--http", f"127.0.0.1:{pebble.http_port}", "--https", f"127.0.0.1:{pebble.tls_port}")
    asked = ("--acme-directory", pebble.directory, "--acme-ca-bundle", str(pebble.ca))
    dns = ("--dns-server", "{}:{}".format(*names.address))
    return make_node(workers=1, options=[*listeners, *asked, *dns, *options]).start()


def served(pebble: Pebble, name: str) -> tuple[int, x509.Certificate]:
    """The status of an answer over HTTPS, as a client that trusts the CA alone sees it, and the certificate."""
    trust = ssl.create_default_context(cadata="".join(pebble.roots()))
    raw = socket.create_connection(("127.0.0.1", pebble.tls_port), timeout=20)
    with raw, trust.wrap_socket(raw, server_hostname=name) as secure:
        certificate = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
        secure.sendall(f"GET /x HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        answer = http.client.HTTPResponse(secure)
        answer.begin()
        return answer.status, certificate


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_custom_domain_is_served_by_a_certificate_of_the_ca(
    make_node: Callable[..., Node], pebbles: Callable[..., Pebble], names: DnsProcess, kind: str
) -> None:
    pebble = pebbles(dns="{}:{}".format(*names.address))
    node = with_ca(make_node, pebble, names, *KINDS[kind])
    names.put(NAME, "CNAME", host("acme", "web"))
    deploy(node, "acme", "web", custom_domain=NAME)
    node.wait_status("acme", "web", "running")

    def active() -> bool:
        return node.service("acme", "web")["domain"]["status"] == "active"

    eventually(active, 60, "the domain is active")
    told = node.service("acme", "web")["domain"]["certificate"]
    assert told["trusted"] is True
    status, certificate = served(pebble, NAME)
    assert status == 200
    names_of = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names_of.get_values_for_type(x509.DNSName) == [NAME]
    metrics = node.api("GET", "/metrics").body.decode()
    assert 'wakegate_acme_orders_total{result="issued"} 1.0' in metrics
    assert f'wakegate_certificate_expiry_seconds{{domain="{NAME}"}}' in metrics
    assert 'wakegate_domain_checks_total{result="answered"}' in metrics
    events = node.api("GET", "/acme/service/web/events").json()["items"]
    kinds = [event["kind"] for event in events]
    assert kinds.count("certificate.ordered") == kinds.count("certificate.issued") == 1
