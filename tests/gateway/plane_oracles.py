"""What must hold after any conversation on a `Plane`, whoever said what in it.

`check_always` may be asked at any moment at which the loop is at rest, `check_settled` when in addition every peer
takes what comes, `check_ended` after `end`. All compare bytes on the wires, as `strict_reader.py` reads them, with each
other and with what the gateway counted; of the gateway's own state they look at the books alone.
"""

from __future__ import annotations

import re

from memory_plane import CLOCK, ESTABLISHED, Plane, Wire
from strict_reader import Broken, Message, Short, read_interims, read_request, read_requests, read_response

from gateway.balance import free
from gateway.exchange import Exchange
from gateway.service import Service
from gateway.states import BODY, COMPLETE, TUNNEL

_IDEMPOTENT = {b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"}
# Never forwarded as they came (RFC 9110 7.6.1); what the gateway says itself under these names is judged apart.
_HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"transfer-encoding",
    b"upgrade",
    b"http2-settings",
    b"proxy-authorization",
    b"proxy-authenticate",
}
_OURS_TO_ORIGIN = {
    b"host",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-real-ip",
    b"forwarded",
    b"x-request-id",
    b"traceparent",
    b"tracestate",
    b"content-length",
    b"expect",
    b"max-forwards",
}
_ADDED_TO_ORIGIN = {
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"via",
    b"x-request-id",
    b"traceparent",
}
_ADDED_TO_CLIENT = {b"date", b"via", b"x-request-id", b"server-timing", b"proxy-status"}
_OURS_TO_CLIENT = {b"x-request-id", b"content-length", b"date"}
# What `Connection` can't take away.
KEPT = {
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"date",
    b"via",
    b"x-request-id",
    b"traceparent",
    b"forwarded",
}
_NO_TRAILERS = _HOP_BY_HOP | {
    b"content-length",
    b"host",
    b"authorization",
    b"set-cookie",
    b"x-forwarded-for",
    b"trailer",
}
_NEVER = 10_000.0
_HELD = (100, 102)  # what a held client is told
_COMMENT = b": waiting\n\n"
_ERROR_EVENT = re.compile(rb'(?:retry: [0-9]+\n)?event: error\ndata: \{[^\n]*"status":([0-9]{3})[^\n]*\}\n\n')


class Wrong(AssertionError):
    """An oracle's verdict."""


class Attempt:
    """A request as an origin saw it, and the origin's response to it."""

    __slots__ = (
        "ended",
        "idle_state",
        "interims",
        "raw_in",
        "raw_out",
        "reached",
        "request",
        "response",
        "sequence",
        "trouble",
        "unsaid",
        "wire",
    )

    def __init__(self, wire: Wire, request: Message | None) -> None:
        self.wire = wire
        self.request = request
        self.response: Message | None = None
        self.interims: list[int] = []
        self.trouble = ""  # why the response can't be read
        self.reached = False  # a byte of it has left
        self.unsaid = False  # the origin has not begun its final response
        self.sequence = 0  # when the head was sent
        self.idle_state = ESTABLISHED  # of the connection then
        self.raw_in = b""  # bytes behind the request, if it was upgraded
        self.raw_out = b""
        self.ended = ""


def _fail(what: str, *about: object) -> None:
    raise Wrong(f"{what}: " + ", ".join(str(one)[:600] for one in about))


def check_always(plane: Plane) -> None:
    """The books, at any moment."""
    office = plane.office
    going = [wire.protocol._exchange for wire in plane.clients if not wire.lost]
    in_flight = sum(exchange is not None and exchange.in_flight for exchange in going)
    in_flight += sum(wire.protocol._owed is not None for wire in plane.upstreams)  # the replica may be at work on them
    if office.holding.bytes < 0 or office.connections.pool.size < 0:
        _fail("below zero", office.holding.bytes, office.connections.pool)
    for service in office.books:
        in_flight -= service.in_flight
        total = service.in_flight
        for replica in service.replicas.values():
            total -= replica.in_flight
            if replica.in_flight < 0 or replica.pacing.unsettled < 0:
                _fail("below zero", replica, replica.pacing)
            if len(replica.idle) > plane.settings.upstream_idle_limit:
                _fail("too many idle connections", replica)
        if total or service.in_flight < 0:
            _fail("in flight otherwise than at its replicas", service, list(service.replicas.values()))
        if len(service.room) > service.room.limit:
            _fail("room too full", service)
    if in_flight:
        _fail("in flight otherwise than exchanges are under way", in_flight, going)


