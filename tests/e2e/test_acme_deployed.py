"""Custom domains on real nodes with a real CA: pebble, a proxy before it that counts, and a DNS of our own.

The CA finds the nodes by DNS and looks at their own listeners; what it issues is checked against its root alone.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from e2e_node import Node, eventually
from scenes import deploy

from tests.acme_process import ProxyProcess
from tests.conftest import Valkey
from tests.dns_responder import DnsProcess
from tests.pebble import Pebble, free_port

pytestmark = pytest.mark.e2e

PLATFORM = "apps.test"
SERVICES = "/auth/v1/seed/acme/services"


@dataclass
class Internet:
    """Where the CA looks, what DNS says, and who counts."""

    pebble: Pebble
    proxy: ProxyProcess
    dns: DnsProcess
    nodes: list[Node] = field(default_factory=list)

    def options(self) -> list[str]:
        """Of a node that the CA reaches."""
        host, port = self.dns.address
        return [
            *("--http", f"127.0.0.1:{self.pebble.http_port}", "--https", f"127.0.0.1:{self.pebble.tls_port}"),
            *("--domain", PLATFORM, "--dns-server", f"{host}:{port}"),
            *("--acme-directory", self.proxy.directory, "--acme-ca-bundle", str(self.pebble.ca)),
            *("--acme-email", "ops@example.com"),
        ]

    def points(self, domain: str, label: str) -> None:
        self.dns.put(domain, "CNAME", f"{label}.{PLATFORM}")

    def trusting(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata="\n".join(self.pebble.roots()))
        return context

    @contextlib.contextmanager
    def visit(self, domain: str, context: ssl.SSLContext | None = None) -> Iterator[ssl.SSLSocket]:
        raw = socket.create_connection(("127.0.0.1", self.pebble.tls_port), timeout=20)
        with raw, (context or self.trusting()).wrap_socket(raw, server_hostname=domain) as secure:
            yield secure

    def orders(self) -> int:
        return self.proxy.counts().get("newOrder", 0)


def get(secure: ssl.SSLSocket, domain: str, path: str = "/x") -> tuple[int, bytes]:
    secure.sendall(f"GET {path} HTTP/1.1\r\nHost: {domain}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = secure.recv(65536)
        assert piece, "the connection was cut"
        answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += secure.recv(65536)
    return int(head.split()[1]), body


@pytest.fixture
def internet(pebbles: Callable[..., Pebble]) -> Iterator[Callable[..., Internet]]:
    """Made with the settings of a pebble."""
    with contextlib.ExitStack() as stack:

        def make(**settings: Any) -> Internet:
            dns = stack.enter_context(DnsProcess())
            dns.put(f"*.{PLATFORM}", "A", "127.0.0.1")
            address = f"{dns.address[0]}:{dns.address[1]}"
            ports = {"http_port": free_port(), "tls_port": free_port()}
            pebble = pebbles(dns=address, **ports, **settings)
            return Internet(pebble, stack.enter_context(ProxyProcess(pebble)), dns)

        yield make


def active(node: Node, name: str, seconds: float = 60) -> dict[str, Any]:
    """The service's first domain, once its certificate is served."""
    seen: dict[str, Any] = {}

    def there() -> bool:
        seen.clear()
        seen.update(node.service("acme", name)["domain"])
        return seen["status"] == "active"

    try:
        eventually(there, seconds)
    except AssertionError:
        raise AssertionError(f"not active: {seen}; {node.api('GET', f'/acme/service/{name}/events').json()}") from None
    return seen


@pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01"])
def test_a_domain_is_served_with_a_certificate_of_one_order(
    internet: Callable[..., Internet], make_node: Callable[..., Node], challenge: str
) -> None:
    net = internet()
    only = ["--public-http", "80"] if challenge == "http-01" else ["--public-https", "443"]
    node = make_node(options=[*net.options(), *only]).start()
    net.points("www.shop.test", "web-acme")
    deploy(node, "acme", "web", custom_domain="www.shop.test")
    domain = active(node, "web")
    assert domain["certificate"]["trusted"]
    assert domain["certificate"]["issuer"] == net.proxy.directory
    record = domain["records"][0]
    assert (record["type"], record["observed"]) == ("CNAME", record["value"])
    with net.visit("www.shop.test") as secure:
        assert get(secure, "www.shop.test")[0] == 200
    redirected = node.request("www.shop.test", "/a?b")
    assert redirected.status == 308
    assert redirected.headers["Location"].startswith("https://www.shop.test")
    assert net.orders() == 1
    asked = [seen for seen in net.proxy.requests() if seen["kind"] == "challenge" and seen["payload"] == {}]
    assert asked, "the CA was told to look"
    kinds = [event["kind"] for event in node.api("GET", "/acme/service/web/events?limit=1000").json()["items"]]
    assert kinds.count("certificate.issued") == 1
    keys = [path for path in node.data.rglob("*") if path.is_file() and b"PRIVATE KEY-----" in path.read_bytes()]
    assert keys == [], "no key is in a file in the clear"


