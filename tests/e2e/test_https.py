"""HTTPS on the real processes: the development CA, its certificate in every worker, redirects, and what may die."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from e2e_node import ROOT, Answer, Node, eventually
from scenes import REPLICA, Reply, deploy, exchange, host
from shared_nodes import SECRET_KEY, SHAKEN, SharedNodes

from gateway import cache
from state.certificates import Certificate
from state.codec import decode, encode
from state.ids import now_us
from state.kinds import Kind
from state.store import Change, Store
from tests.conftest import Valkey

pytestmark = pytest.mark.e2e

WEB = host("acme", "web")
DOMAIN, WILDCARD = "apps.localhost", "*.apps.localhost"
UNRECOGNIZED_NAME = "UNRECOGNIZED_NAME"  # alert 112
pair = pytest.mark.xdist_group("https pair")
redirecting = pytest.mark.xdist_group("https redirects")


@pytest.fixture(scope="module")
def emptied(shared_nodes: SharedNodes) -> None:
    shared_nodes.empty(SHAKEN)


@pytest.fixture
def node(emptied: None, shared_nodes: SharedNodes) -> Node:
    return shared_nodes.get(SHAKEN)


@pytest.fixture
def web(node: Node) -> Node:
    """With a service that answers as `WEB`, the same for all of these tests."""
    if node.api("GET", "/acme/service/web").status == 404:
        running(node)
    return node


def trusting(node: Node) -> ssl.SSLContext:
    """A client that trusts this node's CA and nothing else."""
    return ssl.create_default_context(cafile=str(node.data / "ca.pem"))


@contextlib.contextmanager
def connection(node: Node, name: str, context: ssl.SSLContext | None = None) -> Iterator[ssl.SSLSocket]:
    raw = socket.create_connection(("127.0.0.1", node.https_port), timeout=20)
    with raw, (context or trusting(node)).wrap_socket(raw, server_hostname=name) as secure:
        yield secure