def check_concurrency(service: Service, limit: int) -> None:
    """No replica has more than `limit` requests in flight, if there was never another limit."""
    for replica in service.replicas.values():
        if replica.in_flight > limit:
            _fail("more at once than concurrency allows", replica)


def settle(plane: Plane) -> None:
    """Everybody takes what comes, nothing waits on the wires."""
    plane.lazy = False
    for wire in (*plane.clients, *plane.upstreams):
        wire.take(-1)
    plane.run()


def check_settled(plane: Plane) -> None:
    """After `settle`: nobody waits for somebody who waits for nothing."""
    for wire in plane.clients:
        if not wire.open:
            continue
        down = wire.protocol
        exchange: Exchange | None = down._exchange
        if wire.buffered:
            _fail("bytes stay with the gateway", wire)
        if exchange is None:
            if wire.incoming:
                _fail("an idle client connection is not read", wire)
            if b"\r\n\r\n" in down._buffer and not down._closing:
                _fail("a request that nobody takes", wire, down._buffer)
        elif wire.incoming and (exchange.state & ~7) in (BODY, TUNNEL):
            _fail("a client is not read although its replica takes everything", wire, len(wire.incoming))
        elif wire.incoming and down not in plane.office.clients.paused:
            _fail("a client is not read, and nobody looks whether it has left", wire)
    for wire in plane.upstreams:
        if wire.open and (wire.buffered or wire.incoming):
            _fail("an upstream connection is not read", wire)
    for service in plane.office.books:
        _check_waiting(service)


def _check_waiting(service: Service) -> None:
    """Who could go does not wait."""
    if free(service.ready, CLOCK.now, len(service.room)):
        _fail("held beside a replica that has room", service)
    for replica in service.replicas.values():
        waiting = [exchange for exchange in replica.queue if not exchange.over]
        if waiting and replica.pacing.may_connect():
            _fail("waits for a connection that nobody makes", waiting, replica.pacing)


def end(plane: Plane, leave: bool) -> None:
    """Bring the conversation to its end: clients leave, or everything runs out of time. Replicas stay as they are."""
    settle(plane)
    plane.reachable = True
    for _ in range(len(plane.pending)):
        plane.accept()
        plane.run()
    if leave:
        for wire in plane.clients:
            wire.reset()
        plane.run()
    for _ in range(2000):  # one after the other, pipelined requests may each wait for long
        plane.wait(2.5)
        plane.run()
        if not len(plane.office.clients) and not any(wire.open for wire in plane.upstreams) and not plane.pending:
            break
    plane.wait(1.0)
    plane.run()


def check_ended(plane: Plane) -> None:
    """After `end`."""
    _check_books(plane)
    entries: dict[Wire, list[tuple[int, Exchange]]] = {wire: [] for wire in plane.clients}
    by_protocol = {wire.protocol: wire for wire in plane.clients}
    for sequence, exchange in plane.log.ended:
        entries[by_protocol[exchange.down]].append((sequence, exchange))
    attempts: dict[bytes, list[Attempt]] = {}
    for wire in plane.upstreams:
        for attempt in _attempts(wire):
            if attempt.request is not None:
                identity = attempt.request.all(b"x-request-id")
                if len(identity) != 1:
                    _fail("a request without its one id", attempt.request, attempt.request.fields)
                attempts.setdefault(identity[0], []).append(attempt)
    for tries in attempts.values():
        tries.sort(key=lambda attempt: attempt.sequence)
    known: set[bytes] = set()
    refused = {refusal.request_id: refusal for refusal in plane.log.refusals}
    for wire, exchanges in entries.items():
        known.update(exchange.request.request_id for _, exchange in exchanges)
        _check_client(plane, wire, exchanges, attempts, refused)
    for identity in attempts:
        if identity not in known:
            _fail("a request at an origin that nobody counted", identity)


