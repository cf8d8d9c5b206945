"""`wakegate domains` against the running API: tables, `--json`, exit codes, files, watching."""

from __future__ import annotations

import asyncio
import json

import pytest
from command_runner import Run, runner
from domain_parts import add, certificate, change, kept, names, prove, put, stored

from state.certificates import DnsRecord
from state.kinds import Kind
from tests.chains import issue
from wakegate.cli import main
from wakegate.commands.domain_views import domain_facts, to_do

LEAF = issue(["www.acme.com"])


@pytest.fixture
async def run(rig) -> Run:
    await rig.create("api")
    return runner(rig)


async def test_a_domain_is_added_listed_and_removed(rig, run):
    made = await run("domains", "add", "acme/api", "WWW.acme.com")
    assert made.exit_code == 0, made.output
    for part in (
        "www.acme.com",
        "pending_dns",
        "CNAME",
        "api-acme.apps.localhost",
        "_wakegate.www.acme.com",
        "set the records",
    ):
        assert part in made.stdout
    sent = await run("domains", "add", "api", "acme.com", "--redirect-to", "www.acme.com", "-n", "acme", "--json")
    assert json.loads(sent.stdout)["redirect_to"] == "www.acme.com"
    listed = await run("domains", "list", "acme/api")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["DOMAIN", "www.acme.com", "acme.com"]
    whole = await run("services", "get", "acme/api")
    assert "CNAME www.acme.com -> api-acme.apps.localhost" in whole.stdout
    assert "acme.com: pending_dns" in whole.stdout
    back = await run("domains", "add", "acme/api", "acme.com", "--no-redirect", "--json")
    assert json.loads(back.stdout)["redirect_to"] is None
    gone = await run("domains", "remove", "acme/api", "www.acme.com")
    assert (gone.exit_code, gone.stdout) == (0, "removed www.acme.com from acme/api\n")
    assert await names(rig) == ["acme.com"]
    again = await run("domains", "remove", "acme/api", "www.acme.com", "--json")
    assert (again.exit_code, json.loads(again.stdout)["status"]) == (1, 404)


async def test_status_shows_expected_and_observed_side_by_side(rig, run):
    await add(rig, "www.acme.com")
    await add(rig, "acme.com")
    records = (DnsRecord("CNAME", "www.acme.com", "api-acme.apps.localhost", "old.example.net\x1b[2J"),)
    await change(rig, "www.acme.com", reason="cname_mismatch", detail="It leads to old.example.net.", records=records)
    shown = await run("domains", "status", "acme/api", "www.acme.com")
    assert shown.exit_code == 0
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines[-2] == ["TYPE", "NAME", "EXPECTED", "OBSERVED"]
    assert lines[-1] == ["CNAME", "www.acme.com", "api-acme.apps.localhost", "old.example.net\\x1b[2J"]
    assert ["reason", "cname_mismatch"] in lines
    both = await run("domains", "status", "acme/api")
    assert both.stdout.count("EXPECTED") == 2
    assert json.loads((await run("domains", "status", "acme/api", "--json")).stdout)["items"][1]["name"] == "acme.com"
    unknown = await run("domains", "status", "acme/api", "other.acme.com")
    assert (unknown.exit_code, "has no domain" in unknown.stderr) == (1, True)


async def test_status_is_watched_until_all_are_active(rig, run, monkeypatch):
    monkeypatch.setattr("wakegate.commands.domains._POLL", 0.02)
    await add(rig, "www.acme.com")
    watching = asyncio.create_task(run("domains", "status", "acme/api", "--watch", "--json"))
    await asyncio.sleep(0)
    await prove(rig, "www.acme.com")
    await put(rig, (Kind.CERTIFICATE, "www.acme.com", certificate("www.acme.com")))
    async with asyncio.timeout(30):
        done = await watching
    states = [json.loads(line)["items"][0]["status"] for line in done.stdout.splitlines()]
    assert done.exit_code == 0
    assert states[-1] == "active"
    assert len(states) == len(set(states))


