"""What a DNS server said, as values: total functions of the bytes that came (law 5).

Nothing that a server sends raises anything, leaves with control characters in it, or is larger than its bound: answers
are read up to `MOST_RECORDS` records, texts are escaped and cut.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype

MOST_ALIASES: Final = 8  # CNAMEs in a chain
MOST_RECORDS: Final = 200  # of a message
LONGEST_TEXT: Final = 255  # characters of a TXT or CAA value, once escaped

_HEADER: Final = struct.Struct("!6H")
_TRUNCATED: Final = 0x0200
_RESPONSE: Final = 0x8000


class Outcome(enum.StrEnum):
    """The first five are answers; the others say nothing of the name that was asked for."""

    FOUND = "found"
    NODATA = "nodata"  # the name is there, records of this type are not
    NXDOMAIN = "nxdomain"
    LOOP = "loop"  # aliases that come back to themselves
    TOO_LONG = "too long"  # more than MOST_ALIASES of them
    FAILED = "failed"  # SERVFAIL, and whatever else is no answer
    REFUSED = "refused"
    TIMEOUT = "timeout"  # no response; nobody there
    MALFORMED = "malformed"

    @property
    def answered(self) -> bool:
        return self not in (Outcome.FAILED, Outcome.REFUSED, Outcome.TIMEOUT, Outcome.MALFORMED)


@dataclass(frozen=True, slots=True)
class Property:
    """A CAA record (RFC 8659 4.1); `tag` in lower case."""

    flags: int
    tag: str
    value: str

    def __str__(self) -> str:
        return f'{self.flags} {self.tag} "{self.value}"'


@dataclass(frozen=True, slots=True)
class Answer:
    """Names in lower case without the root's dot, and with RFC 4343's escapes where they have odd octets.

    `aliases`: the targets of the CNAMEs that were passed, in order; records are those of the last of them.
    `values`: addresses (A, AAAA) or texts (TXT). `properties`: CAA. `ttl`: seconds, the smallest of all that was used.
    """

    outcome: Outcome
    aliases: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    properties: tuple[Property, ...] = ()
    ttl: int | None = None
    detail: str = ""

    @property
    def answered(self) -> bool:
        return self.outcome.answered


@dataclass(frozen=True, slots=True)
class Head:
    """The fixed part of a message (RFC 1035 4.1.1)."""

    id: int
    response: bool
    truncated: bool
    records: int  # of all sections but the question


def head(wire: bytes) -> Head | None:
    """None: too short for one."""
    if len(wire) < _HEADER.size:
        return None
    message_id, flags, _, answers, authorities, additionals = _HEADER.unpack_from(wire)
    return Head(message_id, bool(flags & _RESPONSE), bool(flags & _TRUNCATED), answers + authorities + additionals)


def read(wire: bytes, query: dns.message.Message) -> Answer:
    """What a response says to its query, which has one question."""
    found = head(wire)
    if found is None or found.records > MOST_RECORDS:
        return Answer(Outcome.MALFORMED, detail="the response is cut short or has too many records")
    try:
        return _answer(dns.message.from_wire(wire), query)
    except Exception as error:  # whatever a stranger's bytes do to the parser: it is their fault, and no answer
        return Answer(Outcome.MALFORMED, detail=f"the response can't be read: {type(error).__name__}")


def _answer(message: dns.message.Message, query: dns.message.Message) -> Answer:
    if not query.is_response(message):
        return Answer(Outcome.MALFORMED, detail="the response is to another question")
    code = message.rcode()
    if code not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        outcome = Outcome.REFUSED if code == dns.rcode.REFUSED else Outcome.FAILED
        return Answer(outcome, detail=f"the server says {dns.rcode.to_text(code)}")
    question = query.question[0]
    sets = {(s.name, s.rdtype): s for s in message.answer if s.rdclass == dns.rdataclass.IN}
    chain = list(_chain(question.name, sets))
    end = chain[-1][0] if chain else question.name
    records = sets.get((end, question.rdtype)) if question.rdtype != dns.rdatatype.CNAME else None
    missing = Outcome.NODATA if code == dns.rcode.NOERROR else Outcome.NXDOMAIN
    return Answer(
        outcome=Outcome.FOUND if records else missing,
        aliases=tuple(text_of(target) for target, _ in chain),
        values=tuple(_value(r) for r in records or () if r.rdtype != dns.rdatatype.CAA),
        properties=tuple(_property(r) for r in records or () if r.rdtype == dns.rdatatype.CAA),
        ttl=min([ttl for _, ttl in chain] + ([records.ttl] if records else []), default=None),
    )


def _chain(name: dns.name.Name, sets: Any) -> Iterator[tuple[dns.name.Name, int]]:
    """The aliases within one response, one more than are allowed at most: the caller tells loops."""
    for _ in range(MOST_ALIASES + 1):
        alias = sets.get((name, dns.rdatatype.CNAME))
        if alias is None:
            return
        name = alias[0].target
        yield name, alias.ttl


def _value(record: Any) -> str:
    if record.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
        return str(ipaddress.ip_address(record.address))
    if record.rdtype == dns.rdatatype.TXT:
        return printable(b"".join(record.strings))
    return clipped(record.to_text(), LONGEST_TEXT)


def _property(record: Any) -> Property:
    return Property(record.flags, printable(record.tag).lower(), printable(record.value, 4 * LONGEST_TEXT))


def text_of(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def printable(octets: bytes, longest: int = LONGEST_TEXT) -> str:
    """ASCII without control characters; others as `\\xNN`."""
    text = "".join(chr(o) if 32 <= o < 127 and o != 92 else f"\\x{o:02x}" for o in octets[: longest + 1])
    return clipped(text, longest)


def clipped(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
