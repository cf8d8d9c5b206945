"""A client's connections and a replica's as hypothesis plays them: any order of pieces, ends, pauses and changes.

The same plane and the same oracles as the fuzzer's (`tests/fuzz`); here the steps are sensible more often, so that long
conversations come about, and hypothesis shrinks what fails.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from memory_plane import Plane, Wire, staged
from plane_oracles import check_always, check_concurrency, check_ended, check_settled, end, settle

from state.models import Endpoint, Phase, Route

HOSTS = st.sampled_from([b"one.test", b"two.test", b"asleep.test", b"gone.test", b"nobody.test"])
ONE = (Endpoint("one.test-1", "127.0.0.2", 1001, True), Endpoint("one.test-2", "127.0.0.2", 1002, True))
LEAVING = Endpoint("one.test-1", "127.0.0.2", 1001, False)
TWO = Endpoint("two.test-1", "127.0.0.3", 1003, True)
ASLEEP = Endpoint("asleep.test-1", "127.0.0.4", 1004, True)
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
    [b"X-R: 1", b"Connection: close", b"Connection: x-r", b"Keep-Alive: timeout=5", b"Set-Cookie: a=b", b"Trailer: X-T"]
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
    framing = draw(st.sampled_from(["length", "chunks", "none"]))
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
WRONG_REQUESTS = messages(START, WRONG_FIELDS)
RESPONSES = messages(st.builds(lambda status: b"HTTP/1.1 " + status, STATUSES), RESPONSE_FIELDS)
INTERIM = st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </s>\r\n\r\n"])
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
WHICH = st.integers(0, 7)


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
        return self.plane.clients[-1 - which % len(self.plane.clients)]

    def up(self, which: int) -> Wire | None:
        ups = [wire for wire in self.plane.upstreams if wire.open]
        return ups[-1 - which % len(ups)] if ups else None

    def _say(self, wire: Wire, data: bytes, share: float) -> None:
        """What was begun goes on; `share` of it all is said now."""
        data = self.rest.pop(wire, b"") + data
        now = max(1, round(len(data) * share))
        if now < len(data):
            self.rest[wire] = data[now:]
        wire.send(data[:now])

    # clients

    @rule()
    @precondition(lambda self: len(self.plane.clients) < 6)
    def another_client(self) -> None:
        with self.step() as plane:
            plane.client()

    @rule(which=WHICH, data=REQUESTS, share=st.sampled_from([1.0, 1.0, 0.5, 0.9]))
    def a_request(self, which: int, data: bytes, share: float) -> None:
        with self.step():
            self._say(self.client(which), data, share)

    @rule(which=WHICH, data=WRONG_REQUESTS)
    def a_wrong_request(self, which: int, data: bytes) -> None:
        with self.step():
            self._say(self.client(which), data, 1.0)

    @rule(which=WHICH, share=st.sampled_from([0.1, 0.5, 1.0]))
    def the_client_goes_on(self, which: int, share: float) -> None:
        with self.step():
            if self.rest.get(self.client(which)):
                self._say(self.client(which), b"", share)

    @rule(which=WHICH)
    def the_client_half_closes(self, which: int) -> None:
        with self.step():
            self.client(which).half_close()

    @rule(which=WHICH)
    def the_client_resets(self, which: int) -> None:
        with self.step():
            self.client(which).reset()

    @rule(which=WHICH, credit=st.sampled_from([-1, -1, 0, 100]))
    def the_client_takes(self, which: int, credit: int) -> None:
        with self.step():
            self.client(which).take(credit)

    # replicas

    @rule(which=WHICH, data=RESPONSES, share=st.sampled_from([1.0, 1.0, 1.0, 0.5, 0.9]))
    def a_response(self, which: int, data: bytes, share: float) -> None:
        with self.step():
            up = self.up(which)
            if up is not None:
                self._say(up, data, share)

    @rule(which=WHICH, data=st.one_of(INTERIM, st.just(SWITCH)))
    def no_final_response(self, which: int, data: bytes) -> None:
        with self.step():
            up = self.up(which)
            if up is not None:
                self._say(up, data, 1.0)

    @rule(which=WHICH, data=st.binary(max_size=40))
    def the_replica_says_anything(self, which: int, data: bytes) -> None:
        with self.step():
            up = self.up(which)
            if up is not None and data:
                self._say(up, data, 1.0)

    @rule(which=WHICH, share=st.sampled_from([0.1, 0.5, 1.0]))
    def the_replica_goes_on(self, which: int, share: float) -> None:
        with self.step():
            up = self.up(which)
            if up is not None and self.rest.get(up):
                self._say(up, b"", share)

    @rule(which=WHICH, how=st.sampled_from(["half-close", "reset"]))
    def the_replica_ends(self, which: int, how: str) -> None:
        with self.step():
            up = self.up(which)
            if up is not None:
                if how == "reset":
                    up.reset()
                else:
                    up.half_close()

    @rule(which=WHICH, credit=st.sampled_from([-1, -1, 0, 100]))
    def the_replica_takes(self, which: int, credit: int) -> None:
        with self.step():
            up = self.up(which)
            if up is not None:
                up.take(credit)

    # the world around

    @rule(seconds=st.sampled_from([0.1, 0.5, 2.0, 7.0]))
    def time_passes(self, seconds: float) -> None:
        with self.step() as plane:
            plane.wait(seconds)

    @rule(which=st.integers(0, 3))
    def the_replicas_change(self, which: int) -> None:
        with self.step() as plane:
            plane.serve("one.test", *((*ONE,), ONE[:1], (LEAVING, ONE[1]), ())[which])

    @rule(which=st.integers(0, 2))
    def the_sleeper_changes(self, which: int) -> None:
        with self.step() as plane:
            if which == 2:
                plane.serve("asleep.test", phase=Phase.REFUSING)
            else:
                plane.serve("asleep.test", *[ASLEEP][:which])

    @rule(reachable=st.booleans())
    def connects_wait(self, reachable: bool) -> None:
        with self.step() as plane:
            plane.reachable = reachable
            if reachable:
                plane.soon.extend([plane.accept] * len(plane.pending))

    @rule(status=st.sampled_from([502, 504]))
    def a_connect_fails(self, status: int) -> None:
        with self.step() as plane:
            plane.refuse(status)

    @rule()
    def the_worker_drains(self) -> None:
        with self.step() as plane:
            plane.drain()

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
TestTalk.settings = settings(
    max_examples=250, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
