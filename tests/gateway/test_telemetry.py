"""Traces: what is sampled, what a span says, what is sent on, and that a collector's troubles are its own."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from otlp_collector import Collector, plain
from wire import Conversation, Peer, Starter, fields, get, ok, until

from gateway.otlp import OtlpExporter
from gateway.telemetry import Finished, Sampler, Telemetry, TelemetrySettings, configured

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}

Traced = Callable[..., Awaitable[tuple[Conversation, Telemetry]]]


@pytest.fixture
def collector() -> Iterator[Collector]:
    started = Collector()
    yield started
    started.close()


@pytest.fixture
async def traced(conversation: Starter, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Traced]:
    """`await traced(environment, hold_timeout=1)`: an edge that exports to the collector."""
    started: list[Telemetry] = []

    async def start(environment: Mapping[str, str] | None = None, **settings: object) -> tuple[Conversation, Telemetry]:
        given = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "20", **(environment or {})}
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        found = configured(os.environ, pytest.fail)
        assert found is not None
        telemetry = Telemetry(found, OtlpExporter("node/1"), lambda text: None)
        started.append(telemetry)
        return await conversation(telemetry=telemetry, **settings), telemetry

    yield start
    for telemetry in started:
        telemetry.close()


async def exchanged(talk: Conversation, request: bytes, response: bytes = ok(b"hello")) -> tuple[bytes, bytes]:
    """What the replica and the client saw of one request over a new connection."""
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(request)
    replica = await origin.peer()
    seen = await replica.head()
    await replica.send(response)
    head = await client.head()
    client.close()
    return seen, head


# What a span says


async def test_a_span_of_a_request(traced: Traced, collector: Collector) -> None:
    talk, _ = await traced()
    seen, head = await exchanged(talk, get("/a?b=c&sig=secret&signed=no", "User-Agent: test/1", host="app.test:8080"))
    await until(lambda: len(collector.spans) == 2, "the spans")
    span, connect = collector.spans
    trace = fields(seen)[b"traceparent"][0].decode()
    assert trace == f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"
    assert (span.name, span.kind, span.parent_span_id, span.status.code) == ("GET", span.SPAN_KIND_SERVER, b"", 0)
    told = plain(span.attributes)
    assert told.pop("wakegate.request_id") == fields(head)[b"x-request-id"][0].decode()
    assert told == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.path": "/a",
        "url.query": "b=c&sig=REDACTED&signed=no",
        "url.scheme": "http",
        "server.address": "app.test",
        "server.port": 8080,
        "client.address": "127.0.0.1",
        "network.peer.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "user_agent.original": "test/1",
        "wakegate.service": "acme/app",
        "wakegate.replica": "replica-1",
    }
    assert (connect.name, connect.parent_span_id, connect.trace_id) == ("connect", span.span_id, span.trace_id)
    assert plain(connect.attributes)["network.peer.address"] == "127.0.0.1"
    (first,) = span.events
    assert first.name == "first_byte"
    begun, ended = span.start_time_unix_nano, span.end_time_unix_nano
    assert begun <= connect.start_time_unix_nano < connect.end_time_unix_nano <= first.time_unix_nano <= ended
    assert collector.scopes == ["wakegate"]
    (resource,) = collector.resources
    assert (resource["service.name"], resource["service.instance.id"]) == ("wakegate", "node/1")


async def test_a_held_request(traced: Traced, collector: Collector) -> None:
    talk, _ = await traced()
    talk.serve()
    client = await talk.client()
    await client.send(get())
    await until(lambda: talk.held == 1)
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok())
    await client.head()
    await until(lambda: len(collector.spans) == 3, "the spans")
    span, hold, connect = collector.spans
    assert [one.name for one in collector.spans] == ["GET", "hold", "connect"]
    assert {one.parent_span_id for one in (hold, connect)} == {span.span_id}
    assert hold.start_time_unix_nano < hold.end_time_unix_nano <= connect.start_time_unix_nano + 1000


async def test_the_parent_that_came_along(traced: Traced, collector: Collector) -> None:
    talk, _ = await traced()
    lines = (f"traceparent: 00-{TRACE}-{PARENT}-01", "tracestate: a=1", "tracestate: b=2")
    seen, _ = await exchanged(talk, get("/", *lines))
    await until(lambda: len(collector.spans) == 2, "the spans")
    span = collector.spans[0]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.span_id.hex() != PARENT
    assert fields(seen)[b"traceparent"] == [f"00-{TRACE}-{span.span_id.hex()}-01".encode()]
    assert fields(seen)[b"tracestate"] == [b"a=1", b"b=2"]
    assert span.trace_state == "a=1,b=2"
    assert span.flags & 0x300 == 0x300  # the parent is remote


async def test_what_came_unsampled_goes_on_as_it_is(traced: Traced, collector: Collector) -> None:
    talk, _ = await traced()
    unsampled = f"00-{TRACE}-{PARENT}-00"
    seen, _ = await exchanged(talk, get("/", f"traceparent: {unsampled}"))
    assert fields(seen)[b"traceparent"] == [unsampled.encode()]
    await exchanged(talk, get("/2"))
    await until(lambda: len(collector.spans) == 2, "the spans of the second")
    assert plain(collector.spans[0].attributes)["url.path"] == "/2"


async def test_what_came_unsampled_and_is_recorded_all_the_same_says_so(traced: Traced, collector: Collector) -> None:
    talk, _ = await traced({"OTEL_TRACES_SAMPLER": "always_on"})
    seen, _ = await exchanged(talk, get("/", f"traceparent: 00-{TRACE}-{PARENT}-02"))
    await until(lambda: len(collector.spans) == 2, "the spans")
    assert fields(seen)[b"traceparent"] == [f"00-{TRACE}-{collector.spans[0].span_id.hex()}-03".encode()]


async def test_what_begins_here_unsampled_says_so(traced: Traced, collector: Collector) -> None:
    talk, _ = await traced({"OTEL_TRACES_SAMPLER": "parentbased_always_off"})
    seen, _ = await exchanged(talk, get())
    assert fields(seen)[b"traceparent"][0].endswith(b"-00")
    seen, _ = await exchanged(talk, get("/", f"traceparent: 00-{TRACE}-{PARENT}-01"))
    await until(lambda: len(collector.spans) == 2, "the spans of the second")
    assert collector.spans[0].trace_id.hex() == TRACE


@pytest.mark.parametrize(
    ("response", "status", "error", "code"),
    [
        (ok(status="404 Not Found"), 404, None, 0),
        (ok(status="503 Busy"), 503, "503", 2),
        (b"nonsense\r\n\r\n", 502, "http_protocol_error", 2),
    ],
)
async def test_failures(
    traced: Traced, collector: Collector, response: bytes, status: int, error: str | None, code: int
) -> None:
    talk, _ = await traced()
    await exchanged(talk, get(), response)
    await until(lambda: len(collector.spans) == 2, "the spans")
    span = collector.spans[0]
    told = plain(span.attributes)
    assert (told["http.response.status_code"], told.get("error.type"), span.status.code) == (status, error, code)
    assert ("wakegate.proxy_status" in told) is (status == 502)


async def test_an_answer_that_was_cut_is_an_error(traced: Traced, collector: Collector) -> None:
    talk, _ = await traced()
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get())
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok(b"hello")[:-1])
    await client.head()
    replica.close()
    await until(lambda: len(collector.spans) == 2, "the spans")
    told = plain(collector.spans[0].attributes)
    assert (told["http.response.status_code"], told["error.type"]) == (200, "http_response_incomplete")
    assert collector.spans[0].status.code == 2


async def test_a_client_that_left(traced: Traced, collector: Collector) -> None:
    talk, _ = await traced()
    talk.serve()
    client = await talk.client()
    await client.send(get())
    await until(lambda: talk.held == 1)
    client.reset()
    await until(lambda: len(collector.spans) == 2, "the spans")
    told = plain(collector.spans[0].attributes)
    assert "http.response.status_code" not in told
    assert (told["error.type"], collector.spans[0].status.code) == ("client_left", 0)
    assert collector.spans[1].name == "hold"


async def test_other_methods_hosts_and_bytes(traced: Traced, collector: Collector) -> None:
    talk, _ = await traced()
    client = await talk.client()
    await client.send(get("/", "User-Agent: \xff\t\x80", method="BREW", host="[::1]:80"))
    await client.send(get("/?", host="app.test:"))
    await until(lambda: len(collector.spans) == 2, "the spans")
    brew, empty = (plain(span.attributes) for span in collector.spans)
    assert collector.spans[0].name == "HTTP"
    assert (brew["http.request.method"], brew["http.request.method_original"]) == ("_OTHER", "BREW")
    assert (brew["server.address"], brew["server.port"]) == ("::1", 80)
    assert brew["user_agent.original"] == "\xff\t\x80"
    assert (empty["server.address"], empty["url.path"], empty["url.query"]) == ("app.test", "/", "")
    assert "server.port" not in empty


async def test_the_resource_is_as_the_environment_says(traced: Traced, collector: Collector) -> None:
    environment = {
        "OTEL_SERVICE_NAME": "edge",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test,service.instance.id=mine",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x",
    }
    talk, _ = await traced(environment)
    await exchanged(talk, get())
    await until(lambda: len(collector.spans) == 2, "the spans")
    resource = collector.resources[0]
    assert (resource["service.name"], resource["deployment.environment"]) == ("edge", "test")
    assert resource["service.instance.id"] == "mine"
    assert collector.exports[0]["authorization"] == "Bearer x"
    assert collector.exports[0]["path"] == "/v1/traces"


# Troubles of the collector


class Slow:
    """An exporter that is told what to do by the test."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.result: bool | Exception = True
        self.free = threading.Event()
        self.free.set()
        self.waiting = threading.Event()

    def export(self, batch: Sequence[Finished]) -> bool:
        self.waiting.set()
        self.free.wait(20)
        if isinstance(self.result, Exception):
            raise self.result
        self.taken.append(len(batch))
        return self.result

    def close(self) -> None:
        self.free.set()


