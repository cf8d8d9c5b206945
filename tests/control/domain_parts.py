"""What the duties of the leader write of domains, as far as the API's tests need it: proofs, routes, certificates."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from certs.claims import claim_id
from state.certificates import Certificate, Challenge, ChallengeAnswer, Domain, Issuance, Proof
from state.codec import decode, encode
from state.ids import now_us
from state.kinds import Kind
from state.models import Route
from state.secret_key import CERTIFICATES, derive
from state.secrets import Vault
from state.store import Change

if TYPE_CHECKING:
    from conftest import Answer, Rig

TOKEN_KEY = bytes(range(32))
CERTIFICATE_VAULT = Vault(derive(bytes(32), CERTIFICATES))
WRITE = "/auth/v1/seed/{}/services/{}/domains"
LATER = 3_600_000_000  # microseconds
MODELS: dict[Kind, Any] = {
    Kind.DOMAIN: Domain, Kind.ROUTE: Route, Kind.CERTIFICATE: Certificate, Kind.ISSUANCE: Issuance,
    Kind.CHALLENGE: Challenge,
}  # fmt: skip


async def add(rig: Rig, domain: str, service: str = "api", namespace: str = "acme", **more: Any) -> Answer:
    headers = more.pop("headers", None)
    return await rig.api("POST", WRITE.format(namespace, service), {"domain": domain, **more}, headers=headers)


async def remove(rig: Rig, domain: str, service: str = "api", namespace: str = "acme", **more: Any) -> Answer:
    return await rig.api("DELETE", f"{WRITE.format(namespace, service)}/{domain}", **more)


async def names(rig: Rig, service: str = "api", namespace: str = "acme") -> list[str]:
    answer = await rig.api("GET", f"/{namespace}/service/{service}/domains")
    assert answer.status == 200, answer.text
    return [one["name"] for one in answer.json["items"]]


async def get(rig: Rig, domain: str, service: str = "api", namespace: str = "acme") -> Any:
    answer = await rig.api("GET", f"/{namespace}/service/{service}/domains/{domain}")
    assert answer.status == 200, answer.text
    return answer.json


async def stored(rig: Rig, kind: Kind, object_id: str) -> Any:
    record = await rig.store.get(kind, object_id)
    return None if record is None else decode(MODELS[kind], record.value)


async def put(rig: Rig, *objects: tuple[Kind, str, Any]) -> None:
    """As the leader commits it."""
    changes = [Change(kind, i, None if value is None else encode(value)) for kind, i, value in objects]
    await rig.mirror.reached(await rig.store.commit(changes))


async def change(rig: Rig, domain: str, namespace: str = "acme", **fields: Any) -> Domain:
    claim = claim_id(namespace, domain)
    after: Domain = replace(await stored(rig, Kind.DOMAIN, claim), **fields)
    await put(rig, (Kind.DOMAIN, claim, after))
    return after


async def prove(rig: Rig, domain: str, namespace: str = "acme", **fields: Any) -> Domain:
    """It is held and routed, and looked at again in an hour."""
    proved = {"proof": Proof.VERIFIED, "held": True, "pointing": True, "check_at": now_us() + LATER, **fields}
    claim = await change(rig, domain, namespace, **proved)
    service = rig.catalogue.service_by_id(claim.service)
    assert service is not None
    await put(rig, (Kind.ROUTE, domain, Route(service.id, namespace, service.name, redirect=claim.redirect)))
    return claim


def certificate(domain: str, namespace: str = "acme", **fields: Any) -> Certificate:
    now = now_us()
    return replace(
        Certificate((domain,), "chain", "sealed", "https://ca/", True, now - LATER, now + LATER, namespace), **fields
    )


async def serve(rig: Rig, domain: str, namespace: str = "acme") -> None:
    """Proved, with a certificate, and another one on order."""
    await prove(rig, domain, namespace)
    await put(
        rig,
        (Kind.CERTIFICATE, domain, certificate(domain, namespace)),
        (Kind.ISSUANCE, domain, Issuance((domain,), namespace, order="https://ca/1", key="sealed", began_at=1)),
        (Kind.CHALLENGE, domain, Challenge((ChallengeAnswer("http-01", "t", "t.k"),), 1)),
    )


async def kept(rig: Rig, domain: str, namespace: str = "acme") -> set[str]:
    """The kinds of what is stored of a domain."""
    found = {kind: claim_id(namespace, domain) if kind is Kind.DOMAIN else domain for kind in MODELS}
    return {kind.value for kind, i in found.items() if await rig.store.get(kind, i) is not None}


async def events(rig: Rig, service: str = "api", namespace: str = "acme") -> list[tuple[str, str]]:
    answer = await rig.api("GET", f"/{namespace}/service/{service}/events")
    return [(one["kind"], one["reason"]) for one in answer.json["items"] if "deployment" not in one["kind"]]
