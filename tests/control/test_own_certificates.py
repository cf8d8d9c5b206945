"""Certificates that owners give for their domains: over HTTP, into the store, and never out again."""

from __future__ import annotations

import ssl

import pytest
from domain_parts import (
    CERTIFICATE_VAULT,
    TOKEN_KEY,
    WRITE,
    add,
    certificate,
    change,
    events,
    get,
    kept,
    prove,
    put,
    remove,
    serve,
    stored,
)

from certs.proof import token
from gateway.tls.contexts import Material, build
from state.certificates import Proof
from state.kinds import Kind
from state.secret_key import SecretError
from tests.chains import authority, issue, key_pem, p256

DOMAIN = "www.acme.com"
PLACE = f"{WRITE.format('acme', 'api')}/{DOMAIN}/certificate"
ROOT = authority()
MIDDLE = authority("middle", ROOT)
LEAF = issue([DOMAIN, "acme.com"], MIDDLE)
BODY = {"certificate": LEAF.pem + MIDDLE.pem, "key": LEAF.key_pem}


@pytest.fixture
async def held(rig):
    """The service `api` of acme, and its domain, which was proved."""
    assert (await rig.create("api", custom_domain=DOMAIN)).status == 201
    await prove(rig, DOMAIN)
    return rig


async def upload(rig, body=BODY, **more):
    return await rig.api("PUT", PLACE, body, **more)


async def test_an_own_certificate_is_stored_sealed_and_served_by_workers(held):
    answer = await upload(held)
    assert answer.status == 200, answer.text
    shown = answer.json
    assert shown["status"] == "active"
    assert shown["certificate"] == {
        "issuer": "uploaded", "not_before": shown["certificate"]["not_before"],
        "not_after": shown["certificate"]["not_after"], "renew_at": None, "trusted": False,
    }  # fmt: skip
    record = await stored(held, Kind.CERTIFICATE, DOMAIN)
    assert (record.names, record.namespace, record.issuer) == ((DOMAIN, "acme.com"), "acme", "uploaded")
    key = CERTIFICATE_VAULT.unseal("", DOMAIN, "key", record.key)
    assert key == LEAF.key_pem
    with pytest.raises(SecretError):
        CERTIFICATE_VAULT.unseal("", "acme.com", "key", record.key)  # not to be moved to another name
    build(Material(DOMAIN, 1, record.chain.encode(), key.encode))
    assert held.workers.asked[-1] == (await held.store.revision(), 5.0)
    assert (await events(held))[-1][0] == "certificate.uploaded"


