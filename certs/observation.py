"""Asks DNS what a judgement of a domain needs (`certs.proof`), and no more: one query for most domains."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from certs.dns_answer import Answer, Outcome
from certs.proof import Asked, Seen, by_addresses, has_token, txt_name

PATIENCE: Final = 20.0  # seconds: servers that are slow on purpose keep others waiting


class Lookups(Protocol):
    """`certs.dns.Resolver`."""

    async def lookup(self, name: str, kind: str, until: str | None = None) -> Answer: ...


async def observe(resolver: Lookups, asked: Asked, patience: float = PATIENCE) -> Seen:
    """Never raises; whatever DNS does is in the answers. `patience`: seconds for all of it, then it is no answer."""
    try:
        async with asyncio.timeout(patience):
            return await _observe(resolver, asked)
    except TimeoutError:
        return Seen(Answer(Outcome.TIMEOUT, detail=f"all of it took longer than {patience:g} s"))


async def _observe(resolver: Lookups, asked: Asked) -> Seen:
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
