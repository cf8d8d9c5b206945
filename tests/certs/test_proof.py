"""What DNS says, and what that proves: each case of it, and any graph of aliases."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.dns_answer import MOST_ALIASES, Answer
from certs.observation import observe
from certs.proof import REASONS, Asked, Verdict, judge
from tests.certs.wired import WiredResolver
from tests.dns_responder import Answering

WWW, TXT, ENDPOINT, PLATFORM = "www.acme.com", "_wakegate.www.acme.com", "api-acme.apps.example", "apps.example"
OURS, OURS6, STRAY, STRAY6 = "192.0.2.1", "2001:db8::1", "198.51.100.7", "2001:db8:bad::7"
ASKED = Asked(WWW, ENDPOINT, PLATFORM, token="token-of-acme")
HELD = replace(ASKED, holder_token="token-of-another")


def world(*records: tuple[str, ...]) -> Answering:
    script = Answering()
    script.put("*." + PLATFORM, "A", OURS)
    script.put("*." + PLATFORM, "AAAA", OURS6)
    for name, kind, *values in records:
        script.put(name, kind, *values)
    return script


async def judged(script: Answering, asked: Asked = ASKED) -> Verdict:
    return judge(asked, await observe(WiredResolver(script), asked))


LOOP = [(WWW, "CNAME", "a.example"), ("a.example", "CNAME", WWW)]
OF_APEX = [(WWW, "CNAME", "acme.com"), ("acme.com", "A", OURS)]
FOREIGN = (WWW, "CNAME", "web-other.apps.example")
TOKEN = (TXT, "TXT", "token-of-acme")
CASES: dict[str, tuple[list[tuple[str, ...]], bool, bool, str | None]] = {
    # what is in DNS: owned, pointing, reason
    "nothing": ([], False, False, "nxdomain"),
    "no address": ([(WWW, "MX", "10 mail.acme.com.")], False, False, "no_records"),
    "cname": ([(WWW, "CNAME", ENDPOINT)], True, True, None),
    "cname in capitals": ([(WWW, "CNAME", ENDPOINT.upper() + ".")], True, True, None),
    "chain": ([(WWW, "CNAME", "a.acme.com"), ("a.acme.com", "CNAME", ENDPOINT)], True, True, None),
    "wrong cname": ([(WWW, "CNAME", "shop.example")], False, False, "cname_mismatch"),
    "cname to another service": ([FOREIGN], False, False, "cname_mismatch"),
    "the platform itself": ([(WWW, "CNAME", PLATFORM)], False, False, "cname_mismatch"),
    "another service, and the token": ([FOREIGN, TOKEN], True, False, "cname_mismatch"),
    "wrong cname, and the token": ([(WWW, "CNAME", "shop.example"), TOKEN], True, False, "cname_mismatch"),
    "loop": (LOOP, False, False, "cname_loop"),
    "loop, and the token": ([*LOOP, TOKEN], True, False, "cname_loop"),
    "token alone": ([TOKEN], True, False, "no_records"),
    "apex": ([(WWW, "A", OURS), TOKEN], True, True, None),
    "apex with both": ([(WWW, "A", OURS), (WWW, "AAAA", OURS6), TOKEN], True, True, None),
    "ipv6 only": ([(WWW, "AAAA", OURS6), TOKEN], True, True, None),
    "apex without token": ([(WWW, "A", OURS)], False, True, "txt_missing"),
    "apex with another token": ([(WWW, "A", OURS), (TXT, "TXT", "token-of-another")], False, True, "txt_mismatch"),
    "token in quotes": ([(WWW, "A", OURS), (TXT, "TXT", "x", ' "Token-of-Acme" ')], True, True, None),
    "token behind an alias": (
        [(WWW, "A", OURS), (TXT, "CNAME", "t.acme.com"), ("t.acme.com", "TXT", "token-of-acme")], True, True, None,
    ),
    "wrong address": ([(WWW, "A", STRAY), TOKEN], True, False, "address_mismatch"),
    "stray address": ([(WWW, "A", OURS, STRAY), TOKEN], True, False, "address_mismatch"),
    "stray aaaa": ([(WWW, "A", OURS), (WWW, "AAAA", STRAY6), TOKEN], True, False, "aaaa_mismatch"),
    "stray aaaa, no token": ([(WWW, "A", OURS), (WWW, "AAAA", STRAY6)], False, False, "aaaa_mismatch"),
    "alias of an apex": ([*OF_APEX, TOKEN], True, True, None),
    "alias of an apex, no token": (OF_APEX, False, False, "cname_mismatch"),
}  # fmt: skip


@pytest.mark.parametrize(("records", "owned", "pointing", "reason"), CASES.values(), ids=list(CASES))
async def test_what_dns_says_and_what_that_proves(
    records: list[tuple[str, ...]], owned: bool, pointing: bool, reason: str | None
):
    verdict = await judged(world(*records))
    assert (verdict.owned, verdict.pointing, verdict.reason) == (owned, pointing, reason)
    assert verdict.answered
    assert (verdict.detail is None) is (reason is None)


@pytest.mark.parametrize(("records", "owned", "pointing", "reason"), CASES.values(), ids=list(CASES))
async def test_what_another_namespace_holds_is_moved_by_the_token_alone(
    records: list[tuple[str, ...]], owned: bool, pointing: bool, reason: str | None
):
    verdict = await judged(world(*records), HELD)
    if verdict.moves:
        assert (verdict.owned, verdict.pointing, verdict.reason) == (owned, pointing, reason)
    else:
        assert verdict.reason == "held_elsewhere"
        assert "token-of-another" not in (verdict.detail or "")


async def test_the_token_of_the_holder_keeps_it():
    script = world((WWW, "A", OURS), (TXT, "TXT", "token-of-acme", "token-of-another"))
    verdict = await judged(script, HELD)
    assert (verdict.moves, verdict.reason) == (False, "held_elsewhere")
    assert "remove that one" in (verdict.detail or "")
    script.put(TXT, "TXT", "token-of-acme")
    assert (await judged(script, HELD)).moves


@pytest.mark.parametrize(
    ("fault", "reason"), [("drop", "dns_timeout"), ("servfail", "dns_error"), ("refused", "dns_error")]
)
async def test_no_answer_proves_nothing_neither_way(fault: str, reason: str):
    script = world((WWW, "A", OURS), TOKEN)
    script.fail(WWW, fault)
    verdict = await judged(script)
    assert (verdict.owned, verdict.pointing, verdict.reason) == (True, None, reason)
    script = world((WWW, "A", STRAY))
    script.fail(TXT, fault)
    verdict = await judged(script)
    assert (verdict.owned, verdict.pointing, verdict.reason) == (None, False, "address_mismatch")
    script.fail(ENDPOINT, fault)
    verdict = await judged(script)
    assert (verdict.owned, verdict.pointing, verdict.reason) == (None, None, reason)
    verdict = await judged(script, HELD)
    assert (verdict.moves, verdict.reason) == (False, reason)
    assert not verdict.answered


async def test_servers_that_are_slow_on_purpose_are_not_waited_for():
    class Slow(WiredResolver):
        async def query(self, name: str, kind: str) -> Answer:
            await asyncio.sleep(0.02)
            return await super().query(name, kind)

    script = world(*((WWW if i == 0 else f"n{i}.example", "CNAME", f"n{i + 1}.example") for i in range(8)))
    script.chases = False
    verdict = judge(ASKED, await observe(Slow(script), ASKED, patience=0.1))
    assert (verdict.owned, verdict.pointing, verdict.reason) == (None, None, "dns_timeout")


async def test_a_failure_within_a_chain_is_no_mismatch():
    script = world((WWW, "CNAME", "a.acme.com"), ("a.acme.com", "CNAME", ENDPOINT))
    script.chases = False
    script.fail("a.acme.com", "servfail")
    verdict = await judged(script)
    assert (verdict.owned, verdict.pointing, verdict.reason) == (None, None, "dns_error")
    assert "a.acme.com" in (verdict.detail or "")


async def test_a_platform_that_is_not_in_the_dns_proves_by_cname_and_says_so():
    script = Answering()
    script.put(WWW, "CNAME", ENDPOINT)
    assert (await judged(script)).reason is None
    script.drop(WWW)
    script.put(WWW, "A", OURS)
    script.put(*TOKEN)
    verdict = await judged(script)
    assert (verdict.owned, verdict.pointing, verdict.reason) == (True, False, "address_mismatch")
    assert "only a CNAME" in (verdict.detail or "")


async def test_records_show_what_should_be_there_beside_what_is():
    def rows(verdict: Verdict) -> list[tuple[str, str, str | None]]:
        return [(r.type, r.value, r.observed) for r in verdict.records]

    assert rows(await judged(world((WWW, "CNAME", ENDPOINT)))) == [("CNAME", ENDPOINT, ENDPOINT)]
    assert rows(await judged(world((WWW, "CNAME", "a.acme.com"), ("a.acme.com", "CNAME", "b.example")))) == [
        ("CNAME", ENDPOINT, "a.acme.com, b.example"),
        ("TXT", "token-of-acme", None),
    ]
    assert rows(await judged(world((WWW, "A", OURS, STRAY), (TXT, "TXT", "x")))) == [
        ("CNAME", ENDPOINT, None),
        ("A", OURS, f"{OURS}, {STRAY}"),
        ("AAAA", OURS6, None),
        ("TXT", "token-of-acme", "x"),
    ]
    assert rows(await judged(world((WWW, "A", OURS), TOKEN))) == [
        ("A", OURS, OURS),
        ("AAAA", OURS6, None),
        ("TXT", "token-of-acme", "token-of-acme"),
    ]
    verdict = await judged(world((WWW, "CNAME", ENDPOINT)), HELD)
    assert [r.type for r in verdict.records] == ["CNAME", "TXT"]


async def test_the_detail_of_a_foreign_endpoint_names_what_dns_names_and_no_more():
    verdict = await judged(world((WWW, "CNAME", "web-other.apps.example")))
    assert verdict.detail == (
        f"{WWW} leads to web-other.apps.example, which is a name of this platform but not of this service: "
        f"make it a CNAME of {ENDPOINT}."
    )


async def test_most_domains_cost_one_query():
    for asked, queries in ((ASKED, 1), (HELD, 2)):
        resolver = WiredResolver(world((WWW, "CNAME", ENDPOINT)))
        await observe(resolver, asked)
        assert len(resolver.asked) == queries


async def test_what_strangers_write_is_bounded():
    verdict = await judged(world((WWW, "A", OURS), (TXT, "TXT", *(f"{i}" + "x" * 300 for i in range(50)))))
    assert all(len(record.observed or "") <= 500 for record in verdict.records)
    verdict = await judged(world((WWW, "A", *(f"198.51.100.{i}" for i in range(100)))))
    assert len(verdict.detail or "") <= 500


NAMES = [WWW, *(f"n{i}.example" for i in range(10)), ENDPOINT, "web-other.apps.example"]


@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(NAMES), max_size=len(NAMES)), st.booleans())
async def test_any_graph_of_aliases_ends_and_proves_only_what_reaches_the_endpoint(graph: dict[str, str], chases: bool):
    script = world(*((name, "CNAME", target) for name, target in graph.items()))
    script.chases = chases
    verdict = await judged(script)
    path = [WWW]
    while path[-1] in graph and path[-1] != ENDPOINT and len(path) <= len(NAMES):
        path.append(graph[path[-1]])
    hops = len(path) - 1
    reached = path[-1] == ENDPOINT and hops <= MOST_ALIASES
    assert (verdict.owned, verdict.pointing) == (reached, reached)
    assert (verdict.reason is None) is reached
    assert verdict.reason in REASONS or reached
    if verdict.reason == "cname_loop":
        assert len(set(path)) < len(path)
