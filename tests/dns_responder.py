"""A DNS server to be scripted: what it says of a name, and how it fails at it, on loopback by UDP and TCP.

`Responder` runs in the loop of a test; `DnsProcess` runs one as a process of its own (`python -m tests.dns_responder`,
told what to do by lines of JSON), for tests that run the real command. Both have the methods of `Script`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

ANY = "*"


@dataclasses.dataclass
class Fault:
    """How a name's queries of a type fail: every `every`th of them, for the next `times` (None: for ever).

    `kind`: servfail, refused, formerr, drop (no response), truncate (by UDP), malformed (bytes that are no message),
    garbage (a message that is cut), other_id, other_question, delay (of `seconds`), cut (TCP ends within the response).
    """

    kind: str
    every: int = 1
    times: int | None = None
    seconds: float = 0.0
    seen: int = 0

    def due(self) -> bool:
        self.seen += 1
        return self.seen % self.every == 0 and (self.times is None or self.seen <= self.times * self.every)


class Script:
    """What it says. Names in any case, with or without the root's dot; records as in a zone file.

    `chases`: a response goes on behind aliases, as a recursive resolver's does. A name that has nothing, and nothing
    below it, is NXDOMAIN. `*.<parent>` stands for what is not there (RFC 4592).
    """

    def __init__(self, *, chases: bool = True) -> None:
        self.chases = chases
        self.queries: Counter[tuple[str, str]] = Counter()
        self._records: dict[str, dict[str, tuple[int, list[str]]]] = {}
        self._faults: dict[tuple[str, str], Fault] = {}

    def put(self, name: str, kind: str, *values: str, ttl: int = 60) -> None:
        """In place of what is there of this type. TXT values are plain text of any length."""
        if kind == "TXT":
            values = tuple(_quoted(value) for value in values)
        self._records.setdefault(_plain(name), {})[kind] = (ttl, list(values))

    def drop(self, name: str, kind: str = ANY) -> None:
        """Nothing is there any more."""
        found = self._records.get(_plain(name), {})
        for one in list(found) if kind == ANY else [kind]:
            found.pop(one, None)
        if not found:
            self._records.pop(_plain(name), None)

    def fail(self, name: str, kind: str, of: str = ANY, **how: Any) -> None:
        """`kind` and `how` as `Fault` says; `of`: the type of records. `name` "*": whatever is asked for."""
        self._faults[_plain(name), of] = Fault(kind, **how)

    def heal(self, name: str = ANY, of: str = ANY) -> None:
        """Takes a fault back; of "*" every one."""
        if name == ANY:
            self._faults.clear()
        self._faults.pop((_plain(name), of), None)

    def asked(self, name: str, kind: str = ANY) -> int:
        """How many queries there were."""
        return sum(n for (at, of), n in self.queries.items() if at == _plain(name) and kind in (ANY, of))

    def forget(self) -> None:
        """Counts begin anew."""
        self.queries.clear()


class Answering(Script):
    """From the bytes of a query to those of a response."""

    def fault(self, name: str, kind: str) -> Fault | None:
        for key in ((name, kind), (name, ANY), (ANY, kind), (ANY, ANY)):
            if (found := self._faults.get(key)) is not None:
                return found if found.due() else None
        return None

    def response(self, query: dns.message.Message) -> dns.message.Message:
        made = dns.message.make_response(query, recursion_available=True)
        name, kind = _question(query)
        for _ in range(20):
            found = self._at(name)
            if found is None:
                made.set_rcode(dns.rcode.NXDOMAIN)
                return made
            if kind != "CNAME" and "CNAME" in found:
                made.answer.append(_rrset(name, "CNAME", found["CNAME"]))
                name = _plain(found["CNAME"][1][0])
                if self.chases:
                    continue
            elif kind in found:
                made.answer.append(_rrset(name, kind, found[kind]))
            return made
        made.answer.clear()
        made.set_rcode(dns.rcode.SERVFAIL)  # a loop
        return made

    def _at(self, name: str) -> dict[str, tuple[int, list[str]]] | None:
        if name in self._records:
            return self._records[name]
        if any(known.endswith("." + name) for known in self._records):
            return {}
        parts = name.split(".")
        for depth in range(1, len(parts)):
            closest = ".".join(parts[depth:])
            if (wild := self._records.get(f"*.{closest}")) is not None:
                return wild
            if closest in self._records:
                return None
        return None


class Responder(Answering):
    """`async with Responder() as dns:` listens on `dns.address`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, chases: bool = True) -> None:
        super().__init__(chases=chases)
        self.address = (host, port)
        self._ends: list[Callable[[], Any]] = []
        self._delayed: set[asyncio.TimerHandle] = set()
        self._streams: dict[asyncio.StreamWriter, asyncio.Future[None]] = {}

    async def __aenter__(self) -> Responder:
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._tcp, *self.address, reuse_address=True)
        self.address = server.sockets[0].getsockname()[:2]
        datagrams = socket.socket(socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(self.address)
        datagrams.setblocking(False)
        transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), sock=datagrams)
        self._ends = [transport.close, server.close]
        return self

    async def __aexit__(self, *_: object) -> None:
        for handle in self._delayed:
            handle.cancel()
        for end in self._ends:
            end()
        streams = dict(self._streams)
        for writer in streams:
            writer.transport.abort()
        await asyncio.gather(*streams.values())

    def answer(self, wire: bytes, send: Callable[[bytes], None], *, stream: bool) -> None:
        """At once or later, or never; an empty response means: hang up."""
        query = dns.message.from_wire(wire)
        name, kind = _question(query)
        self.queries[name, kind] += 1
        fault = self.fault(name, kind)
        made = _failed(fault, query, self.response(query), stream=stream)
        if made is None:
            return
        if fault is None or not fault.seconds:
            send(made)
        else:
            self._delayed.add(asyncio.get_running_loop().call_later(fault.seconds, send, made))

    async def _tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def send(made: bytes) -> None:
            writer.write(len(made).to_bytes(2, "big") + made)

        ended = self._streams[writer] = asyncio.get_running_loop().create_future()
        with contextlib.suppress(EOFError, OSError):
            while True:
                length = int.from_bytes(await reader.readexactly(2), "big")
                query = await reader.readexactly(length)
                fault = self._faults.get((_question(dns.message.from_wire(query))[0], ANY))
                if fault is not None and fault.kind == "cut":
                    writer.write(b"\x01\x00" + query)
                    break
                self.answer(query, send, stream=True)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        del self._streams[writer]
        ended.set_result(None)


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._responder.answer(data, functools.partial(self._send, addr), stream=False)

    def _send(self, address: Any, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.sendto(data, address)


def _failed(
    fault: Fault | None, query: dns.message.Message, good: dns.message.Message, *, stream: bool
) -> bytes | None:
    """The response as the fault makes it; None: there is none."""
    kind = fault.kind if fault is not None else ""
    codes = {"servfail": dns.rcode.SERVFAIL, "refused": dns.rcode.REFUSED, "formerr": dns.rcode.FORMERR}
    if kind == "drop":
        return None
    if kind == "malformed":
        return query.to_wire()[:2] + bytes(range(128, 160))
    if kind in codes:
        good = dns.message.make_response(query)
        good.set_rcode(codes[kind])
    if kind in ("truncate", "cut") and not stream:
        good = dns.message.make_response(query)
        good.flags |= dns.flags.TC
    if kind == "other_id":
        good.id = (good.id + 1) % 65536
    if kind == "other_question":
        good.question[0].name = dns.name.from_text("other.example.")
    wire = good.to_wire(max_size=65535) if stream else _fitting(good, query)
    return wire[: len(wire) - 3] if kind == "garbage" else wire


def _fitting(good: dns.message.Message, query: dns.message.Message) -> bytes:
    """As much as goes into a datagram; what doesn't is to be asked for by TCP."""
    wire = good.to_wire(max_size=65535)
    if len(wire) <= (query.payload if query.edns >= 0 else 512):
        return wire
    short = dns.message.make_response(query)
    short.flags |= dns.flags.TC
    return short.to_wire()


def _question(query: dns.message.Message) -> tuple[str, str]:
    asked = query.question[0]
    return _plain(asked.name.to_text()), dns.rdatatype.to_text(asked.rdtype)


def _quoted(text: str) -> str:
    """As in a zone file (RFC 1035 5.1), in strings of 255 octets."""
    octets = text.encode()
    parts = [octets[i : i + 255] for i in range(0, len(octets) or 1, 255)]
    return " ".join('"' + "".join(f"\\{octet:03}" for octet in part) + '"' for part in parts)


def _plain(name: str) -> str:
    return name.lower().rstrip(".")


def _rrset(name: str, kind: str, found: tuple[int, list[str]]) -> dns.rrset.RRset:
    ttl, values = found
    absolute = [f"{value.rstrip('.')}." if kind == "CNAME" else value for value in values]
    return dns.rrset.from_text(f"{name}.", ttl, "IN", kind, *absolute)


class DnsProcess:
    """A responder as a process, with the methods of `Script`; `prefix` e.g. `("ip", "netns", "exec", "ns1")`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, prefix: Sequence[str] = ()) -> None:
        command = [*prefix, sys.executable, "-m", "tests.dns_responder", "--host", host, "--port", str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address: tuple[str, int] = tuple(self._answer())

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method not in ("put", "drop", "fail", "heal", "asked", "forget"):
            raise AttributeError(method)
        return functools.partial(self._call, method)

    def _call(self, method: str, *args: Any, **how: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([method, args, how]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the DNS responder ended"
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def __enter__(self) -> DnsProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _serve(host: str, port: int) -> None:
    """Until the end of the standard input."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with Responder(host, port) as responder:
        print(json.dumps(responder.address), flush=True)
        while line := await reader.readline():
            method, args, how = json.loads(line)
            print(json.dumps(getattr(responder, method)(*args, **how)), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    asyncio.run(_serve(given.host, given.port))
