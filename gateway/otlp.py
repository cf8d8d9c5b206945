"""Spans of finished requests, sent to a collector by OTLP over HTTP (the extra `otel`; the only user of OpenTelemetry).

Names are those of the semantic conventions for HTTP servers (stable since 1.23), and `wakegate.*` where there are none.
A request is one server span, with a child for the time that it was held and one for connecting to the replica, and an
event for the first byte of the answer. Where to and how is up to the library's own OTEL_EXPORTER_OTLP_* variables.
"""

from __future__ import annotations

import importlib.metadata
import logging
import random
import re
from collections.abc import Iterator, Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from gateway.telemetry import Finished

Value = str | int
_SCHEMA: Final = "https://opentelemetry.io/schemas/1.23.0"
_METHODS: Final = frozenset(b"CONNECT DELETE GET HEAD OPTIONS PATCH POST PUT TRACE".split())
_PORT: Final = re.compile(r":(\d*)$")
_LEFT: Final = 499  # never sent
# Signatures of pre-signed URLs (semantic conventions, url.query): whoever has one may use it.
_SECRETS: Final = re.compile(r"(?<![^&])(AWSAccessKeyId|Signature|sig|X-Goog-Signature)=[^&]*")


class OtlpExporter:
    """`instance`: which worker of which node this is. Raises whatever the library does about its variables."""

    def __init__(self, instance: str) -> None:
        logger = logging.getLogger("opentelemetry")  # it would write to the terminal what `Telemetry` says in one line
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        version = importlib.metadata.version("wakegate")
        self._scope = InstrumentationScope("wakegate", version, _SCHEMA)
        ours = Resource.create({SERVICE_NAME: "wakegate", "service.version": version, "service.instance.id": instance})
        self._resource = ours.merge(OTELResourceDetector().detect())  # what the environment says comes before
        self._sender = OTLPSpanExporter()

    def export(self, batch: Sequence[Finished]) -> bool:
        spans = [span for finished in batch for span in self._spans(finished)]
        return self._sender.export(spans) is SpanExportResult.SUCCESS

    def close(self) -> None:
        self._sender.shutdown()  # type: ignore[no-untyped-call]

    def _spans(self, one: Finished) -> Iterator[ReadableSpan]:
        """The request's span and its children. They are made as what they are when over: no tracer has seen them."""
        trace, span = int(one.trace[3:35], 16), int(one.trace[36:52], 16)
        flags, states = TraceFlags(int(one.trace[53:55], 16)), _states(one.states)
        ours = SpanContext(trace, span, False, flags, states)
        above = SpanContext(trace, int(one.parent, 16), True, flags, states) if one.parent else None
        method = one.method.decode() if one.method in _METHODS else "HTTP"
        begin, end = _clock(one, one.began), one.ended_at
        first = [Event("first_byte", timestamp=_clock(one, one.began + one.first_byte))] if one.first_byte else []
        yield ReadableSpan(
            method,
            ours,
            above,
            self._resource,
            dict(_attributes(one)),
            first,
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR) if _failed(one) else Status(StatusCode.UNSET),
            start_time=begin,
            end_time=end,
            instrumentation_scope=self._scope,
        )
        if one.hold:
            yield self._child("hold", one, ours, one.held_since, one.hold, {})
        if one.connect:
            host, port = one.address
            to: dict[str, Value] = {"network.peer.address": host, "network.peer.port": port}
            yield self._child("connect", one, ours, one.connect_began, one.connect, to)

    def _child(
        self, name: str, one: Finished, parent: SpanContext, began: float, seconds: float, more: dict[str, Value]
    ) -> ReadableSpan:
        own = random.getrandbits(64) or 1
        return ReadableSpan(
            name,
            SpanContext(parent.trace_id, own, False, parent.trace_flags, parent.trace_state),
            parent,
            self._resource,
            more,
            start_time=_clock(one, began),
            end_time=_clock(one, began + seconds),
            instrumentation_scope=self._scope,
        )


def _clock(one: Finished, at: float) -> int:
    """A time of the monotonic clock as nanoseconds since 1970."""
    return one.ended_at - int((one.ended - at) * 1e9)


def _states(lines: tuple[bytes, ...]) -> TraceState | None:
    return TraceState.from_header([line[11:].decode("latin-1") for line in lines]) if lines else None


def _failed(one: Finished) -> bool:
    """Of server spans only what is the server's fault; so is an answer that was cut."""
    return one.status >= 500 or (bool(one.error[0]) and one.status < 400)


def _attributes(one: Finished) -> Iterator[tuple[str, Value]]:
    yield from _request(one)
    if one.status and one.status != _LEFT:
        yield "http.response.status_code", one.status
    if _failed(one):
        yield "error.type", one.error[0] or str(one.status)
    elif one.status == _LEFT:
        yield "error.type", "client_left"
    yield "wakegate.request_id", one.request_id.decode()
    if one.service:
        yield "wakegate.service", one.service
    if one.replica:
        yield "wakegate.replica", one.replica
    if one.retries:
        yield "wakegate.retries", one.retries
    if one.error[0]:
        yield "wakegate.proxy_status", "; ".join(one.error)


def _request(one: Finished) -> Iterator[tuple[str, Value]]:
    if one.method in _METHODS:
        yield "http.request.method", one.method.decode()
    else:
        yield "http.request.method", "_OTHER"
        yield "http.request.method_original", one.method.decode()
    path, query, text = one.target.decode().partition("?")
    yield "url.path", path
    if query:
        yield "url.query", _SECRETS.sub(r"\1=REDACTED", text)
    yield "url.scheme", one.proto.decode("latin-1") or ("https" if one.secure else "http")
    host, _, port = _PORT.sub(r"\n\1", one.host.decode()).partition("\n")
    yield "server.address", host.strip("[]")
    if port:
        yield "server.port", int(port)
    yield "client.address", one.client.decode("latin-1").partition(",")[0].strip() or one.peer.decode()
    yield "network.peer.address", one.peer.decode()
    yield "network.protocol.version", "1.0" if one.old else "1.1"
    agent = one.user_agent.partition(b":")[2].strip(b" \t").decode("latin-1")
    if agent:
        yield "user_agent.original", agent
