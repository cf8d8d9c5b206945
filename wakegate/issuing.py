"""The configuration in the words of `certs.issuer`: which CAs are asked, what they can be shown, and by what."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final

import aiohttp
from cryptography.hazmat.primitives.asymmetric import ec

from activator.acks import Acknowledgements
from activator.journal import Journal
from certs.acme.challenge import HTTP_01, TLS_ALPN_01
from certs.acme.client import AcmeClient
from certs.caa import Permission, check
from certs.dns import Resolver
from certs.dns_hook import DnsHook
from certs.due import Ca
from certs.internal_leaves import InternalLeaves
from certs.issuer import Issuer
from certs.issuer_account import Accounts
from certs.issuer_desk import Caa, Desk
from certs.issuer_proofs import TxtRecords
from certs.issuer_records import Records
from certs.setbacks import CAA_FORBIDDEN, DNS_ERROR, Setback
from certs.verifier import Settings, Verifier
from certs.wanted import WILDCARD, Platform
from state.ids import now_us
from state.leases import Lease
from state.mirror import Mirror
from state.secret_key import ACME, CERTIFICATES, DOMAIN_TOKENS, derive
from state.secrets import Vault
from state.store import Store
from wakegate.config import Config

DIRECTORIES: Final = {
    "letsencrypt": "https://acme-v02.api.letsencrypt.org/directory",
    "letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
}
_UNTRUSTED: Final = frozenset({"letsencrypt-staging"})
_CONNECTIONS: Final = 16


@dataclass(frozen=True, slots=True)
class Means:
    """What control has, that certificates need."""

    store: Store
    mirror: Mirror
    lease: Lease
    secret_key: bytes
    acks: Acknowledgements
    journal: Journal
    resolver: Resolver
    session: aiohttp.ClientSession


def issuer(config: Config, means: Means) -> Issuer:
    """The duty that orders and renews; without ACME the internal CA signs for custom domains."""
    records = Records(means.store, means.lease)
    keys = Vault(derive(means.secret_key, ACME))
    certificates = Vault(derive(means.secret_key, CERTIFICATES))

    def connect(directory: str, key: ec.EllipticCurvePrivateKey, account_url: str | None) -> AcmeClient:
        return AcmeClient(means.session, directory, key, account_url)

    desk = Desk(
        records=records,
        accounts=Accounts(means.store, means.lease, keys, connect, config.acme_email, now_us),
        cas=cas(config),
        keys=keys,
        certificates=certificates,
        allowed=caa(means.resolver),
        acknowledged=means.acks.wait,
        tell=means.journal.keep,
        now=now_us,
        reach=reach(config),
        txt=_txt(config, means.resolver),
        profile=config.acme_profile,
    )
    leaves = InternalLeaves(means.store, records, certificates, now_us)
    return Issuer(means.store, means.mirror, desk, leaves, platform(config))


def verifier(config: Config, means: Means) -> Verifier:
    """The duty that asks DNS about custom domains."""
    settings = Settings(config.domain, derive(means.secret_key, DOMAIN_TOKENS).key)
    return Verifier(means.store, means.mirror, means.lease, means.resolver, settings, means.journal.keep)


def platform(config: Config) -> Platform:
    return Platform(config.domain, config.api_host, wildcard=config.acme_dns_hook is not None)


def cas(config: Config) -> tuple[Ca, ...]:
    """The CA, and the one that is asked while it fails."""
    given = ((config.acme_directory, config.acme_eab), (config.acme_fallback, config.acme_fallback_eab))
    return tuple(_ca(directory, eab) for directory, eab in given if directory is not None)


def _ca(directory: str, eab: str | None) -> Ca:
    key_id, _, key = (eab or "").partition(":")
    url = DIRECTORIES.get(directory, directory)
    return Ca(url, None if eab is None else (key_id, key), trusted=directory not in _UNTRUSTED)


def reach(config: Config) -> tuple[str, ...]:
    """By which challenges a CA can look at us: it knows ports 80 and 443 alone (RFC 8555 8.3, RFC 8737 3).

    If clients come by neither, something that we don't know of passes them on, and every listener may be reached.
    """
    found = []
    if config.public_http_port == 80:
        found.append(HTTP_01)
    if config.public_https_port == 443:
        found.append(TLS_ALPN_01)
    if found:
        return tuple(found)
    return (*([HTTP_01] if config.http else []), *([TLS_ALPN_01] if config.https else []))


def caa(resolver: Resolver) -> Caa:
    """CAA as a step of an order."""

    async def allowed(name: str, identities: tuple[str, ...], method: str, account_url: str | None) -> None:
        wildcard = name.startswith(WILDCARD)
        verdict = await check(resolver, name.removeprefix(WILDCARD), wildcard, identities, account_url, method)
        if verdict.permission is Permission.FORBIDDEN:
            raise Setback(CAA_FORBIDDEN, verdict.detail)
        if verdict.permission is Permission.UNANSWERED:
            raise Setback(DNS_ERROR, verdict.detail)

    return allowed


def _txt(config: Config, resolver: Resolver) -> TxtRecords | None:
    if config.acme_dns_hook is None:
        return None

    async def look(name: str) -> tuple[str, ...]:
        return (await resolver.lookup(name, "TXT")).values

    return TxtRecords(DnsHook(config.acme_dns_hook), look)


def resolver_of(config: Config) -> Resolver:
    address = config.dns_server
    return Resolver(None if address is None else ((address.host, address.port),))


def acme_session(config: Config) -> aiohttp.ClientSession:
    """For ACME servers alone. Raises OSError for a bundle that can't be read."""
    context = ssl.create_default_context()
    if config.acme_ca_bundle is not None:
        context.load_verify_locations(config.acme_ca_bundle)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=_CONNECTIONS))
