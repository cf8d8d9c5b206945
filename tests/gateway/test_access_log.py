"""The access log: what a line says, that it is one line of JSON whatever came, and what becomes of it on its way."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wire import Conversation, Starter, fields, get, ok, until

from gateway.access_log import MODE, OPENED, AccessLog
from gateway.answers import fresh_id
from gateway.errors import Failure, Malformed
from gateway.exchange import Exchange
from gateway.http1.request_head import parse_request
from gateway.refused import Refused
from gateway.settings import GatewaySettings
from gateway.sides import Downstream, Keeper

ROOT = Path(__file__).resolve().parents[2]
FIELDS = [
    *("time", "id", "trace", "client", "scheme", "tls", "forwarded_for", "http", "host", "service", "replica"),
    *("method", "path", "user_agent", "status", "bytes_in", "bytes_out"),
    *("hold_ms", "connect_ms", "first_byte_ms", "total_ms", "retries", "proxy_status"),
]
LIMITS = Conversation(GatewaySettings()).edge._office.limits


def logged(*, head: bytes = b"", failure: Failure | None = None) -> list[bytes]:
    """The lines that the log writes for this request head, as bytes with their ends."""
    out, end = os.pipe()
    log = AccessLog(end)
    down = Downstream()
    down.peer = b"2001:db8::1"
    try:
        request = parse_request(head, 100, 8192, True)
        ended = Exchange(request, down, Keeper(), LIMITS, 0.0)
        ended.error = failure
        log.add(ended)
    except Malformed as malformed:
        log.add_refused(Refused(fresh_id(), down, malformed, head, 10, 0.5))
    log.close()
    os.close(end)
    with os.fdopen(out, "rb") as stream:
        return stream.readlines()


names = st.sampled_from([b"Host", b"User-Agent", b"X-Request-Id", b"X-Forwarded-For", b"traceparent", b"X", b""])
values = st.binary(max_size=40) | st.sampled_from(
    [b"app.test", b'a"b\\c', b"\xff\xfe", b"\t", b"\r\n", b"\x7f\x1b[31m"]
)
targets = st.binary(max_size=40) | st.sampled_from([b"/", b'/"\\', b"*", b"http://a/?q", b"/\xe2\x80\xa8"])
methods = st.binary(max_size=8) | st.sampled_from([b"GET", b"OPTIONS", b'"', b"\\"])


@given(methods, targets, st.lists(st.tuples(names, values), max_size=5), st.booleans())
@example(b"GET", b'/"\\?"', [(b"Host", b"a"), (b"User-Agent", b'"\\\t\xff\x80 x')], True)
def test_any_head_is_one_line_of_json(
    method: bytes, target: bytes, lines: list[tuple[bytes, bytes]], fails: bool
) -> None:
    head = b"\r\n".join([b"%b %b HTTP/1.1" % (method, target), *(b"%b: %b" % line for line in lines)])
    failure = Failure(502, "connection_refused", 'the "replica"\n\\ said \xff no') if fails else None
    (line,) = logged(head=head, failure=failure)
    assert line.endswith(b"}\n")
    assert line.isascii()
    told = json.loads(line)
    assert set(told) >= set(FIELDS) - {"proxy_status"}
    agents = [value for name, value in lines if name == b"User-Agent"]
    if told["user_agent"]:
        assert told["user_agent"].encode("latin-1") == agents[-1].strip(b" \t")[:512]


@given(st.binary(max_size=300))
def test_anything_at_all_is_one_line_of_json(head: bytes) -> None:
    (line,) = logged(head=head)
    json.loads(line)
    assert line.isascii()


async def test_a_line_has_all_fields_in_their_order(conversation: Starter) -> None:
    out, end = os.pipe()
    talk = await conversation(log_fd=end, hold_timeout=0.3)
    talk.serve()
    client = await talk.client()
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    sent = get("/a?b=c", "User-Agent: test/1 (x)", f"traceparent: 00-{trace}-00f067aa0ba902b7-01")
    await client.send(sent)
    head = fields(await client.head())
    client.close()
    await until(lambda: not talk.edge.connections)
    talk.log.close()
    os.close(end)
    with os.fdopen(out) as stream:
        told: dict[str, Any] = json.loads(stream.read())
    assert list(told) == FIELDS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told["time"])
    assert told["id"].encode() == head[b"x-request-id"][0]
    assert (told["trace"], told["user_agent"]) == (trace, "test/1 (x)")
    assert (told["client"], told["scheme"], told["tls"], told["http"]) == ("127.0.0.1", "http", "", "1.1")
    assert (told["host"], told["service"], told["replica"]) == ("app.test", "acme/app", "")
    assert (told["method"], told["path"], told["status"], told["retries"]) == ("GET", "/a?b=c", 504, 0)
    assert told["bytes_in"] == len(sent)
    assert told["hold_ms"] >= 300
    assert told["total_ms"] >= told["first_byte_ms"] >= told["hold_ms"]
    assert told["connect_ms"] == 0
    assert told["proxy_status"].startswith("wakegate; error=connection_timeout; details=")


async def test_whom_a_trusted_proxy_speaks_for(conversation: Starter) -> None:
    out, end = os.pipe()
    for trusted, expected in (((ipaddress.ip_network("127.0.0.0/8"),), '203.0.113.7, "x"\xff'), ((), "")):
        talk = await conversation(log_fd=end, trusted_proxies=trusted)
        client = await talk.client()
        await client.send(b'GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7, "x"\xff\r\n\r\n')
        await client.head()
        talk.log.close()
        told = json.loads(os.read(out, 65536))
        assert (told["client"], told["forwarded_for"]) == ("127.0.0.1", expected)
    os.close(end)
    os.close(out)


async def test_the_durations_of_a_request_that_reaches_a_replica(conversation: Starter) -> None:
    out, end = os.pipe()
    talk = await conversation(log_fd=end)
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(b"GET / HTTP/1.0\r\nHost: app.test\r\n\r\n")
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok(b"x" * 100))
    answer = await client.rest()
    talk.log.close()
    os.close(end)
    with os.fdopen(out) as stream:
        told = json.loads(stream.read())
    assert (told["http"], told["status"], told["replica"], told["user_agent"]) == ("1.0", 200, "replica-1", "")
    assert told["bytes_out"] == len(answer)
    assert 0 < told["connect_ms"] < told["first_byte_ms"] <= told["total_ms"]
    assert "proxy_status" not in told


# Rotation


@pytest.fixture
def rotated(tmp_path: Path) -> Iterator[tuple[AccessLog, Path]]:
    path = tmp_path / "access.log"
    fd = os.open(path, OPENED, MODE)
    log = AccessLog(fd, path=str(path))
    yield log, path
    log.close()
    os.close(fd)


def exchange(target: str) -> Exchange:
    request = parse_request(b"GET %b HTTP/1.1\r\nHost: a" % target.encode(), 100, 8192, False)
    return Exchange(request, Downstream(), Keeper(), LIMITS, 0.0)


def say(log: AccessLog, target: str) -> None:
    log.add(exchange(target))
    log.close()


def told(path: Path) -> list[str]:
    return [json.loads(line)["path"] for line in path.read_text().splitlines()]


def test_moved_away_a_new_file_is_opened(rotated: tuple[AccessLog, Path]) -> None:
    log, path = rotated
    say(log, "/1")
    old = path.rename(path.with_suffix(".1"))
    say(log, "/2")
    say(log, "/3")
    assert (told(old), told(path)) == (["/1"], ["/2", "/3"])
    assert path.stat().st_mode & 0o777 == 0o640


def test_moved_away_and_made_anew_as_logrotate_does(rotated: tuple[AccessLog, Path]) -> None:
    log, path = rotated
    say(log, "/1")
    old = path.rename(path.with_suffix(".1"))
    path.touch(0o600)
    say(log, "/2")
    assert (told(old), told(path)) == (["/1"], ["/2"])
    assert path.stat().st_mode & 0o777 == 0o600


def test_truncated_in_place_it_goes_on_at_the_start(rotated: tuple[AccessLog, Path]) -> None:
    log, path = rotated
    say(log, "/1")
    os.truncate(path, 0)
    say(log, "/2")
    assert told(path) == ["/2"]


def test_removed_it_is_made_anew(rotated: tuple[AccessLog, Path]) -> None:
    log, path = rotated
    path.unlink()
    say(log, "/1")
    assert told(path) == ["/1"]


def test_what_can_not_be_opened_anew_leaves_the_old_file(rotated: tuple[AccessLog, Path]) -> None:
    log, path = rotated
    old = path.rename(path.with_suffix(".1"))
    path.mkdir()
    say(log, "/1")
    assert told(old) == ["/1"]
    assert log.dropped == 0


def test_a_line_that_was_cut_short_is_ended_before_the_next() -> None:
    """A pipe that takes only a part stands for a disk that is full for a moment."""
    out, end = os.pipe()
    os.set_blocking(end, False)
    log = AccessLog(end)
    for _ in range(19):
        log.add(exchange("/" + "a" * 5000))
    say(log, "/1")
    assert log.dropped == 20
    begun = os.read(out, 1 << 20)
    say(log, "/2")
    os.close(end)
    with os.fdopen(out, "rb") as stream:
        rest = stream.read()
    assert not begun.endswith(b"\n")
    cut, line = rest.split(b"\n", 1)
    assert cut == b""
    assert json.loads(line)["path"] == "/2"


WRITER = """
import sys
sys.path += [{root!r}, {root!r} + "/tests/gateway"]
from wire import Conversation
from gateway.access_log import AccessLog
from gateway.exchange import Exchange
from gateway.http1.request_head import parse_request
from gateway.settings import GatewaySettings
from gateway.sides import Downstream, Keeper
log = AccessLog(1)
limits = Conversation(GatewaySettings()).edge._office.limits
target = b"/" + sys.argv[1].encode() * 6000
for _ in range(400):
    request = parse_request(b"GET %b HTTP/1.1\\r\\nHost: a" % target, 100, 8192, False)
    log.add(Exchange(request, Downstream(), Keeper(), limits, 0.0))
log.close()
"""


def test_lines_of_several_workers_in_one_pipe_are_not_mixed() -> None:
    out, end = os.pipe()
    command = [sys.executable, "-c", WRITER.format(root=str(ROOT))]
    writers = [subprocess.Popen([*command, name], stdout=end) for name in "ab"]
    os.close(end)
    with os.fdopen(out, "rb") as stream:
        lines = [json.loads(line)["path"] for line in stream]
    assert [writer.wait(20) for writer in writers] == [0, 0]
    assert sorted(lines) == ["/" + "a" * 6000] * 400 + ["/" + "b" * 6000] * 400


async def test_a_reader_that_is_gone_drops_lines_and_counts_them(conversation: Starter) -> None:
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN  # as in every Python program
    out, end = os.pipe()
    os.close(out)
    talk: Conversation = await conversation(log_fd=end)
    client = await talk.client()
    await client.send(get(host="nobody.test"))
    assert (await client.head()).startswith(b"HTTP/1.1 404")
    await until(lambda: talk.edge.counters()["log_dropped"] == 1)
    os.close(end)