async def test_whether_clients_trust_it_is_what_the_system_of_the_node_says(held, tmp_path, monkeypatch):
    roots = tmp_path / "roots.pem"
    roots.write_text(ROOT.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    assert ssl.get_default_verify_paths().cafile == str(roots)
    assert (await upload(held)).json["certificate"]["trusted"] is True


async def test_no_answer_event_or_record_has_the_key(held):
    seen = [(await upload(held)).text, (await upload(held)).text]
    service = "/acme/service/api"
    for path in (service, "/acme/services", f"{service}/domains/{DOMAIN}", f"{service}/events"):
        answer = await held.api("GET", path)
        seen.append(answer.text)
    seen.append((await upload(held, {**BODY, "certificate": "x"})).text)
    seen.append((await upload(held, {**BODY, "key": LEAF.key_pem[:-40]})).text)
    seen.append((await upload(held, {**BODY, "key": LEAF.key_pem * 200})).text)
    for kind in Kind:
        seen += [record.value.decode() async for _, record in held.store.scan(kind)]
    secret = LEAF.key_pem.splitlines()[1]
    assert not [text for text in seen if secret in text]


async def test_the_same_again_writes_nothing_and_another_takes_its_place(held):
    first = await upload(held)
    revision, told = await held.store.revision(), await events(held)
    again = await upload(held)
    assert (again.status, again.json["certificate"]) == (200, first.json["certificate"])
    assert await held.store.revision() == revision
    assert await events(held) == told
    leaf = issue([DOMAIN])
    other = await upload(held, {"certificate": leaf.pem, "key": leaf.key_pem})
    assert other.status == 200
    assert (await stored(held, Kind.CERTIFICATE, DOMAIN)).chain == leaf.pem


async def test_it_takes_the_place_of_what_was_served_and_of_what_is_on_order(held):
    await serve(held, DOMAIN)
    assert (await upload(held)).status == 200
    assert await kept(held, DOMAIN) == {"domain", "route", "certificate"}
    assert (await stored(held, Kind.CERTIFICATE, DOMAIN)).issuer == "uploaded"


async def test_a_domain_must_be_proved_first_and_it_is_said_how(held):
    assert (await add(held, "new.acme.com")).status == 201
    leaf = issue(["new.acme.com"])
    place, body = PLACE.replace(DOMAIN, "new.acme.com"), {"certificate": leaf.pem, "key": leaf.key_pem}
    refused = await held.api("PUT", place, body)
    assert refused.status == 409
    for part in ("_wakegate.new.acme.com", token(TOKEN_KEY, "acme", "new.acme.com"), "TXT"):
        assert part in refused.json["detail"]
    await prove(held, "new.acme.com", proof=Proof.PENDING_DNS, pointing=False)  # by TXT: it still leads elsewhere
    taken = await held.api("PUT", place, body)
    assert taken.status == 200
    assert (taken.json["status"], taken.json["certificate"]["issuer"]) == ("pending_dns", "uploaded")


async def test_a_domain_that_moved_is_not_its_old_holder_s_to_serve(held):
    await held.create("api", namespace="other")
    await add(held, DOMAIN, namespace="other")
    await change(held, DOMAIN, proof=Proof.MOVED, held=False)
    await serve(held, DOMAIN, "other")
    before = await stored(held, Kind.CERTIFICATE, DOMAIN)
    assert (await upload(held)).status == 409
    assert (await held.api("DELETE", PLACE)).status == 404
    assert await stored(held, Kind.CERTIFICATE, DOMAIN) == before


async def test_removed_it_and_its_key_are_gone_and_the_domain_is_as_without(held):
    await upload(held)
    gone = await held.api("DELETE", PLACE)
    assert (gone.status, gone.text) == (204, "")
    assert held.workers.asked[-1] == (await held.store.revision(), 5.0)
    assert await kept(held, DOMAIN) == {"domain", "route"}
    assert (await events(held))[-1] == ("certificate.removed", DOMAIN)
    assert (await get(held, DOMAIN))["status"] == "verified"
    assert (await held.api("DELETE", PLACE)).status == 404
    await put(held, (Kind.CERTIFICATE, DOMAIN, certificate(DOMAIN)))
    assert (await held.api("DELETE", PLACE)).status == 404  # one that we got is not its owner's to remove
    assert await kept(held, DOMAIN) == {"domain", "route", "certificate"}


async def test_it_goes_with_its_domain(held):
    await upload(held)
    assert (await remove(held, DOMAIN)).status == 204
    assert await kept(held, DOMAIN) == set()


async def test_every_field_that_can_t_be_served_is_named(held):
    other = issue(["acme.com"])
    for body, fields in (
        ({"certificate": "x", "key": "y"}, {"certificate", "key"}),
        ({**BODY, "certificate": other.pem}, {"certificate"}),
        ({**BODY, "certificate": MIDDLE.pem + LEAF.pem}, {"certificate"}),
        ({**BODY, "key": key_pem(p256())}, {"key"}),
        ({**BODY, "key": key_pem(LEAF.key, password=b"secret")}, {"key"}),
    ):
        refused = await upload(held, body)
        assert (refused.status, refused.fields) == (422, fields), refused.text
    assert await kept(held, DOMAIN) == {"domain", "route"}


async def test_an_upload_can_depend_on_what_was_read(held):
    path = f"/acme/service/api/domains/{DOMAIN}"
    tag = (await held.api("GET", path)).headers["ETag"]
    first = await upload(held, headers={"If-Match": tag})
    assert first.status == 200
    leaf = issue([DOMAIN])
    other = {"certificate": leaf.pem, "key": leaf.key_pem}
    assert (await upload(held, other, headers={"If-Match": tag})).status == 412
    assert (await held.api("DELETE", PLACE, headers={"If-Match": tag})).status == 412
    assert (await held.api("DELETE", PLACE, headers={"If-Match": first.headers["ETag"]})).status == 204
    assert (await upload(held, other, headers={"If-Match": tag})).status == 200
