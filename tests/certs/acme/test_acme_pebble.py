"""Against a real CA (pebble: strict, refusing good nonces): accounts, orders, every challenge, certificates."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from acme_parties import Dns, Http, http_answers, issue, new_key, prove, session, settled, tls_alpn_answers
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store

from certs.acme.chain import check, split
from certs.acme.client import AcmeClient
from certs.acme.csr import csr
from certs.acme.errors import AcmeError
from certs.acme.problem import Problem
from certs.acme.transport import user_agent
from state.ids import now_us
from tests.pebble import Pebble

pytestmark = pytest.mark.xdist_group("acme-pebble")


SECRET = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG4"


@pytest.fixture(scope="module")
def stern(pebbles: Callable[..., Pebble]) -> Pebble:
    return pebbles(nonce_reject=30, alternates=2, external={"kid-1": SECRET})


@pytest.fixture(scope="module")
def hasty(pebbles: Callable[..., Pebble]) -> Pebble:
    return pebbles(blocked=["blocked.test"], reuse=100, validity=15)


@pytest.fixture
async def http(pebble: Pebble) -> AsyncIterator[aiohttp.ClientSession]:
    async with session(pebble.ca) as opened:
        yield opened


@pytest.fixture
async def answers(pebble: Pebble) -> AsyncIterator[Http]:
    async with http_answers(pebble.http_port) as answering:
        yield answering


class Party:
    """A client with an account, and its key."""

    def __init__(self, http: aiohttp.ClientSession, directory: str) -> None:
        self.key = new_key()
        self.client = AcmeClient(http, directory, self.key)


@pytest.fixture
async def party(pebble: Pebble, http: aiohttp.ClientSession) -> Party:
    made = Party(http, pebble.directory)
    assert (await made.client.register("ops@example.com", None)).status == "valid"
    return made


def verified(pem: str, root: str, name: str) -> None:
    """As a browser would, by another implementation."""
    leaf, *intermediates = split(pem.encode())
    store = Store([x509.load_pem_x509_certificate(root.encode())])
    PolicyBuilder().store(store).build_server_verifier(x509.DNSName(name)).verify(leaf, intermediates)


async def test_the_directory(pebble, http):
    directory = await AcmeClient(http, pebble.directory, new_key()).directory()
    assert directory.new_order.startswith(pebble.url)
    assert directory.revoke_certificate is not None
    assert directory.renewal_info is None
    assert not directory.meta.external_account_required
    assert directory.meta.terms_of_service


async def test_an_account_is_found_again_by_its_key(pebble, http, party):
    again = AcmeClient(http, pebble.directory, party.key)
    assert again.account_url is None
    found = await again.register("ops@example.com", None)
    assert found.url == party.client.account_url == again.account_url
    other = AcmeClient(http, pebble.directory, new_key())
    assert (await other.register(None, None)).url != found.url


async def test_nothing_can_be_ordered_without_an_account(pebble, http):
    with pytest.raises(AcmeError, match="no account"):
        await AcmeClient(http, pebble.directory, new_key()).new_order(["a.test"])


async def test_an_account_that_the_server_does_not_know(pebble, http):
    client = AcmeClient(http, pebble.directory, new_key(), f"{pebble.url}/my-account/none")
    with pytest.raises(Problem) as caught:
        await client.new_order(["a.test"])
    assert caught.value.type == "accountDoesNotExist"


async def test_a_certificate_by_http_01(pebble, party, answers):
    key, names = new_key(), ["one.test", "www.one.test"]
    chains = await issue(party.client, party.key, names, answers, key)
    leaf = check(chains[0], key.public_key(), names, now_us())
    assert set(leaf.names) == set(names)
    assert leaf.identifier is not None
    assert leaf.issuer.startswith("Pebble")
    verified(chains[0], pebble.roots()[0], "www.one.test")


async def test_a_certificate_by_tls_alpn_01(pebble, party, tmp_path):
    key = new_key()
    async with tls_alpn_answers(pebble.tls_port, tmp_path, pebble.minica.server()) as answers:
        chains = await issue(party.client, party.key, ["two.test"], answers, key)
    assert check(chains[0], key.public_key(), ["two.test"], now_us()).names == ("two.test",)


async def test_a_wildcard_by_dns_01(pebble, party):
    key, names = new_key(), ["*.three.test"]
    order = await party.client.new_order(names)
    authorization = await party.client.authorization(order.authorizations[0])
    assert (authorization.identifier, authorization.wildcard) == ("three.test", True)
    assert {challenge.type for challenge in authorization.challenges} == {"dns-01"}
    await prove(party.client, party.key, order, Dns(pebble))
    order = await settled(party.client, order, "pending")
    order = await settled(party.client, await party.client.finalize(order, csr(names, key)), "processing")
    assert order.certificate is not None
    chain = (await party.client.certificate(order.certificate))[0]
    assert check(chain, key.public_key(), names, now_us()).names == ("*.three.test",)
    verified(chain, pebble.roots()[0], "a.three.test")


async def test_another_process_goes_on_with_an_order(pebble, http, party, answers):
    """By its URL alone, at every step."""
    names, key = ["four.test"], new_key()
    started = await party.client.new_order(names)
    assert (started.status, started.names) == ("pending", ("four.test",))
    assert started.expires is not None
    assert started.expires > now_us()

    def successor() -> AcmeClient:
        return AcmeClient(http, pebble.directory, party.key, party.client.account_url)

    found = await successor().order(started.url)
    assert found.authorizations == started.authorizations
    await prove(successor(), party.key, found, answers)
    ready = await settled(successor(), found, "pending")
    assert ready.status == "ready"
    await successor().finalize(ready, csr(names, key))
    done = await settled(successor(), await successor().order(started.url), "ready", "processing")
    assert done.certificate is not None
    check((await successor().certificate(done.certificate))[0], key.public_key(), names, now_us())


async def test_a_challenge_that_nobody_answers_fails_the_order(party, answers):
    order = await party.client.new_order(["five.test"])
    authorization = await party.client.authorization(order.authorizations[0])
    challenge = authorization.challenge("http-01")
    assert challenge is not None
    await party.client.respond(challenge.url)
    failed = await settled(party.client, order, "pending")
    assert failed.status == "invalid"
    seen = (await party.client.authorization(authorization.url)).challenge("http-01")
    assert seen is not None
    assert seen.error is not None
    assert (seen.status, seen.error.type) == ("invalid", "unauthorized")


async def test_a_request_for_other_names_is_refused(party, answers):
    order = await party.client.new_order(["six.test"])
    await prove(party.client, party.key, order, answers)
    ready = await settled(party.client, order, "pending")
    with pytest.raises(Problem) as caught:
        await party.client.finalize(ready, csr(["other.test"], new_key()))
    assert caught.value.status in (400, 403)


async def test_too_early_to_finalize(party):
    order = await party.client.new_order(["seven.test"])
    with pytest.raises(Problem) as caught:
        await party.client.finalize(order, csr(["seven.test"], new_key()))
    assert caught.value.type == "orderNotReady"


async def test_a_certificate_is_revoked(pebble, party, answers):
    key = new_key()
    leaf = split((await issue(party.client, party.key, ["eight.test"], answers, key))[0].encode())[0]
    await party.client.revoke(leaf.public_bytes(Encoding.DER), 4)
    assert pebble.status(leaf.serial_number)["Status"] == "Revoked"
    with pytest.raises(Problem) as caught:
        await party.client.revoke(leaf.public_bytes(Encoding.DER), 4)
    assert caught.value.type == "alreadyRevoked"


async def test_an_authorization_is_given_back(party, answers):
    order = await party.client.new_order(["nine.test"])
    await prove(party.client, party.key, order, answers)
    await party.client.deactivate_authorization(order.authorizations[0])
    assert (await party.client.authorization(order.authorizations[0])).status == "deactivated"


async def test_there_is_no_renewal_information(party):
    with pytest.raises(AcmeError, match="no renewal information"):
        await party.client.renewal_info("aaaa.bbbb")


async def test_many_nonces_refused_alternates_and_an_external_account(stern):
    key = new_key()
    async with session(stern.ca) as http, http_answers(stern.http_port) as answers:
        party = Party(http, stern.directory)
        assert (await party.client.directory()).meta.external_account_required
        with pytest.raises(Problem) as caught:
            await party.client.register(None, None)
        assert caught.value.type == "externalAccountRequired"
        with pytest.raises(AcmeError, match="base64url"):
            await party.client.register(None, ("kid-1", "not base64url!"))
        assert party.client.account_url is None
        await party.client.register(None, ("kid-1", SECRET))
        chains = await issue(party.client, party.key, ["ten.test"], answers, key)
    assert len(chains) == 3
    for pem, root in zip(chains, stern.roots(), strict=True):
        check(pem, key.public_key(), ["ten.test"], now_us())
        verified(pem, root, "ten.test")


async def test_what_it_refuses_and_reuses(hasty):
    key = new_key()
    async with session(hasty.ca) as http, http_answers(hasty.http_port) as answers:
        party = Party(http, hasty.directory)
        await party.client.register(None, None)
        with pytest.raises(Problem) as caught:
            await party.client.new_order(["a.blocked.test"])
        assert caught.value.type == "rejectedIdentifier"
        chain = (await issue(party.client, party.key, ["eleven.test"], answers, key))[0]
        leaf = check(chain, key.public_key(), ["eleven.test"], now_us())
        assert leaf.not_after - leaf.not_before <= 15_000_000
        again = await party.client.new_order(["eleven.test"])
        assert again.status == "ready"
        assert (await party.client.authorization(again.authorizations[0])).status == "valid"


async def test_a_server_whose_certificate_nobody_vouches_for(pebble):
    async with aiohttp.ClientSession() as http:
        with pytest.raises(AcmeError, match="can't be reached"):
            await AcmeClient(http, pebble.directory, new_key()).directory()


def test_the_user_agent():
    assert user_agent().startswith("wakegate/")