async def asked(client: Peer, count: int) -> None:
    for _ in range(count):
        await client.send(get(host="nobody.test"))
        await client.through(b"}\n")


async def test_what_does_not_fit_is_dropped_and_counted(conversation: Starter) -> None:
    exporter = Slow()
    exporter.free.clear()
    telemetry = Telemetry(TelemetrySettings(queue=10, batch=4, delay=0.01), exporter, pytest.fail)
    talk = await conversation(telemetry=telemetry)
    client = await talk.client()
    await asked(client, 1)
    await until(exporter.waiting.is_set)
    await asked(client, 30)
    assert telemetry.dropped == 20
    assert talk.edge.counters()["spans_dropped"] == 20
    exporter.free.set()
    telemetry.close()
    assert sum(exporter.taken) == 11
    assert max(exporter.taken) <= 4


async def test_a_failing_exporter_is_told_of_once_and_its_spans_are_counted(conversation: Starter) -> None:
    exporter, said = Slow(), list[str]()
    telemetry = Telemetry(TelemetrySettings(batch=1, delay=0.01), exporter, said.append)
    talk = await conversation(telemetry=telemetry)
    client = await talk.client()
    exporter.result = False
    await asked(client, 3)
    await until(lambda: telemetry.dropped == 3)
    exporter.result = RuntimeError("no")
    await asked(client, 2)
    await until(lambda: telemetry.dropped == 5)
    exporter.result = True
    await asked(client, 1)
    await until(lambda: exporter.taken[-1:] == [1] and len(said) == 2)
    telemetry.close()
    assert said == ["traces can't be exported, they are dropped", "traces are exported again"]


