"""certbot's `acme` library, which is not ours, beside our client at the same CA: they find the same things."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator

import josepy
import pytest
from acme import client as certbot
from acme import errors as certbot_errors
from acme import messages
from acme_parties import Http, http_answers, issue, new_key, prove, session, settled
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certs.acme.chain import check, describe, split
from certs.acme.client import AcmeClient
from certs.acme.csr import csr
from state.ids import now_us
from tests.acme_proxy import AcmeProxy, Window
from tests.pebble import Pebble

pytestmark = pytest.mark.xdist_group("acme-certbot")

KEY = new_key()


@pytest.fixture
async def client(calm: Pebble) -> AsyncIterator[AcmeClient]:
    async with session(calm.ca) as http:
        made = AcmeClient(http, calm.directory, KEY)
        await made.register("ops@example.com", None)
        yield made


@pytest.fixture
async def answers(calm: Pebble) -> AsyncIterator[Http]:
    async with http_answers(calm.http_port) as answering:
        yield answering


def theirs(ca: object, directory: str, key: ec.EllipticCurvePrivateKey = KEY) -> certbot.ClientV2:
    """Synchronous: call it in a thread."""
    network = certbot.ClientNetwork(josepy.JWKEC(key=key), alg=josepy.ES256, verify_ssl=True, user_agent="oracle")
    network.session.verify = str(ca)
    network.verify_ssl = str(ca)  # type: ignore[assignment]
    return certbot.ClientV2(certbot.ClientV2.get_directory(directory, network), network)


def account(oracle: certbot.ClientV2) -> messages.RegistrationResource:
    """The account of its key, which has to exist."""
    asked = messages.NewRegistration(terms_of_service_agreed=True, only_return_existing=True)
    try:
        oracle.new_account(asked)
    except certbot_errors.ConflictError as found:
        oracle.net.account = messages.RegistrationResource(uri=found.location, body=messages.Registration())
    assert oracle.net.account is not None
    oracle.net.account = oracle.query_registration(oracle.net.account)
    return oracle.net.account


async def test_it_finds_our_account_by_our_key(calm, client):
    found = await asyncio.to_thread(lambda: account(theirs(calm.ca, calm.directory)))
    assert found.uri == client.account_url
    assert found.body.status == "valid"
    assert found.body.emails == ("ops@example.com",)
    assert found.body.key == josepy.JWKEC(key=KEY.public_key())


async def test_we_find_its_account(calm):
    key = new_key()

    def register() -> str:
        oracle = theirs(calm.ca, calm.directory, key)
        return str(oracle.new_account(messages.NewRegistration(terms_of_service_agreed=True)).uri)

    made = await asyncio.to_thread(register)
    async with session(calm.ca) as http:
        assert (await AcmeClient(http, calm.directory, key).register(None, None)).url == made


async def test_it_reads_our_order(calm, client, answers):
    names = ["order.certbot.test", "www.order.certbot.test"]
    order = await client.new_order(names)

    def read(url: str) -> messages.Order:
        oracle = theirs(calm.ca, calm.directory)
        account(oracle)
        return messages.Order.from_json(oracle._post_as_get(url).json())

    found = await asyncio.to_thread(read, order.url)
    assert {identifier.value for identifier in found.identifiers} == set(order.names) == set(names)
    assert (found.status.name, found.finalize) == (order.status, order.finalize)
    assert set(found.authorizations) == set(order.authorizations)
    assert order.expires is not None
    assert found.expires == dt.datetime.fromtimestamp(order.expires // 1_000_000, dt.UTC)
    await prove(client, KEY, order, answers)
    ready = await settled(client, order, "pending")
    assert (await asyncio.to_thread(read, order.url)).status.name == ready.status == "ready"


async def test_it_reads_our_authorization(calm, client):
    order = await client.new_order(["authorization.certbot.test"])
    ours = await client.authorization(order.authorizations[0])

    def read() -> messages.Authorization:
        oracle = theirs(calm.ca, calm.directory)
        account(oracle)
        return messages.Authorization.from_json(oracle._post_as_get(ours.url).json())

    found = await asyncio.to_thread(read)
    assert (found.identifier.value, found.status.name) == (ours.identifier, ours.status)
    read_so = [(body.chall.to_json(), body) for body in found.challenges]  # it does not know tls-alpn-01
    told = {(values["type"], body.uri, values["token"], body.status.name) for values, body in read_so}
    assert told == {(one.type, one.url, one.token, one.status) for one in ours.challenges}


async def test_it_finalizes_our_order_and_reads_our_certificate(calm, client, answers):
    """Our CSR in its hands, and the chain that it downloads is the one that we download."""
    names, key = ["chain.certbot.test"], new_key()
    order = await client.new_order(names)
    await prove(client, KEY, order, answers)
    ready = await settled(client, order, "pending")

    def finalize() -> str:
        oracle = theirs(calm.ca, calm.directory)
        account(oracle)
        body = messages.Order.from_json(oracle._post_as_get(ready.url).json())
        asked = messages.CertificateRequest(csr=x509.load_der_x509_csr(csr(names, key)))
        resource = messages.OrderResource(body=body, uri=ready.url)
        oracle._post(body.finalize, asked)
        return str(oracle.poll_finalization(resource, dt.datetime.now() + dt.timedelta(seconds=30)).fullchain_pem)

    chain = await asyncio.to_thread(finalize)
    done = await client.order(order.url)
    assert done.certificate is not None
    ours = (await client.certificate(done.certificate))[0]
    assert split(ours.encode()) == split(chain.encode())
    check(chain, key.public_key(), names, now_us())


async def test_it_revokes_our_certificate(calm, client, answers):
    leaf = split((await issue(client, KEY, ["revoke.certbot.test"], answers, new_key()))[0].encode())[0]

    def revoke() -> None:
        oracle = theirs(calm.ca, calm.directory)
        account(oracle)
        oracle.revoke(leaf, 4)

    await asyncio.to_thread(revoke)
    assert calm.status(leaf.serial_number)["Status"] == "Revoked"


async def test_it_asks_for_renewal_information_where_we_do(calm, answers):
    async with AcmeProxy(calm) as proxy, session(calm.ca) as http:
        client = AcmeClient(http, proxy.directory, KEY)
        await client.register(None, None)
        chain = (await issue(client, KEY, ["renewal.certbot.test"], answers, new_key()))[0]
        identifier = describe(split(chain.encode())[0]).identifier
        assert identifier is not None
        proxy.renewal.windows[identifier] = Window("2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z")
        leaf = split(chain.encode())[0].public_bytes(Encoding.PEM)
        at, _ = await asyncio.to_thread(lambda: theirs(calm.ca, proxy.directory).renewal_time(leaf))
        ours = await client.renewal_info(identifier)
        assert at is not None
        assert ours.start <= at.timestamp() * 1e6 <= ours.end
        assert proxy.counts["renewalInfo"] == 2
        assert len({seen.path for seen in proxy.requests if seen.kind == "renewalInfo"}) == 1
