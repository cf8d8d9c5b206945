"""Contexts: built once, in a thread, of memory; one per record, and one to begin in per name under a
wildcard; what is damaged is told once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import ssl

import pytest
from cryptography.hazmat.primitives import serialization
from tls_parties import Pair, Shelf, pair, trusting

from gateway.tls.contexts import Contexts, Material, build
from gateway.tls.sessions import SESSIONS
from state.secret_key import SecretError


def shelf(*names: str) -> Shelf:
    made = Shelf()
    for name in names:
        made.put(name, pair(name))
    return made


def routed(name: str) -> bool:
    return not name.startswith("stranger")


async def test_built_once_however_many_wait_and_kept() -> None:
    certificates = shelf("app.test")
    contexts = Contexts(certificates, print, routed)
    assert contexts.ready("app.test") is None
    assert contexts.known("app.test")
    found = await asyncio.gather(*(contexts.load("app.test") for _ in range(20)))
    assert len({id(one) for one in found}) == 1
    assert found[0] is not None
    assert contexts.ready("app.test") is found[0]
    assert certificates.unsealed == 1
    contexts.close()


async def test_unknown_names() -> None:
    contexts = Contexts(shelf("app.test"), print, routed)
    assert not contexts.known("other.test")
    assert contexts.ready("other.test") is None
    assert await contexts.load("other.test") is None
    contexts.close()


async def test_names_under_one_wildcard_share_its_certificate_and_nothing_else() -> None:
    certificates = shelf("*.apps.test", "own.apps.test")
    contexts = Contexts(certificates, print, routed)
    one, two = await contexts.load("one.apps.test"), await contexts.load("two.apps.test")
    assert one is not None
    assert two is not None
    assert one is not two
    assert contexts.ready("one.apps.test") is one
    assert len(contexts) == certificates.unsealed == 1
    assert await contexts.load("own.apps.test") not in (None, one, two)
    assert await contexts.load("deep.one.apps.test") is None
    contexts.close()


async def test_a_new_version_is_built_anew() -> None:
    certificates = shelf("app.test")
    contexts = Contexts(certificates, print, routed)
    old = await contexts.load("app.test")
    certificates.put("app.test", pair("app.test", number=1), version=2)
    assert contexts.ready("app.test") is None
    new = await contexts.load("app.test")
    assert new is not None
    assert new is not old
    contexts.forget("app.test")
    assert len(contexts) == 0
    contexts.close()


@pytest.mark.parametrize("when", ["while it is built", "once it is built"])
async def test_who_waits_for_one_that_is_swapped_meanwhile_gets_the_new_one(when: str) -> None:
    certificates = shelf("app.test")
    contexts = Contexts(certificates, print, routed)
    waiting = asyncio.ensure_future(contexts.load("app.test"))
    await asyncio.sleep(0)

    def swap(_: object = None) -> None:
        certificates.put("app.test", pair("app.test", number=1), version=2)
        contexts.forget("app.test")

    if when == "while it is built":
        swap()
    else:  # and before who waits for it is called
        next(iter(contexts._building.values())).add_done_callback(swap)
    found = await waiting
    assert found is not None
    assert contexts.ready("app.test") is found
    contexts.close()


async def test_the_longest_unused_goes_first() -> None:
    contexts = Contexts(shelf("a.test", "b.test", "c.test"), print, routed, limit=2)
    await contexts.load("a.test")
    await contexts.load("b.test")
    contexts.ready("a.test")
    await contexts.load("c.test")
    assert len(contexts) == 2
    assert contexts.ready("b.test") is None
    assert contexts.ready("a.test") is not None
    contexts.close()


def refuse() -> bytes:
    raise SecretError("made with another key")


def encrypted() -> bytes:
    key = serialization.load_pem_private_key(pair().key, None)
    protection = serialization.BestAvailableEncryption(b"a password")
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


@pytest.mark.parametrize(
    "material",
    [
        Material("app.test", 1, b"", lambda: pair().key),
        Material("app.test", 1, pair().chain, lambda: b""),
        Material("app.test", 1, pair().chain[:200], lambda: pair().key),
        Material("app.test", 1, pair().chain, lambda: pair().key[:100]),
        Material("app.test", 1, pair().chain, lambda: pair("other.test").key),
        Material("app.test", 1, pair().chain, encrypted),
        Material("app.test", 1, pair().chain, refuse),
    ],
)
async def test_damaged_material_is_told_once_and_the_name_unknown_until_it_changes(material: Material) -> None:
    certificates = shelf()
    certificates.materials["app.test"] = material
    said: list[str] = []
    contexts = Contexts(certificates, said.append, routed)
    assert await asyncio.gather(contexts.load("app.test"), contexts.load("app.test")) == [None, None]
    assert not contexts.known("app.test")
    assert await contexts.load("app.test") is None
    assert len(said) == 1
    assert "app.test" in said[0]
    assert "PRIVATE" not in said[0]
    certificates.put("app.test", pair(), version=2)
    assert await contexts.load("app.test") is not None
    contexts.close()


async def test_who_leaves_while_it_is_built_leaves_it_to_the_others() -> None:
    contexts = Contexts(shelf("app.test"), print, routed)
    leaving = asyncio.ensure_future(contexts.load("app.test"))
    staying = asyncio.ensure_future(contexts.load("app.test"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying is not None
    with pytest.raises(asyncio.CancelledError):
        await leaving
    contexts.close()


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_what_is_offered(kind: str) -> None:
    of = pair(kind=kind)
    context = build(Material("app.test", 1, of.chain, lambda: of.key))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    for cipher in context.get_ciphers():
        assert cipher["protocol"] == "TLSv1.3" or "ECDHE" in cipher["name"]
        assert cipher["aead"]


def test_nothing_is_left_open_and_nothing_is_written() -> None:
    of = pair()
    build(Material("app.test", 1, of.chain, lambda: of.key))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        build(Material("app.test", 1, of.chain, lambda: of.key))
        with pytest.raises(ssl.SSLError):
            build(Material("app.test", 1, of.chain, lambda: b"damaged"))
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_sessions_of_clients_without_tickets_are_bounded() -> None:
    contexts = Contexts(shelf("app.test"), print, routed)
    server = await contexts.load("app.test")
    assert server is not None
    client = trusting(pair("app.test"))
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.options |= ssl.OP_NO_TICKET
    for _ in range(SESSIONS):
        handshake(client, server)
        contexts.relieve("app.test")
    assert contexts.ready("app.test") is server
    assert server.session_stats()["number"] == SESSIONS
    handshake(client, server)
    contexts.relieve("app.test")
    assert contexts.ready("app.test") is None
    assert await contexts.load("app.test") is not None
    contexts.close()


def test_a_chain_is_shown_whole() -> None:
    """The leaf first, and what comes behind it."""
    leaf, other = pair(), Pair("ca.test")
    client = handshake(trusting(leaf), build(Material("app.test", 1, leaf.chain + other.chain, lambda: leaf.key)))
    assert len(client._sslobj.get_unverified_chain()) == 2  # type: ignore[attr-defined]


def handshake(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> ssl.SSLObject:
    """The client's end of a connection that began and ended well."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname="app.test")
    answering = server_context.wrap_bio(to_server, to_client, server_side=True)
    done = 0
    while done < 2:
        done = 0
        for side in (client, answering):
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
    with contextlib.suppress(ssl.SSLWantReadError):
        answering.unwrap()
    return client
