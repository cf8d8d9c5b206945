"""Traces of requests for an OpenTelemetry collector: what is sampled, put down and handed on, without OpenTelemetry.

Opt-in (`configured`): off, a request costs one test when it begins and one when it ends. On, the callbacks only decide
whether a request is sampled, and put its numbers down; a thread makes spans of them and sends them (`otlp.py`). Laws
kept here: what waits is bounded, what does not fit or can't be sent is dropped and counted (law 7); whatever becomes of
the collector, the traffic does not notice.
"""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from gateway.messages import Request

if TYPE_CHECKING:
    from gateway.exchange import Exchange

_CLOSING: Final = 2.0  # seconds for the last spans
_SWITCH: Final = 0.0005  # seconds after which the exporting thread gives way to the loop; by default it is 0.005
_SAMPLED: Final = 1
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class Finished(NamedTuple):
    """A sampled request that is over. Bytes as they came; times in seconds of the monotonic clock unless said."""

    trace: bytes  # traceparent as it was sent on: its span is ours
    parent: bytes  # the span above ours, 16 hexadecimal digits; empty: ours is the root
    states: tuple[bytes, ...]  # tracestate fields, as lines
    request_id: bytes
    method: bytes
    target: bytes
    host: bytes
    user_agent: bytes  # the field's line
    old: bool  # HTTP/1.0
    secure: bool
    proto: bytes  # X-Forwarded-Proto of a trusted peer
    client: bytes  # X-Forwarded-For of a trusted peer
    peer: bytes
    service: str
    replica: str
    address: tuple[str, int]  # the replica's
    status: int
    error: tuple[str, str]  # of Proxy-Status: type and details; empty: the answer is the replica's
    retries: int
    began: float
    held_since: float
    hold: float  # seconds; 0: not held
    connect_began: float
    connect: float  # seconds; 0: over a connection that was open
    first_byte: float  # seconds from `began`; 0: none
    ended: float
    ended_at: int  # nanoseconds since 1970


class Exporter(Protocol):
    """Called by the thread alone, `close` by the loop. Neither may be trusted not to raise."""

    def export(self, batch: Sequence[Finished]) -> bool:
        """Send them, or give up: False. May block."""

    def close(self) -> None:
        """An `export` under way is to end soon."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """Which requests are recorded. `bound`: of 2^64, how many of the traces that begin here, or of all.

    `follows`: a trace that came along is recorded exactly if its sampled flag is set.
    """

    bound: int = 1 << 64
    follows: bool = True

    def samples(self, trace: bytes, remote: bool) -> bool:
        """`trace`: a valid traceparent; `remote`: it came along."""
        if remote and self.follows:
            return int(trace[53:55], 16) & _SAMPLED == 1
        return int(trace[19:35], 16) < self.bound  # as OpenTelemetry does, so that all services agree


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    sampler: Sampler = Sampler()
    queue: int = 2048  # requests that wait to be exported
    batch: int = 512  # of them, in one export
    delay: float = 5.0  # seconds that one waits at most


class Telemetry:
    """`begin` and `ended` are for the dispatcher, on the loop. `say` gets lines for the operator, from the thread."""

    def __init__(self, settings: TelemetrySettings, exporter: Exporter, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._exporter = exporter
        self._say = say
        self._queue: deque[Finished] = deque()
        self._dropped = 0  # by the loop: no room
        self._unsent = 0  # by the thread
        self._failing = False
        self._closing = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        sys.setswitchinterval(_SWITCH)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Sampled requests that were not exported, since the start."""
        return self._dropped + self._unsent

    def begin(self, request: Request, remote: bool) -> None:
        """`request.trace` is known; `remote`: it came along. If the request is sampled, what is sent on names our span.

        A trace that came along and is not recorded here goes on as if we were not there.
        """
        trace = request.trace
        if self._settings.sampler.samples(trace, remote):
            request.parent = b""
            if remote:
                request.parent = trace[36:52]
                flags = int(trace[53:], 16) | _SAMPLED
                request.trace = b"%b%016x-%02x" % (trace[:36], random.getrandbits(64) or 1, flags)
        elif not remote:
            request.trace = trace[:53] + b"00"

    def ended(self, exchange: Exchange) -> None:
        """A request that `begin` sampled is over."""
        settings = self._settings
        if len(self._queue) >= settings.queue:
            self._dropped += 1
            return
        self._queue.append(_finished(exchange))
        if len(self._queue) >= settings.batch and not self._wake.is_set():
            self._wake.set()

    def close(self) -> None:
        """Export what is left (blocking, at most 2 s) and end."""
        self._closing = True
        self._wake.set()
        self._thread.join(_CLOSING)
        self._exporter.close()

    def _run(self) -> None:
        """The thread."""
        while not self._closing:
            self._wake.wait(self._settings.delay)
            self._wake.clear()
            while self._queue:
                self._export([self._queue.popleft() for _ in range(min(len(self._queue), self._settings.batch))])

    def _export(self, batch: list[Finished]) -> None:
        try:
            sent = self._exporter.export(batch)
        except Exception as error:  # the library's, whatever they are, must not end the export for good
            self._tell(False, f" ({error})")
            sent = False
        if not sent:
            self._unsent += len(batch)
        self._tell(sent)

    def _tell(self, sent: bool, why: str = "") -> None:
        """Once when it begins to fail, once when it works again."""
        if sent == self._failing:
            self._failing = not sent
            self._say("traces are exported again" if sent else f"traces can't be exported, they are dropped{why}")