def _check_books(plane: Plane) -> None:
    check_always(plane)
    office = plane.office
    for service in office.books:
        if service.in_flight or len(service.room):
            _fail("in flight or held at the end", service)
        for replica in service.replicas.values():
            if replica.in_flight or replica.queue or replica.idle or replica.pacing.unsettled:
                _fail("a replica's books at the end", replica, replica.pacing, len(replica.queue))
    if office.holding.bytes or office.holding.services:
        _fail("held at the end", office.holding.bytes, office.holding.services)
    if office.connections.pool.size:
        _fail("a connection is kept at the end", office.connections.pool)
    if len(office.clients) or office.clients.paused:
        _fail("clients at the end", office.clients.all(), office.clients.paused)
    for wire in (*plane.clients, *plane.upstreams):
        if wire.open:
            _fail("a connection outlives every deadline", wire)
    for timed in (bucket for bucket in office.sweep._buckets.values() if bucket):
        _fail("a deadline of something that is gone", list(timed))
    _check_counters(plane)


def _check_counters(plane: Plane) -> None:
    """Every request was counted and logged once."""
    books = {id(service): service for service in plane.office.books}
    books |= {id(one.service): one.service for _, one in plane.log.ended if one.service is not None}  # deleted ones
    counted = sum(sum(service.requests.values()) for service in books.values())
    if counted != len(plane.log.ended) + len(plane.log.refusals):
        _fail("counted otherwise than logged", counted, len(plane.log.ended), len(plane.log.refusals))
    ids = [exchange.request.request_id for _, exchange in plane.log.ended]
    if len(set(ids)) != len(ids):
        _fail("an exchange ended twice", ids)


# What origins saw


def _attempts(wire: Wire) -> list[Attempt]:
    """The requests and responses on one upstream connection, each in its place."""
    found: list[Attempt] = []
    data = bytes(wire.stream)
    sent = bytes(wire.sent)
    starts = {offset: (delivered, sequence, state) for offset, delivered, sequence, state in wire.writes}
    at = 0
    begin = -1  # where the response to the last request begins in `sent`
    while at < len(data):
        if at not in starts:
            _fail("a request that begins inside a write", data[at : at + 200])
        delivered, sequence, state = starts[at]
        if found and not _may_follow(found[-1], begin, delivered):
            _fail(
                "a second request before the first response has ended where it should",
                data[at:][:200],
                sent[begin:][:300],
            )
        if not found and delivered:
            _fail("a request on a connection on which the replica has spoken first", sent[:200])
        try:
            request = read_request(data, at)
        except Short:
            raise Wrong(f"half a request head was written: {data[at:]!r}") from None
        except Broken as broken:
            raise Wrong(f"an origin got what is no request: {broken}, {data[at : at + 400]!r}") from None
        attempt = Attempt(wire, request)
        attempt.reached = at < len(wire.received)
        attempt.sequence, attempt.idle_state = sequence, state if found else ESTABLISHED
        attempt.ended = "fin" if wire.fin_delivered else "reset" if wire.reset_delivered else ""
        begin = delivered
        found.append(attempt)
        _read_response(attempt, sent[: wire.delivered], begin)
        if request.body.broken:
            _fail("an origin got a broken body", data[at:])
        response = attempt.response
        if response is not None and response.code == 101:
            attempt.raw_in = data[request.head_end :]
            attempt.raw_out = sent[response.head_end : wire.delivered]
            break
        if not request.body.complete:
            break
        at = request.body.end
    return found


def _read_response(attempt: Attempt, sent: bytes, begin: int) -> None:
    request = attempt.request
    assert request is not None
    attempt.interims, attempt.unsaid = read_interims(sent, begin)
    try:
        attempt.response = read_response(sent, begin, request.method, attempt.ended)
    except Short:
        attempt.trouble = "short"
    except Broken as broken:
        attempt.trouble = str(broken)


