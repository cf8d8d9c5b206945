"""A client's connections and a replica's as hypothesis plays them: any order of pieces, ends, pauses and changes.

The same plane and the same oracles as the fuzzer's (`tests/fuzz`); here the steps are sensible more often, so that long
conversations come about, and hypothesis shrinks what fails.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from memory_plane import Plane, Wire, staged
from plane_oracles import check_always, check_concurrency, check_ended, check_settled, end, settle

from state.models import Endpoint, Phase, Route

HOSTS = st.sampled_from(
    [b"one.test", b"one.test", b"two.test", b"two.test", b"asleep.test", b"kept.test", b"kept.test", b"gone.test"]
)
ONE = (Endpoint("one.test-1", "127.0.0.2", 1001, True), Endpoint("one.test-2", "127.0.0.2", 1002, True))
LEAVING = Endpoint("one.test-1", "127.0.0.2", 1001, False)
TWO = Endpoint("two.test-1", "127.0.0.3", 1003, True)
ASLEEP = Endpoint("asleep.test-1", "127.0.0.4", 1004, True)
KEPT = (Endpoint("kept.test-1", "127.0.0.5", 1005, True), Endpoint("kept.test-2", "127.0.0.5", 1006, True))
LIMIT = 1  # concurrency of two.test

METHODS = st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"BREW"])
VERSIONS = st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"])
REQUEST_FIELDS = st.sampled_from(
    [
        b"X-A: 1",
        b"Connection: close",
        b"Connection: keep-alive, x-a",
        b"Connection: upgrade\r\nUpgrade: websocket",
        b"Expect: 100-continue",
        b"Connection: te\r\nTE: trailers",
        b"Cookie: a=b",
        b"Max-Forwards: 1",
        b"Accept: text/event-stream",
    ]
)
WRONG_FIELDS = st.sampled_from(
    [
        b"Content-Length: 1\r\nContent-Length: 2",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: gzip",
        b"Transfer-Encoding : chunked",
        b"Host: other.test",
        b" folded",
        b"X-A: \x01",
        b"X-A: 1\nX-B: 2",
        b"Content-Length: +3",
    ]
)
RESPONSE_FIELDS = st.sampled_from(
    [
        b"X-R: 1",
        b"Connection: close",
        b"Connection: x-r",
        b"Keep-Alive: timeout=5",
        b"Set-Cookie: a=b",
        b"Trailer: X-T",
        b"Content-Type: text/event-stream",
    ]
)
STATUSES = st.sampled_from([b"200 OK", b"204 No Content", b"304 Not Modified", b"404 Not Found", b"500 No"])
CONTENT = st.sampled_from([b"", b"hello", b"x" * 700, b"y" * 5000])


def chunks(content: bytes, trailer: bytes) -> bytes:
    body = b"%x\r\n%b\r\n" % (len(content), content) if content else b""
    return body + b"0\r\n" + trailer + b"\r\n"


@st.composite
def messages(draw: st.DrawFn, start: st.SearchStrategy[bytes], fields: st.SearchStrategy[bytes]) -> bytes:
    """A head and its body, framed by its length, in chunks, or (of a response) by the connection's end."""
    lines = [draw(start), *draw(st.lists(fields, max_size=2, unique=True))]
    content = draw(CONTENT)
    framing = draw(st.sampled_from(["length", "none"] if b"HTTP/1.0" in lines[0] else ["length", "chunks", "none"]))
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(content))
    elif framing == "chunks":
        lines.append(b"Transfer-Encoding: chunked")
        content = chunks(content, draw(st.sampled_from([b"", b"X-T: 1\r\n", b"Content-Length: 9\r\n"])))
    elif lines[0].startswith(b"HTTP"):
        content = draw(CONTENT)
    else:
        content = b""
    return b"\r\n".join([*lines, b"", b""]) + content