def ask(secure: ssl.SSLSocket, name: str) -> int:
    """The status of one answer; the connection can be used again."""
    secure.sendall(f"GET /x HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = secure.recv(65536)
        assert piece, "cut"
        answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += secure.recv(65536)
    return int(head.split()[1])


def status(node: Node, name: str, context: ssl.SSLContext | None = None) -> int:
    with connection(node, name, context) as secure:
        return ask(secure, name)


def serial(node: Node, name: str = WEB) -> int:
    with connection(node, name) as secure:
        der = secure.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def running(node: Node) -> None:
    node.commit("acme/web", {"Procfile": "web: exec python3 server.py\n", "server.py": REPLICA})
    node.create("acme", "web", min_replicas=1)
    node.wait_status("acme", "web", "running")


def curl(node: Node, *arguments: str) -> Answer:
    command = ["curl", "-sS", "-o", "-", "-w", "\n%{http_code}", "--cacert", str(node.data / "ca.pem"), *arguments]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    body, _, code = done.stdout.rpartition(b"\n")
    return Answer(int(code or 0), {"error": done.stderr.decode()}, body)


# What is served


@SHAKEN.group
def test_a_node_serves_https_with_a_chain_of_its_ca(node):
    lines = [line for line in node.lines() if line.startswith(("http ", "https ", "api ", "ready"))]
    assert [line.split()[0] for line in lines] == ["http", "https", "api", "ready"]
    assert lines[1] == f"https https://127.0.0.1:{node.https_port}"
    for name in (host("acme", "fresh"), DOMAIN):
        assert status(node, name) == 404
    with connection(node, host("acme", "fresh")) as secure:
        assert secure.version() == "TLSv1.3"
        names = [name for kind, name in secure.getpeercert()["subjectAltName"] if kind == "DNS"]
        assert names == [DOMAIN, WILDCARD]
    with pytest.raises(ssl.SSLCertVerificationError):
        status(node, WEB, ssl.create_default_context())
    with pytest.raises(ssl.SSLError, match=UNRECOGNIZED_NAME):
        status(node, "www.example.com")


@SHAKEN.group
def test_a_service_is_served_over_https(web):
    assert status(web, WEB) == 200
    assert web.service("acme", "web")["endpoint"] == f"http://{WEB}:{web.http_port}"  # clients don't trust the CA


@SHAKEN.group
def test_curl_with_the_ca_of_the_data_directory(web):
    url = f"https://{WEB}:{web.https_port}/x"
    resolved = ("--resolve", f"{WEB}:{web.https_port}:127.0.0.1", url)
    for options in ((), ("--tlsv1.2", "--tls-max", "1.2"), ("--tlsv1.3",)):
        answer = curl(web, *options, *resolved)
        assert answer.status == 200, answer
    assert curl(web, "--tls-max", "1.1", *resolved).status == 0
    assert "certificate" in curl(web, "--cacert", "/etc/ssl/certs/ca-certificates.crt", *resolved).headers["error"]


@SHAKEN.group
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_session_of_one_tenant_resumes_nothing_at_another(node, version):
    service = version.strip("-").replace("_", "-")
    for tenant in ("acme", "beta"):
        deploy(node, tenant, service)
    acme, beta, session = host("acme", service), host("beta", service), str(node.root / "session")
    for name, other in ((acme, beta), (beta, acme)):
        reused(node, version, name, "-sess_out", session)
        assert not any(reused(node, version, other, "-sess_in", session) for _ in range(8))
        assert any(
            reused(node, version, name, "-sess_in", session) for _ in range(64)
        )  # workers have keys of their own


def reused(node: Node, version: str, name: str, *session: str) -> bool:
    """Whether OpenSSL's client says that a connection for one request resumed its session."""
    where = ("-connect", f"127.0.0.1:{node.https_port}", "-servername", name)
    request = b"GET /x HTTP/1.1\r\nHost: elsewhere.test\r\nConnection: close\r\n\r\n"
    command = ["openssl", "s_client", "-ign_eof", version, *where, *session]
    done = subprocess.run(command, input=request, capture_output=True, check=False, timeout=20)
    assert b"HTTP/1.1 421 " in done.stdout, done
    return b"\nReused, TLSv" in done.stdout


@SHAKEN.group
def test_metrics_tell_how_long_certificates_last(node):
    text = node.api("GET", "/metrics", key="").body.decode()
    for name in (DOMAIN, WILDCARD):
        of_name = f'wakegate_certificate_expiry_seconds{{domain="{name}"}}'
        seconds = next(float(line.split()[1]) for line in text.splitlines() if line.startswith(of_name))
        assert 89 * 86400 < seconds < 90 * 86400 + 1


@SHAKEN.group
def test_what_is_kept_where(node):
    ca = node.data / "ca.pem"
    assert ca.stat().st_mode & 0o777 == 0o644
    assert "PRIVATE" not in ca.read_text()
    assert "PRIVATE" not in "".join(path.read_text("latin-1") for path in (node.data / "appendonlydir").iterdir())
    eventually((node.data / "cache" / "routes").exists, what="the cache is written")
    assert b"PRIVATE" not in (node.data / "cache" / "routes").read_bytes()
    trust = [sys.executable, "-m", "wakegate", "trust", "--data-dir", str(node.data), "--print"]
    printed = subprocess.run(trust, cwd=ROOT, env=node.env, capture_output=True, text=True, check=True)
    assert printed.stdout == ca.read_text()


@SHAKEN.group
def test_workers_don_t_get_the_secret_key(node):
    assert status(node, DOMAIN) == 404
    for number in (1, 2):
        environment = Path(f"/proc/{node.child(f'worker {number}')}/environ").read_bytes()
        assert SECRET_KEY.encode() not in environment


def test_a_port_in_use_is_named(make_node):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        node = make_node(options=["--https", address]).start(wait=False)
        assert node.process.wait(60) == 1
    assert f"--https {address}: already in use" in node.said
    both = make_node(options=["--http", "127.0.0.1:7777", "--https", "127.0.0.1:7777"]).start(wait=False)
    assert both.process.wait(60) == 2
    assert "--https: 127.0.0.1:7777 overlaps with 127.0.0.1:7777 of --http" in both.said


# One CA for one store


@pytest.fixture(scope="module")
def its_node(make_shared_node: Callable[..., Node]) -> Node:
    """A node that sends its clients to HTTPS."""
    return make_shared_node(workers=1, options=["--https-redirect", "on", "--hsts", "3600", "--public-https", "443"])


@pytest.fixture
def redirecting_node(its_node: Node) -> Node:
    return its_node if its_node.process and not its_node.exited else its_node.start()


@redirecting
def test_redirects_and_hsts(redirecting_node):
    node = redirecting_node
    running(node)
    moved = node.request(WEB, "/a?b=c")
    assert (moved.status, moved.headers["Location"]) == (308, f"https://{WEB}/a?b=c")
    assert node.service("acme", "web")["endpoint"] == f"https://{WEB}"
    with connection(node, WEB) as secure:
        secure.sendall(f"GET /x HTTP/1.1\r\nHost: {WEB}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: secure.recv(65536), b""))
    assert b"200" in answer.split(b"\r\n")[0]
    assert b"strict-transport-security: max-age=3600" in answer.lower()


@redirecting
def test_restarts_keep_the_ca_and_the_certificate_and_another_domain_gets_one_of_the_same_ca(redirecting_node):
    node = redirecting_node
    ca, number = (node.data / "ca.pem").read_text(), serial(node)
    assert node.stop() == 0
    node.start()
    assert (node.data / "ca.pem").read_text() == ca
    assert serial(node) == number
    assert node.stop() == 0
    node.options += ["--domain", "other.localhost"]
    node.start()
    del node.options[-2:]
    assert (node.data / "ca.pem").read_text() == ca
    assert status(node, "web-acme.other.localhost") == 404
    assert node.stop() == 0


@pytest.fixture(scope="module")
def store() -> Iterator[Valkey]:
    server = Valkey()
    server.start()
    yield server
    server.close()


def on(store: Valkey, number: int, *options: str) -> dict[str, Any]:
    """The settings of one of several nodes on a store, with one secret key."""
    uids = f"{61000 + 100 * number}-{61099 + 100 * number}"
    return {
        "workers": 1,
        "options": ["--redis", store.url, "--process-uids", uids, *options],
        "env": {"WAKEGATE_SECRET_KEY": SECRET_KEY},
    }


@pytest.fixture(scope="module")
def nodes(make_shared_node: Callable[..., Node], store: Valkey) -> tuple[Node, Node]:
    """Two that began at the same time."""
    one, two = (make_shared_node(**on(store, number)) for number in (1, 2))
    for node in (one, two):
        node.start(wait=False)
    for node in (one, two):
        node.wait_ready()
    return one, two


@pair
def test_two_controls_on_one_store_make_one_ca(nodes):
    """And what they serve is there at once."""
    one, two = nodes
    assert (one.data / "ca.pem").read_text() == (two.data / "ca.pem").read_text()
    assert status(two, WEB, trusting(one)) == status(one, WEB, trusting(two)) == 404
    assert serial(one) == serial(two)


@pair
def test_a_node_of_another_domain_is_ready_and_says_what_it_lacks(nodes, store, make_node):
    other = make_node(**on(store, 3, "--domain", "other.localhost")).start()
    assert "no certificate for other.localhost yet: the control that leads makes one" in other.said
    assert status(other, WEB, trusting(nodes[0])) == 404


@pair
def test_a_start_without_the_store_serves_tls_from_the_cache(nodes, store, make_node):
    edge = make_node(**on(store, 4, "--role", "gateway")).start()
    routes = edge.data / "cache" / "routes"
    eventually(lambda: routes.exists() and (cache.load(routes) or {}).get(Kind.CERTIFICATE), what="the cache has it")
    assert edge.stop() == 0
    store.kill()
    try:
        edge.start()
        assert "from the cache" in edge.said
        assert status(edge, WEB, trusting(nodes[0])) == 503  # the host may be in the store, and not in the cache
    finally:
        store.start()


@SHAKEN.group
def test_a_worker_with_another_secret_key_is_refused_with_the_fix(node, make_node):
    other = base64.b64encode(os.urandom(32)).decode()
    options = ["--redis", f"unix://{node.data}/store.sock", "--role", "gateway"]
    wrong = make_node(workers=1, options=options, env={"WAKEGATE_SECRET_KEY": other}).start(wait=False)
    assert wrong.process.wait(30) == 1
    assert "error: the store was written with another secret key: set WAKEGATE_SECRET_KEY, or put" in wrong.said


def test_a_damaged_secret_key_is_told(make_node):
    node = make_node()
    node.data.mkdir()
    (node.data / "secret.key").write_text("damaged")
    node.start(wait=False)
    assert node.process.wait(60) == 1
    assert f"the secret key can't be read: {node.data}/secret.key: " in node.said


# What dies and what changes


def of_store(node: Node, work: Callable[[Store], object]) -> None:
    async def run() -> None:
        store = Store(f"unix://{node.data}/store.sock")
        await work(store)
        await store.close()

    asyncio.run(run())


async def _make_due(store: Store) -> None:
    """As if its time had come: what decides is the record, what is served stays the same until it is replaced."""
    changes = []
    for name in (DOMAIN, WILDCARD):
        record = await store.get(Kind.CERTIFICATE, name)
        assert record is not None
        due = replace(decode(Certificate, record.value), not_after=now_us() + 60_000_000)
        changes.append(Change(Kind.CERTIFICATE, name, encode(due), record.version))
    await store.commit(changes)


@SHAKEN.group
def test_a_renewal_is_served_at_once_and_cuts_nothing(web):
    before, wrong, done = serial(web), [], threading.Event()

    def keep_asking() -> None:
        context = trusting(web)
        while not done.is_set():
            try:
                if (got := status(web, WEB, context)) != 200:
                    wrong.append(got)
            except (OSError, AssertionError) as error:
                wrong.append(error)

    asking = threading.Thread(target=keep_asking)
    with connection(web, WEB) as old:
        assert ask(old, WEB) == 200
        asking.start()
        try:
            of_store(web, _make_due)
            eventually(lambda: serial(web) != before, what="the new certificate is served")
        finally:
            done.set()
            asking.join()
        assert ask(old, WEB) == 200
    assert wrong == []


@SHAKEN.group
async def test_a_killed_worker_cuts_its_own_connections_only(web):
    """Keep-alive clients over TLS: whoever was cut connects again at once, by a neighbour on the dead one's socket."""
    context, cuts, answered, done = trusting(web), 0, 0, asyncio.Event()

    async def client() -> None:
        nonlocal cuts, answered
        while not done.is_set():
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", web.https_port, ssl=context, server_hostname=WEB
            )
            try:
                while not done.is_set():
                    reply = await exchange(reader, writer, WEB)
                    assert isinstance(reply, Reply)
                    assert reply.status == 200
                    answered += 1
            except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                cuts += 1
            finally:
                writer.close()

    async def more(count: int) -> None:
        goal = answered + count
        async with asyncio.timeout(60):
            while answered < goal:
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(16):
            tasks.create_task(client())
        await more(200)
        killed = web.kill("worker 1", signal.SIGKILL)
        await more(200)
        await asyncio.to_thread(web.replaced, "worker 1", killed)
        await more(200)
        done.set()
    assert 0 < cuts <= 16


# Options


def test_behind_a_balancer_that_ends_tls(make_node):
    """It tells the client's address by the PROXY protocol, and by which way he came in X-Forwarded-Proto."""
    options = ["--https", "off", "--public-https", "443", "--https-redirect", "on", "--trusted-proxies", "127.0.0.0/8"]
    node = make_node(workers=1, options=options).start()
    assert not [line for line in node.lines() if line.startswith("https ")]
    running(node)
    assert node.request(WEB, "/a").headers["Location"] == f"https://{WEB}/a"
    assert node.request(WEB, "/x", headers={"X-Forwarded-Proto": "https"}).status == 200
    with socket.create_connection(("127.0.0.1", node.http_port), timeout=20) as client:
        client.sendall(b"PROXY TCP4 203.0.113.7 192.0.2.1 5 80\r\n")
        client.sendall(f"GET /preface HTTP/1.1\r\nHost: {WEB}\r\nConnection: close\r\n\r\n".encode())
        assert b"308" in b"".join(iter(lambda: client.recv(65536), b"")).split(b"\r\n")[0]
    logged = (node.data / "access.log").read_text
    line = json.loads(
        eventually(lambda: next((x for x in logged().splitlines() if "/preface" in x), ""), what="logged")
    )
    assert line["client"] == "203.0.113.7"


@SHAKEN.group
def test_names_of_the_platform_are_not_redirected_by_themselves(web):
    assert web.request(WEB, "/x").status == 200