def _may_follow(before: Attempt, begin: int, delivered: int) -> bool:
    """Whether the connection may carry another request: the last response is whole, and not a byte is behind it."""
    request, response = before.request, before.response
    return (
        request is not None
        and request.body.complete
        and response is not None
        and response.body.complete
        and response.length != -2
        and response.body.end == delivered
        and b"close" not in response.listed(b"connection")
    )


# What clients saw


def _check_client(
    plane: Plane,
    wire: Wire,
    exchanges: list[tuple[int, Exchange]],
    attempts: dict[bytes, list[Attempt]],
    refused: dict[bytes, object],
) -> None:
    asked, _, _ = read_requests(bytes(wire.sent[: wire.delivered]))
    received = bytes(wire.received)
    at = 0
    # What these would have got, they may not get. Who speaks on after the end is answered with a reset.
    gone = wire.reset_sent or wire.fin_sent or wire.stalled or wire.delivered < len(wire.sent)
    silent = False  # a response was cut: nothing may follow
    last = False
    before = 0
    for index, (sequence, exchange) in enumerate(exchanges):
        if index >= len(asked):
            _fail("a request that nobody sent", exchange, bytes(wire.sent)[-300:])
        request = asked[index]
        tries = attempts.get(exchange.request.request_id, [])
        _check_tries(plane, exchange, request, tries, before)
        before = sequence
        if at < len(received) and (silent or last):
            _fail("bytes behind the last response", received[at:][:300])
        at, response = _next_response(wire, received, at, request, exchange, gone)
        if response is None:
            silent = True
            continue
        last = b"close" in response.listed(b"connection")
        _check_response(wire, exchange, request, response, tries, gone)
        if response.code == 101:
            _check_tunnel(wire, request, response, tries[-1], received)
            return
        silent = not response.body.complete
        at = response.body.end
    if at < len(received):
        _check_refusal(received, at, wire, refused, gone)


def _next_response(
    wire: Wire, received: bytes, at: int, request: Message, exchange: Exchange, gone: bool
) -> tuple[int, Message | None]:
    try:
        return at, read_response(received, at, request.method, wire.ended)
    except Short:
        if not gone and (exchange.state & 7) == COMPLETE:
            _fail("no response for a client that stayed", exchange, received[at:], wire.ended)
        while (stop := received.find(b"\r\n\r\n", at)) >= 0:  # interim ones
            at = stop + 4
        if at < len(received) and not gone and not wire.ended:
            _fail("half a head", received[at:])
        return len(received), None
    except Broken as broken:
        raise Wrong(f"a client got what is no response: {broken}, {received[at : at + 400]!r}") from None


def _check_refusal(received: bytes, at: int, wire: Wire, refused: dict[bytes, object], gone: bool) -> None:
    """What could not be read as a request gets one answer, and it is the last."""
    try:
        response = read_response(received, at, b"GET", wire.ended)
    except (Short, Broken) as why:
        if gone and isinstance(why, Short):
            return
        raise Wrong(f"a client got what is no response: {why!r}, {received[at : at + 400]!r}") from None
    identity = response.all(b"x-request-id")
    if len(identity) != 1 or identity[0] not in refused or not (gone or response.body.complete):
        _fail("an answer to nothing", received[at:][:400])
    if response.body.end != len(received) or response.code < 400 or b"close" not in response.listed(b"connection"):
        _fail("a refusal is not the end", received[at:][:400])


def _check_tries(plane: Plane, exchange: Exchange, request: Message, tries: list[Attempt], before: int) -> None:
    if len(tries) > plane.settings.attempts + 1:  # a kept connection that has just closed costs none
        _fail("sent too often", exchange, len(tries))
    if sum(attempt.reached for attempt in tries) > 1 and request.method not in _IDEMPOTENT:
        _fail("a request that is not idempotent was sent again", exchange)
    for attempt in tries:
        assert attempt.request is not None
        if attempt.sequence < before:
            _fail("sent before the exchange before it was over", exchange)
        if attempt.idle_state != ESTABLISHED and request.method not in _IDEMPOTENT:
            _fail("sent over a connection that the kernel knows to be closed", exchange)
        if attempt is not tries[-1] and attempt.response is not None:
            _fail("sent again after a response", exchange, attempt.response)
        _check_request(request, attempt.request, attempt)
        service, replica = exchange.service, attempt.wire.replica
        if service is None or replica is None or service.id != "s-" + replica.id.rpartition("-")[0]:
            _fail("another service's replica", exchange, attempt.wire)


