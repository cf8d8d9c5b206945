"""Commands as processes: following, interrupts, readers that leave, terminals, colours."""

from __future__ import annotations

import json
import os
import pty
import signal
import ssl
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from scripted_api import CUT, SERVICE, ScriptedApi, answer, chunks, deployment

from wakegate.client import Client
from wakegate.commands.rates import Watch

EVIL = "\x1b]0;owned\x07\u202e"
ITEMS = [
    {"time": f"t{n}", "replica": "0123456789", "deployment": "d", "stream": "stdout", "line": f"l{n}"} for n in range(3)
]
SERVICES = {"items": [], "page": 1, "limit": 100, "total": 0}


def told(*items: dict[str, object], last: int = 0) -> list[str]:
    return [f"id: {last + n}\ndata: {json.dumps(item)}\n\n" for n, item in enumerate(items, 1)]


END = 'event: end\ndata: {"reason": "deleted"}\n\n'


def start(api: ScriptedApi, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WAKEGATE_")}
    env = {**clean, "WAKEGATE_API_URL": api.url, "WAKEGATE_API_KEY": "k$x", "NO_COLOR": "1", "COLUMNS": "80"}
    env |= environment or {}
    command = [sys.executable, "-m", "wakegate", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(command, env=env, text=True, **pipes)


def test_logs_are_followed_over_a_broken_connection():
    script = [chunks(*told(*ITEMS[:2]), ended=False), chunks(*told(ITEMS[2], last=2), END)]
    with ScriptedApi(script) as api:
        out, err = start(api, "services", "logs", "acme/web", "-f").communicate(timeout=30)
        assert out == "".join(f"t{n} 456789 stdout l{n}\n" for n in range(3))
        assert err == "deleted\n"
        assert api.asked[1].headers["last-event-id"] == "2"


def test_followed_logs_as_lines_of_json_are_those_of_the_api():
    with ScriptedApi([chunks(*told(*ITEMS), END)]) as api:
        done = start(api, "services", "logs", "acme/web", "-f", "--json", "--since", "2026-03-18T12:00:00+02:00")
        out, _ = done.communicate(timeout=30)
    assert [json.loads(line) for line in out.splitlines()] == ITEMS
    assert "since=2026-03-18T12%3A00%3A00%2B02%3A00" in api.asked[0].target
    assert done.returncode == 0


def test_followed_events_of_tenants_do_nothing_to_a_terminal():
    event = {"time": "t", "kind": "replica.failed", "reason": EVIL, "deployment": None, "replica": None}
    with ScriptedApi([chunks(*told(event), END)]) as api:
        out, _ = start(api, "services", "events", "acme/web", "-f").communicate(timeout=30)
    assert out == "t  replica.failed  \\x1b]0;owned\\x07\\u202e\n"


@pytest.mark.parametrize("arguments", [["services", "logs", "acme/web", "-f"], ["top", "--namespace", "acme"]])
def test_an_interrupt_is_told_by_the_status(arguments):
    script = (
        [chunks(*told(ITEMS[0]), ended=True), chunks(": still here\n\n")]
        if "logs" in arguments
        else [answer(200, SERVICES)]
    )
    with ScriptedApi(script) as api:
        process = start(api, *arguments)
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Traceback" not in err


def test_a_reader_that_leaves_is_no_error_to_tell():
    items = [{**ITEMS[0], "line": "x" * 1000}] * 1000
    with ScriptedApi([chunks(*told(*items), END)]) as api:
        process = start(api, "services", "logs", "acme/web", "-f")
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        process.stderr.close()
        assert process.wait(30) == 1


def on_a_terminal(api: ScriptedApi, arguments: Sequence[str], typed: str = "", **more: str) -> tuple[int, str]:
    """The exit status, and all that was shown."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "WAKEGATE_API_URL": api.url, "WAKEGATE_API_KEY": "k$x", "TERM": "xterm-256color", **more}
    command = [sys.executable, "-m", "wakegate", *arguments]
    process = subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = b""
    try:
        while part := os.read(ours, 65_536):
            shown += part
    except OSError:  # the last one who had the terminal open has left
        pass
    os.close(ours)
    return process.wait(30), shown.decode()


@pytest.mark.parametrize(("typed", "status", "calls"), [("n\n", 1, 0), ("y\n", 0, 1), ("\x04", 130, 0)])
def test_somebody_who_can_answer_is_asked_before_a_delete(typed, status, calls):
    with ScriptedApi([answer(204)]) as api:
        assert on_a_terminal(api, ["services", "delete", "acme/web"], typed)[0] == status
    assert len(api.asked) == calls


def test_whoever_says_yes_at_once_is_not_asked():
    with ScriptedApi([answer(204)]) as api:
        assert on_a_terminal(api, ["services", "delete", "acme/web", "-y", "--force"])[0] == 0
    assert api.asked[0].target.endswith("/web?force=true")


@pytest.mark.parametrize(("more", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours(more, coloured):
    replicas = {"ready": 1, "desired": 1}
    service = {
        "name": "web",
        "status": "running",
        "replicas": replicas,
        "repo": None,
        "image": "x",
        "endpoint": "http://x",
    }
    body = {**SERVICES, "items": [{"id": "1", **service}], "total": 1}
    with ScriptedApi([answer(200, body)]) as api:
        status, shown = on_a_terminal(api, ["services", "list", "-n", "acme"], **more)
    assert (status, "running" in shown) == (0, True)
    assert ("\x1b[32m" in shown) is coloured


def test_a_terminal_that_knows_few_characters_gets_escapes():
    point = {"time": "2026-03-18T12:00:00Z", "requests": 1, "errors": 0, "rate": 1.0}
    body = {"from": point["time"], "to": point["time"], "step": 60, "totals": point, "series": [point]}
    with ScriptedApi([answer(200, body)]) as api:
        env = {**os.environ, "WAKEGATE_API_URL": api.url, "WAKEGATE_API_KEY": "k$x", "PYTHONIOENCODING": "latin-1"}
        command = [sys.executable, "-m", "wakegate", "services", "analytics", "acme/web", "--sparkline"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert r"\u2588" in done.stdout


COMPLETED = {"items": [{"name": "api"}, {"name": "web"}, {"name": "a;b"}], "page": 1, "limit": 100, "total": 3}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("wakegate services get -n acme ", ["api", "web"]),
        ("wakegate services get acme/a", ["acme/api"]),
        ("wakegate services roll", ["rollback"]),
        ("wakegate services logs acme/web --stream s", ["stdout", "stderr"]),
    ],
)
def test_a_shell_completes(words, offered):
    with ScriptedApi([answer(200, COMPLETED)]) as api:
        assert completed(words, api.url) == offered


def completed(words: str, url: str) -> list[str]:
    env = {**os.environ, "WAKEGATE_API_URL": url, "WAKEGATE_API_KEY": "k$x", "_WAKEGATE_COMPLETE": "bash_complete"}
    env |= {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    program = "from wakegate.cli import main; main(prog_name='wakegate')"
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_completion_is_silent_without_an_api():
    assert completed("wakegate services get acme/", "http://127.0.0.1:1") == []
    assert completed("wakegate services get ", "gopher://x") == []


def service(number: int, **more: object) -> dict[str, object]:
    replicas = {"ready": 1, "desired": 1}
    return {
        "id": str(number),
        "namespace": "acme",
        "name": f"s{number}",
        "status": "running",
        "replicas": replicas,
        **more,
    }


def test_all_pages_are_one_though_services_come_and_go_meanwhile():
    page = {"page": 1, "limit": 100, "total": 150}
    script = [
        answer(200, {**page, "items": [service(n) for n in range(100)]}),
        answer(429, {"status": 429, "detail": "too many"}, {"Retry-After": "0"}),
        answer(200, {**page, "page": 2, "items": [service(n) for n in range(99, 150)]}),
    ]
    with ScriptedApi(script) as api:
        out, _ = start(api, "services", "list", "-n", "acme", "--all", "--json").communicate(timeout=30)
    body = json.loads(out)
    assert [item["id"] for item in body["items"]] == [str(n) for n in range(150)]
    assert body["total"] == 150
    assert [asked.target.rpartition("?")[2] for asked in api.asked[1:]] == ["page=2&limit=100"] * 2


def test_top_on_a_terminal_goes_on_over_an_outage_until_interrupted():
    point = {"time": "2026-03-18T12:00:00Z", "rate": 7.5, "errors": 0, "in_flight": 3, "held": 2, "cold_starts": 1}
    latencies = {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0}
    listed = answer(200, {"items": [service(1)], "page": 1, "limit": 100, "total": 1})
    gone = answer(403, {"status": 403, "detail": "revoked"})
    with ScriptedApi([listed, answer(200, {"series": [{**point, **latencies}]}), CUT, CUT, CUT, listed, gone]) as api:
        status, shown = on_a_terminal(api, ["top", "-n", "acme", "--interval", "0.5"], LINES="24", COLUMNS="140")
    assert status == 1
    assert "\x1b[?1049h" in shown  # a screen of its own
    assert "\x1b[?1049l" in shown
    for told in (
        "1 services, 1 replicas ready, 7.50 requests/s, 3 in flight, 2 held",
        "acme/s1",
        "2.0 ms",
        "can't be reached",
    ):
        assert told in shown
    assert shown.rstrip().endswith("error: revoked")


def test_a_watch_of_many_stays_within_the_rate_of_calls():
    body = {"items": [service(n) for n in range(90)], "page": 1, "limit": 100, "total": 90}
    listed, idle, now = answer(200, body), answer(200, {"series": []}), 100.0
    with ScriptedApi([listed, *[idle] * 90, listed, *[idle] * 90]) as api:
        watch = Watch(Client(api.url, "k"), ("acme",), clock=lambda: now)
        watch.look(2.0)
        assert len(api.asked) == 1 + 6
        now += 0.5
        watch.look(2.0)  # the list is not due yet, other services are
        assert len(api.asked) == 1 + 6 + 6
        assert len({asked.target.partition("?")[0] for asked in api.asked[1:]}) == 12
        watch.look(None)
        assert len(api.asked) == 1 + 90
        now += 10
        watch.look(2.0)
        assert len(api.asked) == 1 + 90 + 1 + 6
    assert len(watch.rows()) == 90


def test_progress_on_a_terminal_is_lines_above_a_spinner():
    def at(state: str, reason: str | None = None) -> bytes:
        return answer(200, {**SERVICE, "deployment": deployment(7, state, reason=reason)})

    def said(*kinds: str) -> bytes:
        events = [{"time": "2026-03-18T12:00:00.000001Z", "kind": kind, "reason": EVIL} for kind in kinds]
        return answer(200, {"items": events, "next": "1", "truncated": False})

    script = [at("pending"), at("building"), said("deployment.building"), at("failed", EVIL), said("deployment.failed")]
    with ScriptedApi(script) as api:
        status, shown = on_a_terminal(api, ["services", "create", "acme/web", "--repo", "acme/web", "--wait"])
    assert status == 1
    assert EVIL not in shown
    shown_evil = r"\x1b]0;owned\x07\u202e"
    for kind in ("building", "failed"):
        assert f"12:00:00.000  deployment.{kind}  {shown_evil}" in shown
    assert " deploying" in shown
    assert shown.rstrip().endswith(f"error: {shown_evil}")
    assert "cursor=1" in api.asked[-1].target


def test_a_certificate_that_nobody_vouches_for_is_told(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "api")]), datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    pem = made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "cert.pem").write_bytes(pem + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem")
    with ScriptedApi([answer(200, SERVICES)], tls=context) as api:
        for more, status in (({}, 1), ({"SSL_CERT_FILE": str(tmp_path / "cert.pem")}, 0)):
            process = start(api, "services", "list", "-n", "acme", environment=more)
            _, err = process.communicate(timeout=30)
            assert process.returncode == status, err
            assert ("SSL_CERT_FILE" in err) is bool(status)
