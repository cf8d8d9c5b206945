"""CAA: the climb, and what its records allow."""

from __future__ import annotations

import pytest

from certs.caa import CaaVerdict, Permission, check, read_issue
from tests.certs.wired import WiredResolver
from tests.dns_responder import Answering

NAME, ACCOUNT = "www.shop.acme.com", "https://ca.example/acct/7"
ALLOWED, FORBIDDEN = Permission.ALLOWED, Permission.FORBIDDEN


async def judged(
    script: Answering, *, wildcard: bool = False, method: str = "http-01", ca: str = "CA.example"
) -> CaaVerdict:
    return await check(WiredResolver(script), NAME, wildcard, [ca] if ca else [], ACCOUNT, method)


def at(name: str, *properties: str) -> Answering:
    script = Answering()
    script.put(NAME, "A", "192.0.2.1")
    script.put(name, "CAA", *properties)
    return script


@pytest.mark.parametrize(
    ("properties", "permission"),
    [
        (['0 issue "ca.example"'], ALLOWED),
        (['0 issue "CA.Example."'], ALLOWED),
        (['0 issue "other.example"'], FORBIDDEN),
        (['0 issue ";"'], FORBIDDEN),
        (['0 issue ""'], FORBIDDEN),
        (['0 issue "other.example"', '0 issue "ca.example"'], ALLOWED),
        (['0 iodef "mailto:x@acme.com"'], ALLOWED),
        (['0 issuewild ";"'], ALLOWED),
        (['0 issuemail ";"', '128 issuemail ";"'], ALLOWED),
        (['128 issue "ca.example"'], ALLOWED),
        (['128 tbs "unknown"', '0 issue "ca.example"'], FORBIDDEN),
        (['0 tbs "unknown"'], ALLOWED),
        ([f'0 issue "ca.example; accounturi={ACCOUNT}"'], ALLOWED),
        (['0 issue "ca.example; accounturi=https://ca.example/acct/8"'], FORBIDDEN),
        ([f'0 issue "ca.example; accounturi={ACCOUNT}; accounturi={ACCOUNT}"'], FORBIDDEN),
        (['0 issue "ca.example; validationmethods=dns-01,HTTP-01"'], ALLOWED),
        (['0 issue "ca.example; validationmethods=dns-01"'], FORBIDDEN),
        (['0 issue "ca.example; policy=ev; "'], ALLOWED),
        (['0 issue "ca.example; %%%%"'], FORBIDDEN),
        (['0 issue "ca example"'], FORBIDDEN),
    ],
)  # fmt: skip
async def test_what_records_allow(properties: list[str], permission: Permission):
    verdict = await judged(at(NAME, *properties))
    assert verdict.permission is permission
    assert verdict.found_at == NAME
    assert bool(verdict.detail) is (permission is FORBIDDEN)


@pytest.mark.parametrize(
    ("properties", "permission"),
    [
        (['0 issuewild ";"', '0 issue "ca.example"'], FORBIDDEN),
        (['0 issuewild "ca.example"', '0 issue ";"'], ALLOWED),
        (['0 issue "other.example"'], FORBIDDEN),
        (['0 issue "ca.example"'], ALLOWED),
    ],
)
async def test_a_wildcard_is_judged_by_issuewild_first(properties: list[str], permission: Permission):
    assert (await judged(at(NAME, *properties), wildcard=True)).permission is permission


@pytest.mark.parametrize("name", ["shop.acme.com", "acme.com", "com"])
async def test_parents_count_up_to_the_top_level(name: str):
    verdict = await judged(at(name, '0 issue "other.example"'))
    assert (verdict.permission, verdict.found_at) == (FORBIDDEN, name)
    assert name in verdict.detail


async def test_the_closest_records_alone_count():
    script = at("acme.com", '0 issue ";"')
    script.put("shop.acme.com", "CAA", '0 issue "ca.example"')
    assert (await judged(script)).permission is ALLOWED


async def test_the_target_of_an_alias_counts_and_its_parents_do_not():
    script = Answering()
    script.put(NAME, "CNAME", "edge.host.example")
    script.put("edge.host.example", "CAA", '0 issue "other.example"')
    assert (await judged(script)).permission is FORBIDDEN
    script.drop("edge.host.example")
    script.put("edge.host.example", "A", "192.0.2.1")
    script.put("host.example", "CAA", '0 issue ";"')
    assert (await judged(script)).permission is ALLOWED
    script.put("acme.com", "CAA", '0 issue "other.example"')
    assert (await judged(script)).found_at == "acme.com"


async def test_without_records_everybody_may():
    assert await judged(Answering()) == CaaVerdict(ALLOWED)


@pytest.mark.parametrize("fault", ["drop", "servfail", "refused"])
@pytest.mark.parametrize("name", [NAME, "acme.com"])
async def test_no_answer_is_no_permission(fault: str, name: str):
    script = Answering()
    script.fail(name, fault, of="CAA")
    verdict = await judged(script)
    assert (verdict.permission, verdict.found_at) == (Permission.UNANSWERED, name)
    assert name in verdict.detail


async def test_a_ca_that_does_not_say_who_it_is_is_forbidden_by_nobody_at_all_only():
    assert (await judged(at(NAME, '0 issue "other.example"'), ca="")).permission is ALLOWED
    assert (await judged(at(NAME, '0 issue ";"'), ca="")).permission is FORBIDDEN


async def test_a_name_of_many_labels_ends():
    resolver = WiredResolver(Answering())
    name = ".".join("a" * 120)
    assert (await check(resolver, name, False, ["ca.example"], None, "http-01")).permission is ALLOWED
    assert len(resolver.asked) == 120


def test_the_value_of_issue():
    assert read_issue(" CA.example ; a=b ;c= d") == ("ca.example", [("a", "b"), ("c", "d")])
    assert read_issue("") == read_issue(" ; ") == ("", [])
    assert read_issue("ca.example; =b") == ("", [])