START = st.builds(
    lambda method, host, version: b"%b /%b %b\r\nHost: %b" % (method, host[:2], version, host), METHODS, HOSTS, VERSIONS
)
REQUESTS = messages(START, REQUEST_FIELDS)
TOLD_SO = (
    b"GET / HTTP/1.1\r\nHost: kept.test\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: kept.test\r\nAccept: text/event-stream\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: kept.test\r\nAccept: text/event-stream\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: kept.test\r\nAccept: text/event-stream\r\nContent-Length: 5\r\n\r\nhello",
)
SIMPLE_REQUESTS = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\nHost: one.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: two.test\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: one.test\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: one.test\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: one.test\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: two.test\r\nContent-Length: 5\r\n\r\nhello",
        *TOLD_SO,
    ]
)
WRONG_REQUESTS = messages(START, WRONG_FIELDS)
PROMPT = b'{"model":"m","messages":[{"role":"user","content":"hello"},{"role":"assistant","content":"you"}]}'
PROMPT_START = b"POST /v1/chat/completions HTTP/1.1\r\nHost: kept.test\r\nContent-Type: application/json\r\n"
PROMPTS = st.sampled_from(
    [
        PROMPT_START + b"Content-Length: %d\r\n\r\n" % len(PROMPT) + PROMPT,
        PROMPT_START + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(PROMPT, b"X-T: 1\r\n"),
        PROMPT_START + b"Accept: text/event-stream\r\nContent-Length: 5\r\n\r\n{}   ",
    ]
)
RESPONSES = messages(st.builds(lambda status: b"HTTP/1.1 " + status, STATUSES), RESPONSE_FIELDS)
STREAMS = messages(st.just(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream"), RESPONSE_FIELDS)
INTERIM = st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </s>\r\n\r\n"])
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
WHICH = st.integers(0, 7)


SHARES = {"a little": 0.1, "half": 0.5, "all": 1.0}  # of what was begun


def _connects_work(plane: Plane) -> None:
    plane.reachable = True
    plane.soon.extend([plane.accept] * len(plane.pending))


def _connects_wait(plane: Plane) -> None:
    plane.reachable = False


def _serve_kept(plane: Plane, *endpoints: Endpoint, phase: Phase = Phase.SERVING) -> None:
    """One that tells who is held so, and knows prompts again."""
    plane.serve("kept.test", *endpoints, phase=phase, hold_keepalive=True, affinity="prefix")


CHANGES: dict[str, Callable[[Plane], None]] = {
    "one has two replicas": lambda plane: plane.serve("one.test", *ONE),
    "one has one replica": lambda plane: plane.serve("one.test", *ONE[:1]),
    "one has a replica that drains": lambda plane: plane.serve("one.test", LEAVING, ONE[1]),
    "one has no replica": lambda plane: plane.serve("one.test"),
    "the sleeper wakes": lambda plane: plane.serve("asleep.test", ASLEEP),
    "the sleeper sleeps": lambda plane: plane.serve("asleep.test"),
    "the sleeper is refused": lambda plane: plane.serve("asleep.test", phase=Phase.REFUSING),
    "the kept one has two replicas": lambda plane: _serve_kept(plane, *KEPT),
    "the kept one has one replica": lambda plane: _serve_kept(plane, *KEPT[1:]),
    "the kept one sleeps": _serve_kept,
    "the kept one is refused": lambda plane: _serve_kept(plane, phase=Phase.REFUSING),
    "connects wait": _connects_wait,
    "connects work": _connects_work,
    "a connect is refused": lambda plane: plane.refuse(502),
    "a connect takes too long": lambda plane: plane.refuse(504),
}


class Talk(RuleBasedStateMachine):
    """`rest` is what a connection has begun to say and not finished."""

    def __init__(self) -> None:
        super().__init__()
        self._stage = contextlib.ExitStack()
        self._stage.enter_context(staged())
        self.plane = Plane()
        self.rest: dict[Wire, bytes] = {}
        self.whole = True  # nothing went wrong so far

    @initialize()
    def begin(self) -> None:
        self.plane.serve("one.test", *ONE)
        self.plane.serve("two.test", TWO, concurrency=LIMIT)
        self.plane.serve("asleep.test")
        _serve_kept(self.plane)
        self.plane.routes["gone.test"] = Route("s-gone", "acme", "gone", deleted_at=1)
        self.plane.client()

    @contextlib.contextmanager
    def step(self) -> Iterator[Plane]:
        """The loop turns after whatever was done."""
        self.whole = False
        yield self.plane
        self.plane.run()
        self.whole = True

    def client(self, which: int) -> Wire:
        """One that is still there; a new one for who left."""
        there = [wire for wire in self.plane.clients if wire.open and not (wire.fin_sent or wire.reset_sent)]
        if len(there) < 2 and len(self.plane.clients) < 30:
            there.append(self.plane.client())
        there = there or self.plane.clients
        return there[-1 - which % len(there)]

    def up(self, which: int) -> Wire | None:
        """One that is asked for something, else one that is kept."""
        ups = [wire for wire in self.plane.upstreams if wire.open and not (wire.fin_sent or wire.reset_sent)]
        ups = [wire for wire in ups if wire.protocol._exchange is not None] or ups
        return ups[-1 - which % len(ups)] if ups else None

    def _say(self, wire: Wire, data: bytes, share: float) -> None:
        """What was begun goes on; `share` of it all is said now."""
        data = self.rest.pop(wire, b"") + data
        if not data:
            return
        now = max(1, round(len(data) * share))
        if now < len(data):
            self.rest[wire] = data[now:]
        wire.send(data[:now])

    # clients

    @rule(
        which=WHICH,
        data=SIMPLE_REQUESTS,
        hints=st.integers(0, 2),
        response=RESPONSES,
        share=st.sampled_from([1.0, 1.0, 0.01, 0.3, 0.8, 0.97]),
        then=st.sampled_from(["all", "all", "closes", "resets", "the client leaves", "nothing"]),
    )
    def a_request_and_its_response(
        self, which: int, data: bytes, hints: int, response: bytes, share: float, then: str
    ) -> None:
        with self.step() as plane:
            client = self.client(which)
            self._say(client, data, 1.0)
            plane.run()
            up = self.up(0)
            if up is None:
                return
            self._say(up, b"HTTP/1.1 103 Early Hints\r\n\r\n" * (hints * 30), 1.0)
            self._say(up, response, share)
            plane.run()
            if then == "the client leaves":
                client.reset()
            elif then != "nothing":
                self._do(up, then)

    @rule(which=WHICH, data=REQUESTS, share=st.sampled_from([1.0, 1.0, 0.5, 0.9]))
    def a_request(self, which: int, data: bytes, share: float) -> None:
        with self.step():
            self._say(self.client(which), data, share)

    @rule(which=WHICH, data=PROMPTS, share=st.sampled_from([1.0, 0.6, 0.7, 0.9]))
    def a_prompt(self, which: int, data: bytes, share: float) -> None:
        with self.step() as plane:
            _serve_kept(plane, *KEPT)
            self._say(self.client(which), data, share)

    @rule(
        data=st.sampled_from(TOLD_SO),
        response=st.one_of(STREAMS, RESPONSES),
        share=st.sampled_from([1.0, 1.0, 0.3, 0.8, 0.97]),
        then=st.sampled_from(["all", "all", "closes", "resets", "the client leaves", "nothing"]),
    )
    def one_that_was_told_that_it_is_held(self, data: bytes, response: bytes, share: float, then: str) -> None:
        with self.step() as plane:
            _serve_kept(plane)
            client = plane.client()
            self._say(client, data, 1.0)
            plane.run()
            plane.wait(1.5)
            plane.run()
            _serve_kept(plane, *KEPT)
            plane.run()
            up = self.up(0)
            if up is None:
                return
            self._say(up, b"HTTP/1.1 103 Early Hints\r\n\r\n" + response, share)
            plane.run()
            if then == "the client leaves":
                client.reset()
            elif then != "nothing":
                self._do(up, then)

    @rule(which=WHICH, data=WRONG_REQUESTS)
    def a_wrong_request(self, which: int, data: bytes) -> None:
        with self.step():
            self._say(self.client(which), data, 1.0)

    @rule(which=WHICH, what=st.sampled_from(["a little", "half", "all", "closes", "resets", "stops", "reads"]))
    def the_client(self, which: int, what: str) -> None:
        """Goes on with what it began, leaves, or reads more or less."""
        with self.step():
            self._do(self.client(which), what)

    def _do(self, wire: Wire, what: str) -> None:
        if what in SHARES:
            self._say(wire, b"", SHARES[what])
        elif what == "closes":
            wire.half_close()
        elif what == "resets":
            wire.reset()
        else:
            wire.take(100 if what == "stops" else -1)

    # replicas

    @rule(which=WHICH, data=RESPONSES, share=st.sampled_from([1.0, 1.0, 1.0, 0.5, 0.9]))
    def a_response(self, which: int, data: bytes, share: float) -> None:
        with self.step():
            up = self.up(which)
            if up is not None:
                self._say(up, data, share)

    @rule(which=WHICH, data=st.one_of(INTERIM, INTERIM, st.just(SWITCH), st.binary(max_size=40)))
    def no_final_response(self, which: int, data: bytes) -> None:
        with self.step():
            up = self.up(which)
            if up is not None:
                self._say(up, data, 1.0)

    @rule(which=WHICH, what=st.sampled_from(["a little", "half", "all", "closes", "resets", "stops", "reads"]))
    def the_replica(self, which: int, what: str) -> None:
        with self.step():
            up = self.up(which)
            if up is not None:
                self._do(up, what)

    # the world around

    @rule(seconds=st.sampled_from([0.1, 0.1, 0.5, 2.0, 7.0]), drain=st.integers(0, 30))
    def time_passes(self, seconds: float, drain: int) -> None:
        with self.step() as plane:
            plane.wait(seconds)
            if drain == 30:
                plane.drain()

    @rule(what=st.sampled_from([*CHANGES] * 2 + ["one has two replicas", "connects work"] * 8))
    def the_world_changes(self, what: str) -> None:
        with self.step() as plane:
            CHANGES[what](plane)

    # what holds

    @invariant()
    def the_books_are_right(self) -> None:
        check_always(self.plane)
        two = self.plane.office._table.services.get("s-two.test")
        if two is not None:
            check_concurrency(two, LIMIT)

    def teardown(self) -> None:
        try:
            if self.whole:
                settle(self.plane)
                check_settled(self.plane)
                end(self.plane, leave=False)
                check_ended(self.plane)
        finally:
            self._stage.close()


TestTalk = Talk.TestCase
TestTalk.settings = settings(max_examples=200, stateful_step_count=50, suppress_health_check=list(HealthCheck))