async def test_a_collector_that_refuses_or_is_gone_does_no_harm(traced: Traced, collector: Collector) -> None:
    talk, telemetry = await traced({"OTEL_EXPORTER_OTLP_TIMEOUT": "1"})
    client = await talk.client()
    collector.status = 400
    await asked(client, 3)
    await until(lambda: telemetry.dropped == 3)
    collector.close()
    await asked(client, 3)
    await until(lambda: telemetry.dropped == 6)
    assert talk.edge.counters()["services"][""]["requests"] == {"404": 6}


async def test_ending_does_not_wait_for_a_collector_that_is_stuck(traced: Traced, collector: Collector) -> None:
    talk, telemetry = await traced()
    collector.gate.clear()
    client = await talk.client()
    await asked(client, 3)
    await until(lambda: not telemetry._queue)
    began = os.times().elapsed
    telemetry.close()
    assert os.times().elapsed - began < 3.5


async def test_what_is_left_is_exported_at_the_end(traced: Traced, collector: Collector) -> None:
    talk, telemetry = await traced({"OTEL_BSP_SCHEDULE_DELAY": "60000"})
    client = await talk.client()
    await asked(client, 3)
    telemetry.close()
    assert len(collector.spans) == 3
    assert telemetry.dropped == 0


async def test_when_off_nothing_is_recorded(talk: Conversation) -> None:
    trace = f"00-{TRACE}-{PARENT}-01"
    seen, _ = await exchanged(talk, get("/", f"traceparent: {trace}"))
    assert fields(seen)[b"traceparent"] == [trace.encode()]
    assert talk.edge.counters()["spans_dropped"] == 0