def _nominated(message: Message) -> set[bytes]:
    """Fields that `Connection` names and that it can take away."""
    return {
        name
        for name in message.listed(b"connection")
        if name not in KEPT and not name.startswith(b"x-forwarded-") and name not in (b"close", b"keep-alive")
    }


def _check_request(asked: Message, got: Message, attempt: Attempt) -> None:
    """`got` at an origin is what the client `asked`."""
    if got.method != asked.method or got.target != origin_form(asked):
        _fail("another request line", asked, got)
    hosts = asked.all(b"host")
    authority = re.match(rb"(?i)https?://([^/?]*)", asked.target)
    host = authority[1] if authority else hosts[0] if hosts else b""
    if got.all(b"host") != [host]:
        _fail("another Host", asked, got.fields)
    nominated = _nominated(asked)
    names = [name.lower() for name, _ in got.fields]
    _check_hop_by_hop(got, asked, nominated)
    for name in _ADDED_TO_ORIGIN - {b"via", b"traceparent"}:
        if names.count(name) != 1:
            _fail(f"not one {name.decode()}", got.fields)
    kept = [
        (name, value)
        for name, value in asked.fields
        if name.lower() not in _HOP_BY_HOP | _OURS_TO_ORIGIN | nominated
        and b"_" not in name
        and not name.lower().startswith(b"x-forwarded-")
    ]
    passed = [
        (name, value)
        for name, value in got.fields
        if name.lower() not in _HOP_BY_HOP | _OURS_TO_ORIGIN and b"_" not in name
    ]
    if [one for one in passed if one != (b"Via", b"1.1 wakegate") and one != (b"Via", b"1.0 wakegate")] != [
        one for one in kept if one != (b"Via", b"1.1 wakegate") and one != (b"Via", b"1.0 wakegate")
    ]:
        _fail("fields changed on their way to the origin", asked.fields, got.fields)
    response = attempt.response
    if response is not None and response.code == 101:
        return
    if got.length != asked.length and not (asked.length == 0 and not asked.all(b"content-length")):
        _fail("another framing", asked, got)
    if not asked.body.content.startswith(got.body.content):
        _fail("another body", asked.body.content[:200], got.body.content[:200])
    if got.body.complete and (not asked.body.complete or got.body.content != asked.body.content):
        _fail("a body that is whole at the origin only", asked.body.content[:200], got.body.content[:200])
    _check_trailers(asked, got)


def _check_hop_by_hop(got: Message, asked: Message, nominated: set[bytes]) -> None:
    for name, value in got.fields:
        lower = name.lower()
        if lower in _HOP_BY_HOP and (lower, value.lower()) not in (
            (b"connection", b"upgrade"),
            (b"connection", b"te"),
            (b"te", b"trailers"),
            (b"transfer-encoding", b"chunked"),
            (b"upgrade", b"websocket"),
        ):
            _fail("a hop-by-hop field went to an origin", name, value)
        if lower in nominated - {b"te", b"upgrade"} and lower not in _ADDED_TO_ORIGIN:
            _fail("a field that Connection names went to an origin", name, value, asked.fields)
        if lower.startswith(b"x-forwarded-") and lower not in _ADDED_TO_ORIGIN:
            _fail("a client told the origin whom it is forwarded for", name, value)
        if b"_" in lower and lower.replace(b"_", b"-") in _HOP_BY_HOP | _OURS_TO_ORIGIN:
            _fail("a look-alike went to an origin", name)


def _check_trailers(sent: Message, got: Message) -> None:
    names = {name.lower() for name, _ in got.body.trailers}
    if names & _NO_TRAILERS:
        _fail("a trailer that must not be one", got.body.trailers)
    if any(field not in sent.body.trailers for field in got.body.trailers):
        _fail("a trailer that nobody sent", got.body.trailers, sent.body.trailers)