def test_a_wrong_or_removed_domain_causes_no_order_and_is_nobody_else_s(
    internet: Callable[..., Internet], make_node: Callable[..., Node]
) -> None:
    net = internet()
    node = make_node(options=net.options()).start()
    net.points("www.shop.test", "other-acme")
    deploy(node, "acme", "web", custom_domain="www.shop.test")
    wrong = eventually(lambda: claimed(node, "acme", "web", "cname_mismatch"))
    assert wrong["status"] == "pending_dns"
    assert wrong["records"][0]["observed"] == f"other-acme.{PLATFORM}"
    assert node.request("www.shop.test").status == 404
    net.points("www.shop.test", "web-acme")
    assert node.api("PUT", f"{SERVICES}/web", {"custom_domain": "www.shop.test"}).status == 200  # look again
    active(node, "web")
    with net.visit("www.shop.test") as kept:
        assert get(kept, "www.shop.test")[0] == 200
        assert node.api("PUT", f"{SERVICES}/web", {"custom_domain": None}).status == 200
        assert get(kept, "www.shop.test")[0] == 404
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"), net.visit("www.shop.test"):
        pass
    orders = net.orders()
    assert orders == 1
    deploy(node, "evil", "web", custom_domain="www.shop.test")  # the CNAME still leads to the service of acme
    eventually(lambda: claimed(node, "evil", "web", "cname_mismatch"))
    assert node.request("www.shop.test").status == 404
    assert net.orders() == orders
    net.dns.put("www.shop.test", "CNAME", f"web-evil.{PLATFORM}")  # acme gives it away
    assert node.api("PUT", "/auth/v1/seed/evil/services/web", {"custom_domain": "www.shop.test"}).status == 200
    eventually(lambda: claimed(node, "evil", "web", None).get("status") == "active", 60)
    with net.visit("www.shop.test") as secure:
        assert get(secure, "www.shop.test")[0] == 200


def claimed(node: Node, namespace: str, name: str, reason: str | None) -> dict[str, Any]:
    """The service's first domain once it has this reason."""
    domain: dict[str, Any] = node.service(namespace, name)["domain"]
    return domain if domain["reason"] == reason else {}


@pytest.fixture
def two_nodes(
    internet: Callable[..., Internet], make_node: Callable[..., Node], valkey: Valkey
) -> tuple[Internet, Node, Node]:
    """With one store; both may order, the first one's listeners are where the CA looks."""
    net = internet()
    secret = {"WAKEGATE_SECRET_KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}
    shared = ["--redis", valkey.url]
    here = [*net.options(), *shared, "--process-uids", "61000-61099"]
    first = make_node(workers=1, options=here, env=secret).start()
    elsewhere = ["--https", "127.0.0.1:0", *net.options()[4:], *shared, "--process-uids", "61100-61199"]
    elsewhere += ["--git-url", f"file://{first.git}/{{repo}}"]
    second = make_node(workers=1, options=elsewhere, env=secret).start(wait=False)
    second.wait_ready()
    (second.data / "admin.key").write_text(first.admin_key)  # the store's, made by the first
    return net, first, second


def ordered(net: Internet, node: Node, names: list[str]) -> None:
    """By one node; from then on each is to become active."""
    for name in names:
        net.points(f"{name}.shop.test", f"{name}-acme")
    for name in names:
        deploy(node, "acme", name, custom_domain=f"{name}.shop.test")


def test_two_nodes_make_one_order_for_each_of_their_domains(two_nodes: tuple[Internet, Node, Node]) -> None:
    net, first, second = two_nodes
    names = ["web0", "web1", "web2"]
    ordered(net, first, names)
    for name in names:
        active(second, name)
        with net.visit(f"{name}.shop.test") as secure:
            assert get(secure, f"{name}.shop.test")[0] == 200
    assert net.orders() == len(names)
    # Control dies while it orders. What it had begun to prove is taken up, not ordered again; only an order
    # whose answer was still on its way may be asked for once more.
    names = ["web3", "web4", "web5", "web6"]
    ordered(net, first, names)
    first.kill("control")
    for name in names:
        active(second, name)
    twice, begun = [], set()
    for seen in net.proxy.requests():
        if seen["kind"] == "newOrder":
            twice += begun.intersection(seen["names"])
        if seen["kind"] in ("order", "authorization"):
            begun.update(seen["names"])
    assert begun == {f"web{number}.shop.test" for number in range(7)}
    assert twice == []
    assert net.orders() <= 3 + 2 * len(names)


def test_a_certificate_of_fifteen_seconds_renews_ten_times_under_load(
    internet: Callable[..., Internet], make_node: Callable[..., Node]
) -> None:
    net = internet(validity=15, nonce_reject=5)
    node = make_node(options=net.options()).start()
    net.points("www.shop.test", "web-acme")
    deploy(node, "acme", "web", custom_domain="www.shop.test")
    active(node, "web")
    stop, failures, counted = threading.Event(), [], [0, 0]
    serials: set[bytes] = set()

    def handshakes() -> None:
        trusting = net.trusting()
        while not stop.is_set():
            try:
                with net.visit("www.shop.test", trusting) as secure:
                    serials.add(secure.getpeercert(binary_form=True) or b"")
                    assert get(secure, "www.shop.test")[0] == 200
                counted[0] += 1
            except (OSError, AssertionError) as error:
                failures.append(error)
            stop.wait(0.2)

    def kept_open() -> None:
        with net.visit("www.shop.test") as secure:
            while not stop.is_set():
                assert get(secure, "www.shop.test")[0] == 200
                counted[1] += 1
                stop.wait(0.2)

    threads = [threading.Thread(target=work) for work in (handshakes, handshakes, kept_open)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 220
    try:
        while len(serials) < 11 and not failures and time.monotonic() < deadline:
            stop.wait(0.2)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert failures == []
    assert len(serials) >= 11, f"{len(serials)} certificates in {counted[0]} handshakes"
    assert counted[1] > 100
    kinds = [event["kind"] for event in node.api("GET", "/acme/service/web/events?limit=1000").json()["items"]]
    assert kinds.count("certificate.renewed") >= 10
    assert "certificate.failed" not in kinds
