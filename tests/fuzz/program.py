"""The language in which the fuzzer talks to a `Plane`: bytes <-> who does what next.

A program is records between 0xFF bytes. A record's first byte says what is done (any byte means something), the rest is
what is said. In it the bytes 0x80-0xFE stand for pieces of HTTP (`PIECES`), so that one changed byte is another field
or line end instead of noise. `encode` makes programs from text that people write, `decode` shows them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from memory_plane import Plane, Wire
from plane_oracles import (
    KEPT,
    check_always,
    check_concurrency,
    check_ended,
    check_settled,
    end,
    origin_form,
    settle,
    shown,
)

from state.models import Endpoint, Phase, Route

MARK = b"\xff"

PIECES: list[bytes] = [
    b"\r\n",
    b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: app.test\r\n",
    b"POST /p HTTP/1.1\r\nHost: app.test\r\n",
    b"HEAD /h HTTP/1.1\r\nHost: app.test\r\n",
    b"PUT /u HTTP/1.1\r\nHost: app.test\r\n",
    b"GET /o HTTP/1.0\r\nHost: app.test\r\n",
    b"GET / HTTP/1.1\r\nHost: two.test\r\n",
    b"POST /t HTTP/1.1\r\nHost: two.test\r\n",
    b"GET / HTTP/1.1\r\nHost: asleep.test\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: app.test\r\n",
    b"TRACE /r HTTP/1.1\r\nHost: app.test\r\n",
    b"GET http://app.test/abs HTTP/1.1\r\nHost: other.test\r\n",
    b"Content-Length: ",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 10\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: ",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: ",
    b"Connection: x-a, x-b\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Upgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"X-A: 1\r\n",
    b"X-B: 2\r\n",
    b"X-C: 3\r\n",
    b"Keep-Alive: timeout=5\r\n",
    b"Connection: TE\r\nTE: trailers\r\n",
    b"Trailer: X-T\r\n",
    b"Max-Forwards: 0\r\n",
    b"Max-Forwards: 3\r\n",
    b"X-Forwarded-For: 1.2.3.4\r\n",
    b"X_Forwarded_For: 1.2.3.4\r\n",
    b"Proxy-Connection: keep-alive\r\n",
    b"Host: ",
    b"Host: two.test\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 204 No Content\r\n",
    b"HTTP/1.1 304 Not Modified\r\n",
    b"HTTP/1.1 404 Not Found\r\n",
    b"HTTP/1.1 500 No\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </s>\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n",
    b"hello",
    b"worldworld",
    b"5\r\nhello\r\n",
    b"a\r\nworldworld\r\n",
    b"5;x=y\r\nhello\r\n",
    b"0\r\n\r\n",
    b"0\r\nX-T: 1\r\n\r\n",
    b"0\r\nContent-Length: 3\r\n\r\n",
    b"5\nhello\r\n",
    b"0\n\r\n",
    b"5\r\nhello",
    b"5\r\n",
    b"0\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b"chunked",
    b"gzip",
    b", ",
    b"HTTP/1.1",
    b"\x80\xfe",
    b"\x00",
    b"A" * 600,
    b"B" * 3000,
    b"C" * 40_000,
    b"Content-Length: 600\r\n",
    b"Content-Length: 3000\r\n",
    b"Content-Length: 40000\r\n",
    b"258\r\n",
    b"bb8\r\n",
    b"9c40\r\n",
    b"HTTP/1.1 103 Early Hints\r\n\r\n" * 49,
    b"Set-Cookie: a=b\r\n",
    b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n",
    b"Via: 1.1 x\r\n",
    b"0\r\nX-T: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"DELETE /d HTTP/1.1\r\nHost: app.test\r\n",
    b"GET /1 HTTP/1.1\r\nHost: app.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: app.test\r\n\r\n",
    b"POST /i HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\n",
    b"POST /j HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
]
_EXPAND = {bytes([0x80 + at]): piece for at, piece in enumerate(PIECES)}
_HIGH = re.compile(rb"[\x80-\xfe]")
_LONGEST = 300_000  # bytes that one record may say
_RECORDS = 64

# What a record does, by its letter; other bytes mean one of these, too.
ACTIONS: dict[str, str] = {
    "c": "the client says",
    "C": "the client says, in pieces of as many bytes as the first byte tells",
    "n": "a new client says",
    "k": "the next client",
    "h": "the client half-closes",
    "x": "the client resets",
    "s": "the client takes only so many bytes more",
    "t": "the client takes everything again",
    "r": "the replica says",
    "R": "the replica says, in pieces of as many bytes as the first byte tells",
    "o": "the next upstream connection",
    "f": "the replica half-closes",
    "z": "the replica resets",
    "p": "the replica takes only so many bytes more",
    "q": "the replica takes everything again",
    "w": "time passes",
    "u": "the replicas of a service change",
    "v": "connects wait from now on, or no longer",
    "a": "a connect succeeds",
    "A": "a connect fails",
    "l": "callbacks wait from now on, or no longer",
    "i": "callbacks run",
    "g": "the worker drains",
    "e": "clients leave at the end",
}
_LETTERS = "".join(ACTIONS).encode()
_BY_BYTE = bytes(byte if byte in _LETTERS else _LETTERS[byte % len(_LETTERS)] for byte in range(256))
_PASSES = (0.1, 0.3, 1.0, 2.0, 4.5, 7.0, 12.0)

A1, A2 = Endpoint("app.test-1", "127.0.0.2", 1001, True), Endpoint("app.test-2", "127.0.0.2", 1002, True)
T1 = Endpoint("two.test-1", "127.0.0.3", 1003, True)
S1 = Endpoint("asleep.test-1", "127.0.0.4", 1004, True)
TWO_LIMIT = 1  # concurrency of two.test


def expand(said: bytes) -> bytes:
    """`said` with its pieces written out."""
    return _HIGH.sub(_piece, said)[:_LONGEST] if not said.isascii() else said


def _piece(found: re.Match[bytes]) -> bytes:
    return _EXPAND.get(found[0], b"")


def stage() -> Plane:
    """A plane with a service of two replicas (app.test), one of one that takes one at a time, and one that sleeps."""
    plane = Plane()
    plane.serve("app.test", A1, A2)
    plane.serve("two.test", T1, concurrency=TWO_LIMIT)
    plane.serve("asleep.test")
    plane.routes["gone.test"] = Route("s-gone", "acme", "gone", deleted_at=1)
    return plane


class Player:
    """Plays a program on a plane."""

    __slots__ = ("_client", "_up", "leave", "plane")

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self._client = -1
        self._up = -1  # -1: the newest
        self.leave = False

    @property
    def client(self) -> Wire:
        clients = self.plane.clients
        if not clients:
            clients_before = self.plane.client()
            self._client = 0
            return clients_before
        return clients[self._client % len(clients)]

    @property
    def up(self) -> Wire | None:
        """The upstream connection that is spoken of."""
        upstreams = self.plane.upstreams
        if not upstreams:
            return None
        return upstreams[self._up % len(upstreams)]

    def do(self, letter: int, said: bytes) -> None:
        _DO[letter](self, expand(said))
        plane = self.plane
        if not plane.lazy:
            plane.run()
            check_always(plane)
            two = plane.office._table.services.get("s-two.test")
            if two is not None:
                check_concurrency(two, TWO_LIMIT)

    def client_says(self, said: bytes) -> None:
        self.client.send(said)

    def client_splits(self, said: bytes) -> None:
        self._split(self.client, said)

    def _split(self, wire: Wire, said: bytes) -> None:
        if not said:
            return
        size = said[0] % 16 + 1
        if len(said) > 2000:
            size *= 500
        for at in range(1, len(said), size):
            wire.send(said[at : at + size])
            if not self.plane.lazy:
                self.plane.run()

    def new_client(self, said: bytes) -> None:
        if len(self.plane.clients) < 8:
            self.plane.client()
            self._client = len(self.plane.clients) - 1
            self.client.send(said)

    def next_client(self, said: bytes) -> None:
        self._client += 1

    def client_ends(self, said: bytes) -> None:
        self.client.half_close()

    def client_resets(self, said: bytes) -> None:
        self.client.reset()

    def client_stops(self, said: bytes) -> None:
        self.client.take(said[0] if said else 0)

    def client_takes(self, said: bytes) -> None:
        self.client.take(-1)

    def replica_says(self, said: bytes) -> None:
        if self.up is not None:
            self.up.send(said)

    def replica_splits(self, said: bytes) -> None:
        if self.up is not None:
            self._split(self.up, said)

    def next_up(self, said: bytes) -> None:
        self._up = said[0] % 8 if said else self._up - 1

    def replica_ends(self, said: bytes) -> None:
        if self.up is not None:
            self.up.half_close()

    def replica_resets(self, said: bytes) -> None:
        if self.up is not None:
            self.up.reset()

    def replica_stops(self, said: bytes) -> None:
        if self.up is not None:
            self.up.take(said[0] if said else 0)

    def replica_takes(self, said: bytes) -> None:
        if self.up is not None:
            self.up.take(-1)

    def wait(self, said: bytes) -> None:
        self.plane.wait(_PASSES[said[0] % len(_PASSES)] if said else 0.3)

    def update(self, said: bytes) -> None:
        what = said[0] % 10 if said else 0
        plane = self.plane
        if what < 4:
            plane.serve("app.test", *((A1, A2), (A1,), (), (A2,))[what])
        elif what == 4:
            plane.serve("asleep.test", S1)
        elif what == 5:
            plane.serve("asleep.test", phase=Phase.REFUSING)
        elif what == 6:
            plane.serve("asleep.test")
        elif what == 7:
            plane.serve("two.test", concurrency=TWO_LIMIT)
        elif what == 8:
            plane.serve("two.test", T1, concurrency=TWO_LIMIT)
        else:
            plane.backends.pop("s-asleep.test", None)
            plane.edge.forget("s-asleep.test")

    def hold_connects(self, said: bytes) -> None:
        plane = self.plane
        plane.reachable = not plane.reachable
        if plane.reachable:
            plane.soon.extend([plane.accept] * len(plane.pending))

    def connect(self, said: bytes) -> None:
        self.plane.accept()

    def fail_connect(self, said: bytes) -> None:
        self.plane.refuse(504 if said else 502)

    def dawdle(self, said: bytes) -> None:
        self.plane.lazy = not self.plane.lazy

    def turn(self, said: bytes) -> None:
        self.plane.run()

    def drain(self, said: bytes) -> None:
        self.plane.drain()

    def leave_at_end(self, said: bytes) -> None:
        self.leave = True


_METHODS: dict[str, Callable[[Player, bytes], None]] = {
    "c": Player.client_says,
    "C": Player.client_splits,
    "n": Player.new_client,
    "k": Player.next_client,
    "h": Player.client_ends,
    "x": Player.client_resets,
    "s": Player.client_stops,
    "t": Player.client_takes,
    "r": Player.replica_says,
    "R": Player.replica_splits,
    "o": Player.next_up,
    "f": Player.replica_ends,
    "z": Player.replica_resets,
    "p": Player.replica_stops,
    "q": Player.replica_takes,
    "w": Player.wait,
    "u": Player.update,
    "v": Player.hold_connects,
    "a": Player.connect,
    "A": Player.fail_connect,
    "l": Player.dawdle,
    "i": Player.turn,
    "g": Player.drain,
    "e": Player.leave_at_end,
}
_DO = {ord(letter): _METHODS[letter] for letter in ACTIONS}


def play(program: bytes) -> Plane:
    """Run it and ask every oracle. Raises whatever is wrong."""
    plane = stage()
    perform(plane, program)
    return plane


def perform(plane: Plane, program: bytes) -> None:
    player = Player(plane)
    for record in program.split(MARK, _RECORDS)[:_RECORDS]:
        if record:
            player.do(_BY_BYTE[record[0]], record[1:])
    settle(plane)
    check_settled(plane)
    end(plane, player.leave)
    check_ended(plane)


def encode(*records: str) -> bytes:
    """A program from records as people write them: `"c GET / HTTP/1.1\\r\\n…"`, a letter, a blank, what is said.

    `{name}` is a piece that begins so; the longest parts that are pieces become one byte anyway.
    """
    return MARK.join(_record(record) for record in records)


_BYTES = {piece: bytes([0x80 + at]) for at, piece in enumerate(PIECES) if len(piece) > 1}
_LONGEST_FIRST = re.compile(b"|".join(map(re.escape, sorted(_BYTES, key=len, reverse=True))))


def _record(record: str) -> bytes:
    said = record[2:].encode("latin-1")
    return record[:1].encode() + _LONGEST_FIRST.sub(lambda found: _BYTES[found[0]], said)


def decode(program: bytes) -> str:
    """A program as text, a record a line."""
    lines = []
    for record in program.split(MARK, _RECORDS)[:_RECORDS]:
        if record:
            letter = _BY_BYTE[record[0]]
            said = expand(record[1:])
            lines.append(f"{ACTIONS[chr(letter)]:44} {shown(said) if record[1:] else ''}".rstrip())
    return "\n".join(lines)


__all__ = ["KEPT", "MARK", "decode", "encode", "origin_form", "perform", "play", "stage"]