def origin_form(asked: Message) -> bytes:
    found = re.fullmatch(rb"(?i)https?://[^/?]*(.*)", asked.target)
    if found is None:
        return asked.target
    path = found[1]
    if not path:
        return b"*" if asked.method == b"OPTIONS" else b"/"
    return b"/" + path if path.startswith(b"?") else path


def _check_response(
    wire: Wire, exchange: Exchange, request: Message, response: Message, tries: list[Attempt], gone: bool
) -> None:
    identity = response.all(b"x-request-id")
    if identity != [exchange.request.request_id]:
        _fail("a response with another id", exchange, response.fields)
    if exchange.promised:
        _check_promised(exchange, request, response, tries, gone)
        return
    if response.code != exchange.status and not (exchange.status == 499 and not response.body.complete):
        _fail("another status than counted", exchange, response)
    old = request.minor == 0
    if old and (response.interims or response.length == -1 or response.code == 101):
        _fail("an HTTP/1.0 client got what it can't read", response, response.fields)
    for name, value in response.fields:
        lower = name.lower()
        if lower in _HOP_BY_HOP and (lower, value.lower()) not in (
            (b"connection", b"close"),
            (b"connection", b"keep-alive"),
            (b"connection", b"upgrade"),
            (b"transfer-encoding", b"chunked"),
            (b"upgrade", b"websocket"),
        ):
            _fail("a hop-by-hop field went to a client", name, value)
    _check_interims(exchange, response, tries)
    origin = tries[-1].response if tries else None
    ours = exchange.error is not None and (exchange.state & 7) == COMPLETE
    if ours or not tries:
        if not response.body.complete and not gone:
            _fail("an answer of our own that is not whole", response)
        if ours and not any(value.startswith(b"wakegate; error=") for value in response.all(b"proxy-status")):
            _fail("an answer of our own without Proxy-Status", response.fields)
        if response.code == 502 and tries and (_plain(tries[-1]) or _patient(tries[-1])):
            _fail("a good response was refused", exchange, response.body.content, tries[-1].response)
    elif origin is None:
        _fail("a response that no origin sent", exchange, response, tries[-1].trouble)
    else:
        _check_relayed(wire, exchange, response, origin, tries[-1], gone)


def _check_interims(exchange: Exchange, response: Message, tries: list[Attempt]) -> None:
    """Those of origins, in their order; in between those that say that it is held, where its service has that said."""
    told = [one.code for one in response.interims]
    interims = [code for attempt in tries for code in attempt.interims]
    if exchange.service is not None and exchange.service.keepalive:
        told = [code for code in told if code not in _HELD]
        interims = [code for code in interims if code not in _HELD]
    if told != interims[: len(told)]:
        _fail("interim responses that no origin sent", response.interims, interims)


def _check_promised(exchange: Exchange, request: Message, response: Message, tries: list[Attempt], gone: bool) -> None:
    """A stream of events that began while the request was held: comments, and then an origin's, or one error."""
    if response.code != 200 or response.all(b"content-type") != [b"text/event-stream"]:
        _fail("no stream of events", response, response.fields)
    if response.length != (-1 if request.minor else -2) or request.method == b"HEAD":
        _fail("a stream for who can't read it", request, response, response.fields)
    content = response.body.content
    while content.startswith(_COMMENT):
        content = content[len(_COMMENT) :]
    error = _ERROR_EVENT.fullmatch(content)
    origin = tries[-1].response if tries else None
    if error is not None and int(error[1]) == exchange.status:
        if not response.body.complete and not gone:
            _fail("an error event is not the end", response)
        return
    if origin is None or origin.code != 200 or (b"text/event-stream" not in origin.all(b"content-type")):
        if content and not _COMMENT.startswith(content) and not gone:
            _fail("events that no origin sent", content, origin)
        if response.body.complete and exchange.status != 499:
            _fail("a stream ended without a word", exchange, response)
        return
    if not origin.body.content.startswith(content):
        _fail("other events", content[:300], origin.body.content[:300])
    whole = origin.body.complete and content == origin.body.content
    if response.body.complete and not whole and (request.minor or not gone):
        _fail("a stream that is whole for the client only", response, origin)
    _check_trailers(origin, response)


