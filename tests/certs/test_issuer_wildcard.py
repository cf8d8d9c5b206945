"""The platform's wildcard: proved by TXT records that a program sets and removes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from certs.acme.challenge import DNS_01
from certs.dns_hook import DnsHook
from certs.issuer_proofs import TxtRecords
from certs.wanted import Platform
from tests.certs.issuing import World, until

BOTH = ("*.apps.test", "apps.test")
HOOK = """#!{python}
import json, sys, urllib.request
action, name, value = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(action + " " + name + " " + value + chr(10))
what = {{"add": "set-txt", "remove": "clear-txt"}}[action]
body = json.dumps({{"host": name + ".", "value": value}}).encode()
urllib.request.urlopen("{server}/" + what, body, timeout=10).close()
"""


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


def txt(ca: World, calls: Path, patience: float = 20.0, *, seen: bool = True) -> TxtRecords:
    """By a program that talks to the DNS that the CA asks; what it set is what is seen."""
    program = calls.with_name("hook")
    program.write_text(
        HOOK.format(python=sys.executable, log=str(calls), server=f"http://127.0.0.1:{ca.pebble._challtestsrv}")
    )
    program.chmod(0o755)

    async def look(name: str) -> list[str]:
        told = calls.read_text().split() if seen else []
        return [value for known, value in zip(told[1::3], told[2::3], strict=True) if known == name]

    return TxtRecords(DnsHook(program), look, patience)


async def test_one_order_for_the_domain_and_all_below_it(ca: World, calls: Path) -> None:
    platform = Platform("apps.test", "api.apps.test", wildcard=True)
    async with ca.control(platform=platform, txt=txt(ca, calls)).running() as control:
        first = await control.served("apps.test")
        assert control.certificate("*.apps.test").chain == first.chain  # type: ignore[union-attr] - it is there
        assert set(first.names) == set(BOTH)
        for name in BOTH:
            stored = control.certificate(name)
            assert stored is not None
            assert "PRIVATE KEY" in control.vault.unseal("", name, "key", stored.key)
        assert ca.orders == 1
        assert control.duty.trusted("*.apps.test")
        issuance = control.issuance("*.apps.test")
        assert issuance is not None
        assert issuance.challenge == DNS_01
        await until(lambda: not control.duty.busy)
    told = calls.read_text().split()
    added = {tuple(told[i + 1 : i + 3]) for i in range(0, len(told), 3) if told[i] == "add"}
    removed = {tuple(told[i + 1 : i + 3]) for i in range(0, len(told), 3) if told[i] == "remove"}
    assert added == removed
    assert {name for name, _ in added} == {"_acme-challenge.apps.test"}


async def test_a_record_that_is_never_seen_fails_before_the_ca_looks(ca: World, calls: Path) -> None:
    platform = Platform("apps.test", wildcard=True)
    async with ca.control(platform=platform, txt=txt(ca, calls, 1.0, seen=False)).running() as control:
        issuance = await control.failed("*.apps.test", "hook_failed")
        assert "not seen" in (issuance.detail or "")
        assert ca.proxy.counts["challenge"] == 0
        assert control.spent(issuance.names[0]).failed == ()
    assert "remove" in calls.read_text()


async def test_a_program_that_fails_says_why(ca: World, calls: Path) -> None:
    records = txt(ca, calls)
    calls.with_name("hook").write_text("#!/bin/sh\necho no such zone; exit 1\n")
    async with ca.control(platform=Platform("apps.test", wildcard=True), txt=records).running() as control:
        issuance = await control.failed("*.apps.test", "hook_failed")
        assert "no such zone" in (issuance.detail or "")
