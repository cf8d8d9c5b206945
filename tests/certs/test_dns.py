"""The stub resolver against a scripted server, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import dns.message
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from certs.dns import Resolver
from certs.dns_answer import LONGEST_TEXT, Answer, Outcome, head, read
from certs.dns_servers import SystemServers
from tests.dns_responder import DnsProcess, Responder

WWW = "www.acme.com"


@asynccontextmanager
async def serving(
    *, chases: bool = True, timeout: float = 5.0, tries: int = 2
) -> AsyncIterator[tuple[Responder, Resolver]]:
    async with Responder(chases=chases) as responder:
        yield responder, Resolver([responder.address], timeout=timeout, tries=tries)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("A", ("192.0.2.1", "192.0.2.2")),
        ("AAAA", ("2001:db8::1",)),
        ("TXT", ("a token", "")),
        ("TXT", ("long " * 100,)),
    ],
)
async def test_records_and_their_time_to_live(kind: str, values: tuple[str, ...]):
    async with serving() as (responder, resolver):
        responder.put(WWW, kind, *values, ttl=77)
        answer = await resolver.lookup(WWW.upper() + ".", kind)
        assert answer.outcome is Outcome.FOUND
        assert answer.ttl == 77
        assert sorted(answer.values) == sorted(v if len(v) <= LONGEST_TEXT else v[:254] + "…" for v in values)


async def test_caa_properties():
    async with serving() as (responder, resolver):
        responder.put(WWW, "CAA", '0 Issue "ca.example; accounturi=https://ca/1"', '128 odd "x"')
        answer = await resolver.lookup(WWW, "CAA")
        assert {(p.flags, p.tag, p.value) for p in answer.properties} == {
            (0, "issue", "ca.example; accounturi=https://ca/1"),
            (128, "odd", "x"),
        }


async def test_nothing_there_and_no_such_name():
    async with serving() as (responder, resolver):
        responder.put(WWW, "A", "192.0.2.1")
        assert (await resolver.lookup(WWW, "AAAA")).outcome is Outcome.NODATA
        assert (await resolver.lookup("acme.com", "A")).outcome is Outcome.NODATA, "a name below it is there"
        assert (await resolver.lookup("none.acme.com", "A")).outcome is Outcome.NXDOMAIN
        assert (await resolver.lookup("a" * 64 + ".com", "A")).outcome is Outcome.NXDOMAIN
        assert (await resolver.lookup("..", "A")).outcome is Outcome.NXDOMAIN


@pytest.mark.parametrize("chases", [True, False])
async def test_aliases_are_followed_whoever_chases_them(chases: bool):
    async with serving(chases=chases) as (responder, resolver):
        responder.put(WWW, "CNAME", "One.example", ttl=50)
        responder.put("one.example", "CNAME", "two.example", ttl=20)
        responder.put("two.example", "A", "192.0.2.1", ttl=30)
        assert await resolver.lookup(WWW, "A") == Answer(
            Outcome.FOUND, ("one.example", "two.example"), ("192.0.2.1",), ttl=20
        )
        assert (await resolver.lookup(WWW, "CNAME")).aliases == ("one.example", "two.example")
        responder.forget()
        found = await resolver.lookup(WWW, "CNAME", until="one.example")
        assert (found.outcome, found.aliases) == (Outcome.FOUND, ("one.example",))
        assert responder.asked("one.example") == 0, "nobody cares where the endpoint leads"


async def test_an_alias_of_nothing():
    async with serving() as (responder, resolver):
        responder.put(WWW, "CNAME", "gone.example")
        for kind in ("CNAME", "A"):
            answer = await resolver.lookup(WWW, kind)
            assert (answer.outcome, answer.aliases) == (Outcome.NXDOMAIN, ("gone.example",))


@pytest.mark.parametrize("chases", [True, False])
async def test_loops_and_long_chains_end(chases: bool):
    async with serving(chases=chases) as (responder, resolver):
        responder.put(WWW, "CNAME", "one.example")
        responder.put("one.example", "CNAME", WWW)
        assert (await resolver.lookup(WWW, "CNAME")).outcome is Outcome.LOOP
        responder.put("self.example", "CNAME", "self.example")
        assert (await resolver.lookup("self.example", "CNAME")).outcome is Outcome.LOOP
        for i in range(12):
            responder.put(f"n{i}.example", "CNAME", f"n{i + 1}.example")
        assert (await resolver.lookup("n0.example", "CNAME")).outcome is Outcome.TOO_LONG
        assert (await resolver.lookup("n0.example", "CNAME", until="n8.example")).outcome is Outcome.FOUND
        assert (await resolver.lookup("n0.example", "CNAME", until="n9.example")).outcome is Outcome.TOO_LONG


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("servfail", Outcome.FAILED),
        ("refused", Outcome.REFUSED),
        ("formerr", Outcome.FAILED),
        ("malformed", Outcome.MALFORMED),
        ("garbage", Outcome.MALFORMED),
        ("other_question", Outcome.MALFORMED),
        ("cut", Outcome.MALFORMED),
        ("drop", Outcome.TIMEOUT),
        ("other_id", Outcome.TIMEOUT),
    ],
)
async def test_what_is_no_answer_is_told_apart(fault: str, outcome: Outcome):
    async with serving(timeout=0.2 if outcome is Outcome.TIMEOUT else 5) as (responder, resolver):
        responder.put(WWW, "A", "192.0.2.1")
        responder.fail(WWW, fault)
        answer = await resolver.lookup(WWW, "A")
        assert answer.outcome is outcome
        assert not answer.answered
        assert answer.detail
        assert responder.asked(WWW) == (
            1 if fault in ("servfail", "refused", "malformed", "garbage", "other_question", "cut") else 2
        )


async def test_a_server_that_does_not_know_edns_is_asked_without():
    async with serving() as (responder, resolver):
        responder.put(WWW, "A", "192.0.2.1")
        responder.fail(WWW, "formerr", times=1)
        assert (await resolver.lookup(WWW, "A")).values == ("192.0.2.1",)


async def test_a_lost_query_is_sent_again():
    async with serving(timeout=2, tries=3) as (responder, resolver):
        responder.put(WWW, "A", "192.0.2.1")
        responder.fail(WWW, "drop", times=1)
        assert (await resolver.lookup(WWW, "A")).outcome is Outcome.FOUND
        assert resolver.queries == 2


async def test_the_next_server_is_asked():
    async with serving() as (bad, _), serving() as (good, _):
        bad.fail("*", "servfail")
        good.put(WWW, "A", "192.0.2.1")
        assert (await Resolver([bad.address, good.address]).lookup(WWW, "A")).outcome is Outcome.FOUND


async def test_nobody_there_is_told_at_once():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        address = taken.getsockname()
    answer = await Resolver([address], timeout=60).lookup(WWW, "A")
    assert answer.outcome is Outcome.TIMEOUT
    assert address[0] not in answer.detail, "what the platform's network is like is nobody's business"


async def test_a_truncated_answer_comes_by_tcp():
    async with serving() as (responder, resolver):
        responder.put(WWW, "TXT", *(f"{i} " + "x" * 200 for i in range(30)))
        answer = await resolver.lookup(WWW, "TXT")
        assert len(answer.values) == 30
        assert responder.asked(WWW) == 2
        responder.put("a.example", "A", "192.0.2.1")
        responder.fail("a.example", "truncate")
        assert (await resolver.lookup("a.example", "A")).outcome is Outcome.FOUND


async def test_an_answer_that_is_too_large_is_none():
    async with serving() as (responder, resolver):
        responder.put(WWW, "TXT", *(f"{i}" + "x" * 500 for i in range(60)))
        responder.put(WWW, "A", *(f"192.0.{i // 250}.{i % 250}" for i in range(250)))
        for kind in ("TXT", "A"):
            answer = await resolver.lookup(WWW, kind)
            assert (answer.outcome, answer.values) == (Outcome.MALFORMED, ())


async def test_nothing_of_a_strangers_gets_out_raw():
    async with serving() as (responder, resolver):
        responder.put(WWW, "TXT", "\x1b[31m\r\n\0ü\\")
        assert (await resolver.lookup(WWW, "TXT")).values == (r"\x1b[31m\x0d\x0a\x00\xc3\xbc\x5c",)
        responder.put("a.example", "CNAME", r"\027[31m\010.example")
        assert (await resolver.lookup("a.example", "CNAME")).aliases == (r"\027[31m\010.example",)


async def test_queries_are_bounded_and_a_cancelled_one_leaves_nothing():
    async with serving(timeout=60) as (responder, resolver):
        responder.fail("*", "drop")
        tasks = [asyncio.create_task(resolver.query(f"n{i}.example", "A")) for i in range(100)]
        await _until(lambda: sum(responder.queries.values()) == 64)
        assert resolver.queries == 64
        for task in tasks:
            task.cancel()
        assert all(isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*tasks, return_exceptions=True))


def test_the_loop_that_control_runs_on_answers_the_same():
    async def scenario() -> None:
        async with serving() as (responder, resolver):
            responder.put(WWW, "TXT", *(f"{i} " + "x" * 200 for i in range(30)))
            assert len((await resolver.lookup(WWW, "TXT")).values) == 30
            responder.fail(WWW, "cut")
            assert (await resolver.lookup(WWW, "TXT")).outcome is Outcome.MALFORMED
            responder.fail(WWW, "drop")
            tasks = [asyncio.create_task(resolver.query(WWW, "A")) for _ in range(20)]
            await _until(lambda: responder.asked(WWW, "A") == 20)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert (await Resolver([responder.address]).lookup(WWW, "A")).outcome is Outcome.TIMEOUT

    uvloop.run(scenario())


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


QUERY = dns.message.make_query(WWW, "A", id=7)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_answer_or_none(junk: bytes):
    for wire in (junk, QUERY.to_wire()[:2] + junk, QUERY.to_wire()[:12] + junk):
        assert isinstance(read(wire, QUERY), Answer)


@given(st.integers(0, 200), st.binary(min_size=1, max_size=4))
def test_a_damaged_response_is_an_answer_or_none(place: int, damage: bytes):
    made = dns.message.make_response(QUERY)
    made.answer.append(dns.rrset.from_text(f"{WWW}.", 60, "IN", "CNAME", "one.example."))
    made.answer.append(dns.rrset.from_text("one.example.", 60, "IN", "A", "192.0.2.1"))
    wire = bytearray(made.to_wire())
    place %= len(wire)
    wire[place : place + len(damage)] = damage
    assert isinstance(read(bytes(wire), QUERY), Answer)


def test_pointers_that_lead_nowhere_are_no_answer():
    loop = struct.pack("!6H", 7, 0x8180, 1, 0, 0, 0) + b"\xc0\x0c\x00\x01\x00\x01"
    assert read(loop, QUERY).outcome is Outcome.MALFORMED
    assert head(b"short") is None


def test_the_systems_resolvers(tmp_path):
    file = tmp_path / "resolv.conf"
    clock = [0.0]
    servers = SystemServers(file, lambda: clock[0])
    assert servers() == (("127.0.0.1", 53),)
    file.write_text("# comment\nnameserver 192.0.2.1\nnameserver no\noptions x\nnameserver fe80::1%eth0\n" * 2)
    assert servers() == (("127.0.0.1", 53),), "it is not read for each query"
    clock[0] = 60.0
    assert servers() == (("192.0.2.1", 53), ("fe80::1%eth0", 53), ("192.0.2.1", 53))


async def test_the_responder_as_a_process():
    with DnsProcess() as responder:
        responder.put(WWW, "A", "192.0.2.1")
        resolver = Resolver([responder.address])
        assert (await resolver.lookup(WWW, "A")).values == ("192.0.2.1",)
        responder.fail(WWW, "servfail", of="A")
        assert (await resolver.lookup(WWW, "A")).outcome is Outcome.FAILED
        assert responder.asked(WWW, "A") == 2