def _plain(attempt: Attempt) -> bool:
    """A response that no reader could call malformed."""
    response = attempt.response
    return (
        response is not None
        and _readable(response)
        and response.body.complete
        and response.code != 101
        and len(response.interims) <= 50
        and all(interim.plain and interim.fields in ([], [(b"Link", b"</s>")]) for interim in response.interims)
    )


def _patient(attempt: Attempt) -> bool:
    """It has not begun its response, nor gone away."""
    return attempt.unsaid and not attempt.ended and len(attempt.interims) <= 50


def _readable(head: Message) -> bool:
    return head.plain and head.head_end - head.start < 3000 and len(head.fields) < 100


def _check_relayed(wire: Wire, exchange: Exchange, got: Message, origin: Message, attempt: Attempt, gone: bool) -> None:
    if got.line[0] != origin.line[0] or got.line[1] != origin.line[1]:
        _fail("another status line", got, origin)
    _check_response_fields(got, origin)
    if origin.code == 101:
        return
    if not origin.body.content.startswith(got.body.content):
        _fail("another response body", got.body.content[:300], origin.body.content[:300])
    if got.body.complete and not (origin.body.complete and got.body.content == origin.body.content):
        _fail("a response that is whole for the client only", got, origin, attempt.ended)
    _check_trailers(origin, got)
    if not gone and origin.body.complete and not got.body.complete and exchange.error is None:
        _fail("a whole response was cut", exchange, got, origin)


def _check_response_fields(got: Message, origin: Message) -> None:
    nominated = _nominated(origin)
    aside = _HOP_BY_HOP | _OURS_TO_CLIENT
    kept = [
        (name, value) for name, value in origin.fields if name.lower() not in aside | nominated and b"_" not in name
    ]
    passed = [(name, value) for name, value in got.fields if name.lower() not in aside and b"_" not in name]
    rest = list(passed)
    for one in kept:
        if one not in rest:
            _fail("a field was lost on its way to the client", one, got.fields)
        rest.remove(one)
    for name, _ in rest:
        if name.lower() not in _ADDED_TO_CLIENT:
            _fail("a field that no origin sent, or that Connection names", name, got.fields, origin.fields)
    for name in (b"content-length", b"date"):
        if len(got.all(name)) > max(1, len(origin.all(name))):
            _fail("doubled", name, got.fields)
    told = [int(value) for value in origin.all(b"content-length")] if origin.code not in (101, 204) else []
    if [int(value) for value in got.all(b"content-length")] != told:
        _fail("another Content-Length", got.fields, origin.fields)


def _check_tunnel(wire: Wire, request: Message, response: Message, attempt: Attempt, received: bytes) -> None:
    inward = bytes(wire.sent[request.head_end : wire.delivered])
    outward = received[response.head_end :]
    if not inward.startswith(attempt.raw_in):
        _fail("other bytes in the tunnel", inward[:200], attempt.raw_in[:200])
    if not attempt.raw_out.startswith(outward):
        _fail("other bytes out of the tunnel", attempt.raw_out[:200], outward[:200])


def describe(plane: Plane) -> str:
    """The conversation, for people."""
    lines = [f"clock {CLOCK.now:.2f}"]
    for kind, wires in (("client", plane.clients), ("upstream", plane.upstreams)):
        for number, wire in enumerate(wires):
            lines.append(f"{kind} {number}: sent {shown(wire.sent)} (delivered {wire.delivered})")
            lines.append(f"{kind} {number}: received {shown(wire.received)} ended={wire.ended!r}")
    lines += [f"ended: {exchange!r}" for _, exchange in plane.log.ended[-12:]]
    return "\n".join(lines)


def shown(data: bytes | bytearray) -> str:
    """Bytes for people: long runs of one byte are told by their number."""
    return repr(re.sub(rb"(.)\1{39,}", lambda run: b"<%d of %b>" % (len(run[0]), run[1]), bytes(data)))
