"""The other parties of an issuance: who answers challenges, and a client that goes all the way."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certs.acme.authorization import Authorization
from certs.acme.challenge import (
    DNS_01,
    HTTP_01,
    TLS_ALPN_01,
    dns01_value,
    http01_path,
    key_authorization,
    tls_alpn01_digest,
)
from certs.acme.client import AcmeClient
from certs.acme.csr import csr
from certs.acme.order import Order
from tests.pebble import Pebble

ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")  # RFC 8737 3
DEADLINE = 30.0  # seconds
_GRACE = 0.2  # seconds, for connections at the end (aiohttp takes 0 for ever)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@contextlib.asynccontextmanager
async def session(ca: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """One that trusts `ca` and nothing else."""
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=ca))
    async with aiohttp.ClientSession(connector=connector) as opened:
        yield opened


class Answers(Protocol):
    """Says what a challenge wants to see."""

    kind: str

    async def put(self, name: str, token: str, authorized: str) -> None: ...


class Http:
    kind = HTTP_01

    def __init__(self) -> None:
        self.served: dict[str, str] = {}

    async def put(self, name: str, token: str, authorized: str) -> None:
        self.served[http01_path(token)] = authorized

    async def handle(self, request: web.BaseRequest) -> web.Response:
        found = self.served.get(request.path)
        return web.Response(status=404) if found is None else web.Response(text=found)


@contextlib.asynccontextmanager
async def http_answers(port: int) -> AsyncIterator[Http]:
    answers = Http()
    runner = web.ServerRunner(web.Server(answers.handle), shutdown_timeout=_GRACE)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield answers
    finally:
        await runner.cleanup()


class TlsAlpn:
    kind = TLS_ALPN_01

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.contexts: dict[str, ssl.SSLContext] = {}

    async def put(self, name: str, token: str, authorized: str) -> None:
        file = self._directory / f"{name}.pem"
        file.write_bytes(challenge_certificate(name, tls_alpn01_digest(authorized)))
        self.contexts[name] = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        context.set_alpn_protocols(["acme-tls/1"])

    def choose(self, tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name in self.contexts:
            tls.context = self.contexts[name]


@contextlib.asynccontextmanager
async def tls_alpn_answers(port: int, directory: Path, minica: ssl.SSLContext) -> AsyncIterator[TlsAlpn]:
    answers = TlsAlpn(directory)
    minica.set_alpn_protocols(["acme-tls/1"])
    minica.sni_callback = answers.choose  # type: ignore[assignment]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", port, ssl=minica):
        yield answers


def challenge_certificate(name: str, digest: bytes) -> bytes:
    """RFC 8737 3: PEM of key and certificate."""
    key, now = new_key(), dt.datetime.now(dt.UTC)
    subject = x509.Name([])
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
        .add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER, b"\x04\x20" + digest), critical=True)
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)


class Dns:
    kind = DNS_01

    def __init__(self, pebble: Pebble) -> None:
        self._pebble = pebble

    async def put(self, name: str, token: str, authorized: str) -> None:
        self._pebble.set_txt(f"_acme-challenge.{name}", dns01_value(authorized))


async def authorized(client: AcmeClient, url: str) -> Authorization:
    """Once the server has made up its mind."""
    async with asyncio.timeout(DEADLINE):
        while (found := await client.authorization(url)).status == "pending":
            await asyncio.sleep(0.02)
    return found


async def settled(client: AcmeClient, order: Order, *passing: str) -> Order:
    """Once its status is none of these."""
    async with asyncio.timeout(DEADLINE):
        while order.status in passing:
            await asyncio.sleep(0.02)
            order = await client.order(order.url)
    return order


async def prove(client: AcmeClient, account_key: ec.EllipticCurvePrivateKey, order: Order, answers: Answers) -> None:
    for url in order.authorizations:
        authorization = await client.authorization(url)
        if authorization.status == "valid":
            continue
        challenge = authorization.challenge(answers.kind)
        assert challenge is not None
        await answers.put(authorization.identifier, challenge.token, key_authorization(challenge.token, account_key))
        await client.respond(challenge.url)
        assert (await authorized(client, url)).status == "valid"


async def issue(
    client: AcmeClient,
    account_key: ec.EllipticCurvePrivateKey,
    names: Sequence[str],
    answers: Answers,
    key: ec.EllipticCurvePrivateKey,
    replaces: str | None = None,
) -> list[str]:
    """Its chains."""
    order = await client.new_order(names, replaces=replaces)
    await prove(client, account_key, order, answers)
    order = await settled(client, order, "pending")
    order = await settled(client, await client.finalize(order, csr(names, key)), "processing")
    assert order.certificate is not None
    return await client.certificate(order.certificate)