async def test_an_own_certificate_is_set_from_files_and_removed(rig, run, tmp_path):
    await add(rig, "www.acme.com")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_text(LEAF.pem)
    key.write_text(LEAF.key_pem)
    files = ("--cert", str(chain), "--key", str(key))
    early = await run("domains", "certificate", "acme/api", "www.acme.com", *files)
    assert (early.exit_code, "TXT record _wakegate.www.acme.com" in early.stderr) == (1, True)
    await prove(rig, "www.acme.com")
    done = await run("domains", "certificate", "acme/api", "www.acme.com", *files)
    assert done.exit_code == 0, done.output
    assert "uploaded, until" in done.stdout
    assert LEAF.key_pem.splitlines()[1] not in done.output
    swapped = await run("domains", "certificate", "acme/api", "www.acme.com", "--cert", str(key), "--key", str(chain))
    assert swapped.exit_code == 1
    assert {"certificate:", "key:"} <= set(swapped.stderr.split())
    gone = await run("domains", "certificate", "acme/api", "www.acme.com", "--remove")
    assert (gone.exit_code, gone.stdout) == (0, "removed the certificate of www.acme.com\n")
    assert await kept(rig, "www.acme.com") == {"domain", "route"}


async def test_wrong_usage_sends_nothing(rig, run, tmp_path):
    await add(rig, "www.acme.com")
    binary = tmp_path / "leaf.der"
    binary.write_bytes(b"\xff\xfe\x00")
    domain = ("acme/api", "www.acme.com")
    for arguments in (
        ("add", *domain, "--redirect-to", "acme.com", "--no-redirect"),
        ("certificate", *domain),
        ("certificate", *domain, "--cert", str(binary)),
        ("certificate", *domain, "--cert", str(binary), "--key", str(binary)),
        ("certificate", *domain, "--cert", str(binary), "--remove"),
        ("certificate", *domain, "--cert", str(tmp_path / "none"), "--key", str(binary)),
        ("status",),
        ("remove", "acme/api"),
    ):
        wrong = await run("domains", *arguments)
        assert wrong.exit_code == 2, (arguments, wrong.output)
    assert await stored(rig, Kind.CERTIFICATE, "www.acme.com") is None


async def test_names_of_domains_are_completed(rig, run, monkeypatch):
    await add(rig, "www.acme.com")
    await add(rig, "acme.com")
    for name, value in (("WAKEGATE_API_URL", rig.url), ("WAKEGATE_API_KEY", rig.token)):
        monkeypatch.setenv(name, value)
    for words, offered in (
        ("domains status acme/api ", {"acme.com", "www.acme.com"}),
        ("domains remove acme/api w", {"www.acme.com"}),
        ("domains certificate none/api ", set()),
    ):
        assert await asyncio.to_thread(_completed, words) == offered


def _completed(words: str) -> set[str]:
    from click.shell_completion import ShellComplete

    *arguments, begun = words.split(" ")
    found = ShellComplete(main, {}, "wakegate", "_WAKEGATE_COMPLETE").get_completions(arguments, begun)
    return {item.value for item in found}


def test_the_time_of_a_renewal_is_shown_as_one_to_come():
    of = {"issuer": "internal", "not_after": "2026-03-01T00:00:00.000000Z", "renew_at": "2026-02-01T…", "trusted": True}
    shown = dict.fromkeys(("name", "reason", "detail", "redirect_to", "checked_at", "next_check_at"))
    facts = domain_facts({**shown, "status": "active", "certificate": of})
    assert facts["next renewal"] == "2026-02-01T…"
    assert domain_facts({**shown, "status": "active", "certificate": None})["next renewal"] is None


def test_what_to_do_follows_from_reason_and_status():
    def of(status: str, reason: str | None = None) -> str | None:
        return to_do({"status": status, "reason": reason})

    assert of("active") is None
    assert "set the records" in (of("pending_dns", "nxdomain") or "")
    assert "AAAA" in (of("pending_dns", "aaaa_mismatch") or "")
    assert "TXT" in (of("pending_ownership", "held_elsewhere") or "")
    assert "CAA" in (of("failed", "caa_forbidden") or "")
    assert "CAA" in (of("active", "caa_forbidden") or "")
    assert (of("verified") or "").startswith("nothing")
