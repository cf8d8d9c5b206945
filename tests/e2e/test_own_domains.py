"""Domains and certificates of their owners on the real processes: what a call returned from is so at every worker.

What DNS proves is written as the leader writes it; that it is proved by DNS has tests of its own.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace

import pytest
from e2e_node import Answer, Node, eventually
from scenes import REPLICA, Reply, ask
from shared_nodes import WIDE
from test_https import connection, of_store, status

from certs.claims import claim_id
from state.certificates import Domain, Proof
from state.codec import decode, encode
from state.ids import now_us
from state.kinds import Kind
from state.models import Route
from state.store import Change, Conflict, Store
from tests.chains import Issued, authority, issue

pytestmark = [pytest.mark.e2e, WIDE.group]

WWW, APEX = "www.own-domain.com", "own-domain.com"
SERVICE = "/auth/v1/seed/acme/services/web"
HOUR = 3_600_000_000  # microseconds
ROOT = authority()
LEAF = issue([WWW], ROOT)
MANY = 12  # connections: each worker has some


@pytest.fixture
def web(wide_node: Node) -> Node:
    """A node of four workers with the service `web` of acme, which has two domains that were proved."""
    node = wide_node
    node.commit("acme/replica", {"Procfile": "web: exec python3 server.py\n", "server.py": REPLICA})
    node.create("acme", "web", repo="acme/replica", min_replicas=1, custom_domain=WWW)
    node.wait_status("acme", "web", "running")
    assert node.api("POST", f"{SERVICE}/domains", {"domain": APEX}).status == 201
    for name in (WWW, APEX):
        of_store(node, lambda store, name=name: _prove(store, name))
        eventually(lambda name=name: node.request(name).status == 200, what=f"{name} is routed")
    return node


async def _prove(store: Store, name: str) -> None:
    while True:
        record = await store.get(Kind.DOMAIN, claim_id("acme", name))
        assert record is not None
        claim = decode(Domain, record.value)
        proved = replace(claim, proof=Proof.VERIFIED, held=True, pointing=True, check_at=now_us() + HOUR)
        changes = [
            Change(Kind.DOMAIN, claim_id("acme", name), encode(proved), record.version),
            Change(Kind.ROUTE, name, encode(Route(claim.service, "acme", "web"))),
        ]
        try:
            await store.commit(changes)
        except Conflict:
            continue
        return


def upload(node: Node, leaf: Issued = LEAF) -> Answer:
    return node.api("PUT", f"{SERVICE}/domains/{WWW}/certificate", {"certificate": leaf.pem, "key": leaf.key_pem})


def context(root: Issued = ROOT) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=root.pem)


def over_tls(node: Node, name: str = WWW) -> list[int]:
    return [status(node, name, context()) for _ in range(MANY)]


def refused(node: Node, name: str = WWW) -> None:
    """No worker has the own certificate: it has none, or already one of the development CA."""
    for _ in range(MANY):
        with pytest.raises(ssl.SSLError), connection(node, name, context()):
            pass


async def many(node: Node, name: str) -> list[Reply | str]:
    return await asyncio.gather(*(ask(node.http_port, name) for _ in range(MANY)))


def test_an_own_certificate_is_served_by_every_worker_and_gone_from_every_worker(web: Node) -> None:
    assert upload(web).status == 200
    assert over_tls(web) == [200] * MANY
    other = issue([WWW], ROOT)
    assert upload(web, other).status == 200
    for _ in range(MANY):
        with connection(web, WWW, context()) as secure:
            assert secure.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(other.pem)
    assert web.api("DELETE", f"{SERVICE}/domains/{WWW}/certificate").status == 204
    refused(web)
    assert web.request(WWW).status == 200
    secret = other.key_pem.splitlines()[1].encode()
    kept = [file for file in web.root.rglob("*") if file.is_file() and secret in file.read_bytes()]
    assert kept == []


async def test_a_removed_domain_is_served_by_no_worker_and_the_other_goes_on(web: Node) -> None:
    assert (await asyncio.to_thread(upload, web)).status == 200
    removed = await asyncio.to_thread(web.api, "DELETE", f"{SERVICE}/domains/{WWW}")
    assert removed.status == 204
    replies = await many(web, WWW)
    assert [reply.status for reply in replies if isinstance(reply, Reply)] == [404] * MANY
    await asyncio.to_thread(refused, web)
    assert {reply.status for reply in await many(web, APEX) if isinstance(reply, Reply)} == {200}
    shown = await asyncio.to_thread(web.service, "acme", "web")
    assert (shown["custom_domain"], [one["name"] for one in shown["domains"]]) == (APEX, [APEX])
    again = await asyncio.to_thread(web.api, "POST", f"{SERVICE}/domains", {"domain": WWW})
    assert (again.status, again.json()["certificate"]) == (201, None)
    assert {reply.status for reply in await many(web, WWW) if isinstance(reply, Reply)} == {404}


def test_a_deleted_service_s_domain_answers_503_over_its_certificate_until_a_sister_has_it(web: Node) -> None:
    assert upload(web).status == 200
    assert web.api("DELETE", SERVICE).status == 204
    assert over_tls(web) == [503] * MANY
    assert {web.request(APEX).status for _ in range(MANY)} == {503}
    sister = web.create("acme", "sister", repo="acme/replica", custom_domain=WWW)
    assert sister["domain"]["status"] == "pending_dns"
    assert web.api("DELETE", f"/auth/v1/seed/acme/services/sister/domains/{WWW}").status == 204
    assert {web.request(WWW).status for _ in range(MANY)} == {404}
    refused(web)