# Settings


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        ENDPOINT | {"OTEL_SDK_DISABLED": "true"},
        ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_off(environment: dict[str, str]) -> None:
    assert configured(environment, pytest.fail) is None


@pytest.mark.parametrize(
    ("more", "sampler"),
    [
        ({}, Sampler()),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, Sampler(1 << 64, False)),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, Sampler(0, False)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, Sampler(1 << 62, False)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, Sampler(1 << 63, True)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}, Sampler()),
    ],
)
def test_samplers(more: dict[str, str], sampler: Sampler) -> None:
    assert configured(ENDPOINT | more, pytest.fail) == TelemetrySettings(sampler)


@pytest.mark.parametrize(
    ("more", "complaint", "on"),
    [
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, "OTEL_TRACES_SAMPLER: jaeger_remote", True),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, "OTEL_TRACES_SAMPLER_ARG: 2", True),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"}, "OTEL_TRACES_SAMPLER_ARG", True),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "OTEL_BSP_MAX_QUEUE_SIZE: 0", True),
        ({"OTEL_BSP_SCHEDULE_DELAY": "soon"}, "OTEL_BSP_SCHEDULE_DELAY: soon", True),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "only http/protobuf is known", False),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "only otlp is known", False),
    ],
)
def test_what_is_not_understood_is_told(more: dict[str, str], complaint: str, on: bool) -> None:
    said: list[str] = []
    found = configured(ENDPOINT | more, said.append)
    assert (found is not None) is on
    assert len(said) == 1
    assert complaint in said[0]


def test_numbers() -> None:
    more = {
        "OTEL_BSP_MAX_QUEUE_SIZE": "100",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "500",
        "OTEL_BSP_SCHEDULE_DELAY": "250",
    }
    expected: Any = TelemetrySettings(queue=100, batch=100, delay=0.25)
    assert configured(ENDPOINT | more, pytest.fail) == expected


def test_the_ratio_is_of_traces_and_all_services_agree_on_which() -> None:
    from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

    theirs, ours = TraceIdRatioBased(0.3), Sampler(round(0.3 * 2**64), False)
    for number in range(1, 500):
        trace = number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128
        decision = theirs.should_sample(None, trace, "").decision
        assert ours.samples(b"00-%032x-%016x-00" % (trace, number), False) == (decision is Decision.RECORD_AND_SAMPLE)


def test_following_the_flag() -> None:
    sampled, unsampled = (f"00-{TRACE}-{PARENT}-{flags}".encode() for flags in ("03", "02"))
    assert Sampler(0).samples(sampled, True)
    assert not Sampler().samples(unsampled, True)
    assert Sampler().samples(unsampled, False)
    assert Sampler(follows=False).samples(unsampled, True)
