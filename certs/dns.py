"""A stub resolver that tells everything it saw: aliases hop by hop, times to live, and silence apart from answers.

Law 7: so many queries at once, each with its time and its tries. Answers are values; nothing that a server does raises.
What caches is the recursive resolver that is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import dns.exception
import dns.message
import dns.name

from certs.dns_answer import MOST_ALIASES, Answer, Outcome, read
from certs.dns_exchange import BadResponse, NoResponse, Server, exchange
from certs.dns_servers import SystemServers

_AT_ONCE: Final = 64  # queries
_TIMEOUT: Final = 3.0  # seconds for one try
_TRIES: Final = 3
_PAYLOAD: Final = 1232  # bytes of a response by UDP: no fragments on any path (RFC 9715)
_LONG: Final = 600  # bytes: reading a response of so many may take long enough for a thread (75 ms for 4 KiB of spite)


class Resolver:
    """`servers` that are asked in turn, `(ip, port)`; None: those of the system."""

    def __init__(
        self, servers: Sequence[Server] | None = None, *, timeout: float = _TIMEOUT, tries: int = _TRIES
    ) -> None:
        self.queries = 0  # sent, since the start
        self._servers: Callable[[], Sequence[Server]] = SystemServers() if servers is None else lambda: servers
        self._timeout = timeout
        self._tries = tries
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def lookup(self, name: str, kind: str, until: str | None = None) -> Answer:
        """Records of a type (A, AAAA, TXT, CAA) at the end of the name's aliases; or, of CNAME, the aliases alone.

        FOUND as soon as an alias is `until`, with what was seen so far and no records. LOOP and TOO_LONG come with the
        aliases up to there.
        """
        seen: list[str] = []
        ttl: int | None = None
        while True:
            answer = await self.query(seen[-1] if seen else name, kind)
            ttl = min((t for t in (ttl, answer.ttl) if t is not None), default=None)
            for alias in answer.aliases:
                looped = alias == name or alias in seen
                seen.append(alias)
                if looped or len(seen) > MOST_ALIASES:
                    return Answer(Outcome.LOOP if looped else Outcome.TOO_LONG, tuple(seen), ttl=ttl)
                if alias == until:
                    return Answer(Outcome.FOUND, tuple(seen), ttl=ttl)
            if not answer.aliases or answer.outcome is not Outcome.NODATA:
                return replace(answer, aliases=tuple(seen), ttl=ttl)

    async def query(self, name: str, kind: str) -> Answer:
        """What one response says: the aliases that came with it are passed, none is asked for."""
        try:
            question = dns.name.from_text(name)
        except (dns.exception.DNSException, ValueError):
            return Answer(Outcome.NXDOMAIN, detail="no name that the DNS can have")
        async with self._places:
            return await self._ask(question, kind)

    async def _ask(self, name: dns.name.Name, kind: str) -> Answer:
        """In turn until one answers. A server that says that it can't is not asked again, one that is silent is."""
        servers = list(self._servers())
        answer = Answer(Outcome.TIMEOUT)
        edns = True
        for attempt in range(max(self._tries, len(servers))):
            if not servers:
                break
            server = servers[attempt % len(servers)]
            answer = await self._try(server, name, kind, edns=edns)
            if answer.answered:
                break
            if "FORMERR" in answer.detail and edns:
                edns = False  # RFC 6891 7: it may not know of the extension
            elif answer.outcome is not Outcome.TIMEOUT:
                servers.remove(server)
        return answer

    async def _try(self, server: Server, name: dns.name.Name, kind: str, *, edns: bool) -> Answer:
        query = dns.message.make_query(name, kind, use_edns=0 if edns else False, payload=_PAYLOAD if edns else None)
        self.queries += 1
        try:
            wire = await exchange(server, query.to_wire(), self._timeout)
        except NoResponse as error:
            return Answer(Outcome.TIMEOUT, detail=str(error))
        except BadResponse as error:
            return Answer(Outcome.MALFORMED, detail=str(error))
        return await asyncio.to_thread(read, wire, query) if len(wire) > _LONG else read(wire, query)
