"""Asks DNS what a judgement of a domain needs (`certs.proof`), and no more: one query for most domains."""

from __future__ import annotations

import asyncio
from typing import Protocol

from certs.dns_answer import Answer, Outcome
from certs.proof import Asked, Seen, by_addresses, has_token, txt_name


class Lookups(Protocol):
    """`certs.dns.Resolver`."""

    async def lookup(self, name: str, kind: str, until: str | None = None) -> Answer: ...


async def observe(resolver: Lookups, asked: Asked) -> Seen:
    """Never raises; whatever DNS does is in the answers."""
    aliases = await resolver.lookup(asked.domain, "CNAME", until=asked.endpoint)
    if aliases.outcome is Outcome.FOUND and asked.holder_token is None:
        return Seen(aliases)
    txt = await resolver.lookup(txt_name(asked.domain), "TXT")
    plain = not aliases.aliases  # an alias of something else is a mistake, unless its owner has proved himself
    if not by_addresses(asked, aliases) or not (plain or has_token(txt, asked.token)):
        return Seen(aliases, txt)
    found = await asyncio.gather(
        *(resolver.lookup(name, kind) for name in (asked.domain, asked.endpoint) for kind in ("A", "AAAA"))
    )
    return Seen(aliases, txt, *found)