def _finished(exchange: Exchange) -> Finished:
    request, down, service, replica = exchange.request, exchange.down, exchange.service, exchange.replica
    error = exchange.error
    return Finished(
        request.trace,
        request.parent or b"",
        tuple(line for line in request.lines if line[:11].lower() == b"tracestate:"),
        request.request_id,
        request.method,
        request.target,
        request.host,
        request.user_agent,
        request.old,
        down.secure,
        request.forwarded_proto,
        request.forwarded_for,
        down.peer,
        service.title if service is not None else "",
        replica.id if replica is not None else "",
        (replica.host, replica.port) if replica is not None else ("", 0),
        exchange.status,
        (error.error, error.details) if error is not None else ("", ""),
        exchange.retries,
        exchange.began,
        exchange.held_since,
        exchange.hold,
        exchange.connect_began,
        exchange.connect,
        exchange.first_byte,
        exchange.ended,
        time.time_ns(),
    )


def configured(environment: Mapping[str, str], say: Callable[[str], None]) -> TelemetrySettings | None:
    """What the OTEL_* variables ask for; None: no export. `say` gets a line about each that is not understood."""
    given = {name: value.strip() for name, value in environment.items() if name.startswith("OTEL_") and value.strip()}
    if not any(name in given for name in _ENDPOINTS) or given.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    exporters = [name.strip() for name in given.get("OTEL_TRACES_EXPORTER", "otlp").split(",")]
    if "otlp" not in exporters:
        if exporters != ["none"]:
            say(f"OTEL_TRACES_EXPORTER: {', '.join(exporters)}: only otlp is known; no traces are exported")
        return None
    protocol = next((given[name] for name in _PROTOCOLS if name in given), "http/protobuf")
    if protocol != "http/protobuf":
        say(f"OTEL_EXPORTER_OTLP_PROTOCOL: {protocol}: only http/protobuf is known; no traces are exported")
        return None
    queue = _number(given, "OTEL_BSP_MAX_QUEUE_SIZE", 2048, say)
    batch = _number(given, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512, say)
    delay = _number(given, "OTEL_BSP_SCHEDULE_DELAY", 5000, say)
    return TelemetrySettings(_sampler(given, say), queue, min(batch, queue), delay / 1000)


def _number(given: Mapping[str, str], name: str, default: int, say: Callable[[str], None]) -> int:
    with contextlib.suppress(ValueError):
        if (value := int(given.get(name, default))) > 0:
            return value
    say(f"{name}: {given[name]}: not a positive number; {default} is taken")
    return default


def _sampler(given: Mapping[str, str], say: Callable[[str], None]) -> Sampler:
    """OTEL_TRACES_SAMPLER; its default follows the flag that came along, and else samples everything."""
    name = given.get("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    root = name.removeprefix("parentbased_")
    follows = root != name
    if root == "always_on":
        return Sampler(follows=follows)
    if root == "always_off":
        return Sampler(0, follows)
    if root == "traceidratio":
        return Sampler(round(_ratio(given, say) * 2**64), follows)
    say(f"OTEL_TRACES_SAMPLER: {name}: not known; parentbased_always_on is taken")
    return Sampler()


def _ratio(given: Mapping[str, str], say: Callable[[str], None]) -> float:
    text = given.get("OTEL_TRACES_SAMPLER_ARG", "1")
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    say(f"OTEL_TRACES_SAMPLER_ARG: {text}: not a number from 0 to 1; 1 is taken")
    return 1.0
