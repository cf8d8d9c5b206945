"""What proves a custom domain to be a namespace's own, and to lead here (SPEC section 4). Pure (law 5).

A chain of aliases that reaches the service's own endpoint proves both: labels are never given to another namespace. The
token in a TXT record proves ownership; together with addresses that are all the platform's it proves both, for names
that can't be aliases. What another namespace holds is moved by the token alone. A query without an answer is no proof
of anything, neither way: `None`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from certs.dns_answer import Answer, Outcome, clipped
from state.certificates import DnsRecord

_LENGTH: Final = 20  # bytes of the MAC that the token shows
_SHOWN: Final = 10  # values of a type
_LONGEST: Final = 500  # characters of what was observed, and of a detail

DNS_TIMEOUT: Final = "dns_timeout"
DNS_ERROR: Final = "dns_error"
HELD_ELSEWHERE: Final = "held_elsewhere"
MOVED_ELSEWHERE: Final = "moved_elsewhere"
REASONS: Final = frozenset(
    {
        *("cname_mismatch", "cname_loop", "cname_too_long", "nxdomain", "no_records", "address_mismatch"),
        *("aaaa_mismatch", "txt_missing", "txt_mismatch", DNS_TIMEOUT, DNS_ERROR, HELD_ELSEWHERE, MOVED_ELSEWHERE),
    }
)


def token(key: bytes, namespace: str, domain: str) -> str:
    """The value of the TXT record: of this namespace and this domain alone, and the same at every look.

    `key`: that of `state.secret_key.DOMAIN_TOKENS`; `domain`: in A-labels, lower case. 32 characters of lower-case
    base32.
    """
    mac = hmac.digest(key, f"{namespace}\0{domain}".encode(), hashlib.sha256)
    return base64.b32encode(mac[:_LENGTH]).decode().lower()


def txt_name(domain: str) -> str:
    """Where the record has to be."""
    return f"_wakegate.{domain}"


@dataclass(frozen=True, slots=True)
class Asked:
    """What would prove it. Names in lower case. `platform`: the domain that endpoints are below.

    `holder_token`: of the namespace that holds the domain, if that is another one.
    """

    domain: str
    endpoint: str
    platform: str
    token: str
    holder_token: str | None = None

    def ours(self, name: str) -> bool:
        """Whether it is a name of this platform."""
        return name == self.platform or name.endswith("." + self.platform)


@dataclass(frozen=True, slots=True)
class Seen:
    """What DNS said; None was not asked. `aliases`: of the domain, FOUND once they reached the endpoint."""

    aliases: Answer
    txt: Answer | None = None
    a: Answer | None = None
    aaaa: Answer | None = None
    endpoint_a: Answer | None = None
    endpoint_aaaa: Answer | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`moves`: it may be taken from the namespace that holds it. `ttl`: seconds that what was seen holds."""

    owned: bool | None
    pointing: bool | None
    moves: bool
    reason: str | None
    detail: str | None
    records: tuple[DnsRecord, ...]
    ttl: int | None = None

    @property
    def answered(self) -> bool:
        """Whether it says anything certain of both."""
        return self.owned is not None and self.pointing is not None


@dataclass(frozen=True, slots=True)
class _Finding:
    """Of one way to prove it."""

    true: bool | None
    reason: str = ""
    detail: str = ""


_PROVED: Final = _Finding(True)


def has_token(answer: Answer | None, wanted: str) -> bool:
    """Some providers keep the quotes that were typed around a value, or write it in capitals."""
    values = () if answer is None else answer.values
    return any(hmac.compare_digest(v.strip(' "').lower().encode(), wanted.encode()) for v in values)


def judge(asked: Asked, seen: Seen) -> Verdict:
    """What the observation proves, with the reason of what it does not."""
    alias, txt = _alias(asked, seen.aliases), _txt(asked, seen.txt)
    leading = _leading(asked, seen, alias)
    owned = True if alias.true or txt.true else _both_false(alias.true, txt.true)
    moves = txt.true is True and not (asked.holder_token and has_token(seen.txt, asked.holder_token))
    wrong = leading
    if leading.true or (leading.true is None and owned is False):
        wrong = _PROVED if owned else txt
    if asked.holder_token is not None and not moves:
        wrong = _held_elsewhere(asked, txt)
    return Verdict(
        owned=owned,
        pointing=leading.true,
        moves=moves,
        reason=wrong.reason or None,
        detail=clipped(wrong.detail, _LONGEST) or None,
        records=_records(asked, seen, proved=leading.true is True and owned is True),
        ttl=min((a.ttl for a in (seen.aliases, seen.txt, seen.a, seen.aaaa) if a and a.ttl is not None), default=None),
    )


def _both_false(one: bool | None, other: bool | None) -> bool | None:
    return False if one is False and other is False else None


def _silence(answer: Answer, what: str) -> _Finding:
    reason = DNS_TIMEOUT if answer.outcome is Outcome.TIMEOUT else DNS_ERROR
    return _Finding(None, reason, f"The question for {what} had no answer: {answer.detail}. It is asked again.")


def _alias(asked: Asked, answer: Answer) -> _Finding:
    """Whether the chain of aliases reaches the endpoint."""
    name, wanted = asked.domain, f"make it a CNAME of {asked.endpoint}"
    if not answer.answered:
        return _silence(answer, f"the CNAME of {(name, *answer.aliases)[-1]}")
    if answer.outcome is Outcome.FOUND:
        return _PROVED
    if answer.outcome is Outcome.LOOP:
        return _Finding(False, "cname_loop", f"The aliases of {name} lead back to {answer.aliases[-1]}: {wanted}.")
    if answer.outcome is Outcome.TOO_LONG:
        return _Finding(False, "cname_too_long", f"{name} leads on over too many aliases: {wanted}.")
    if answer.aliases:
        return _Finding(False, "cname_mismatch", _elsewhere(asked, answer.aliases, wanted))
    if answer.outcome is Outcome.NXDOMAIN:
        return _Finding(False, "nxdomain", f"There is no {name} in the DNS: {wanted}.")
    return _Finding(False, "no_records", f"{name} has neither a CNAME nor an address: {wanted}.")


def _elsewhere(asked: Asked, aliases: tuple[str, ...], wanted: str) -> str:
    ours = next((alias for alias in aliases if asked.ours(alias)), None)
    if ours is not None:
        return f"{asked.domain} leads to {ours}, which is a name of this platform but not of this service: {wanted}."
    return f"{asked.domain} leads to {aliases[-1]}: {wanted}."


def _txt(asked: Asked, answer: Answer | None) -> _Finding:
    """Whether the token is there."""
    where, wanted = txt_name(asked.domain), f"{asked.token} as a TXT record"
    if answer is None:
        return _Finding(None)
    if not answer.answered:
        return _silence(answer, f"the TXT record of {where}")
    if has_token(answer, asked.token):
        return _PROVED
    if answer.values:
        return _Finding(False, "txt_mismatch", f"{where} has another TXT record: add {wanted}.")
    return _Finding(False, "txt_missing", f"{where} has no TXT record: add {wanted}.")


def _leading(asked: Asked, seen: Seen, alias: _Finding) -> _Finding:
    """Whether DNS leads here: by the aliases, else by addresses as far as they were asked for."""
    answers = (seen.a, seen.aaaa, seen.endpoint_a, seen.endpoint_aaaa)
    if alias.true is not False or not by_addresses(asked, seen.aliases) or None in answers:
        return alias
    for answer, name in zip(answers, (asked.domain, asked.domain, asked.endpoint, asked.endpoint), strict=True):
        if answer is not None and not answer.answered:
            return _silence(answer, f"the addresses of {name}")
    found = _addresses(asked, seen)
    return alias if seen.aliases.aliases and not found.true else found


def by_addresses(asked: Asked, aliases: Answer) -> bool:
    """Whether addresses can show that a name without an alias of the endpoint leads here."""
    return aliases.outcome is Outcome.NODATA and not any(asked.ours(alias) for alias in aliases.aliases)


def _addresses(asked: Asked, seen: Seen) -> _Finding:
    """Whether the domain has addresses, and all of them are the endpoint's."""
    name, ours = asked.domain, {*_values(seen.endpoint_a), *_values(seen.endpoint_aaaa)}
    strays = [value for value in _values(seen.a) if value not in ours]
    strays6 = [value for value in _values(seen.aaaa) if value not in ours]
    if not (_values(seen.a) or _values(seen.aaaa)):
        way = f"make it a CNAME of {asked.endpoint}" + (", or give it the addresses of that" if ours else "")
        return _Finding(False, "no_records", f"{name} has neither a CNAME nor an address: {way}.")
    if not ours:
        what = f"{asked.endpoint} has no addresses in the DNS that those of {name} could be compared with"
        return _Finding(False, "address_mismatch", f"{what}: only a CNAME of {asked.endpoint} proves it here.")
    if strays:
        what = f"{name} has {_shown(strays)}, which is not of {asked.endpoint} ({_shown(sorted(ours))})"
        return _Finding(False, "address_mismatch", f"{what}: take it out.")
    if strays6:
        what = f"{name} has the AAAA record {_shown(strays6)}, which is not of {asked.endpoint}"
        return _Finding(False, "aaaa_mismatch", f"{what}: remove it, or clients with IPv6 go elsewhere.")
    return _PROVED


def _held_elsewhere(asked: Asked, txt: _Finding) -> _Finding:
    where = txt_name(asked.domain)
    if txt.true is None and txt.reason:
        return txt
    if txt.true:
        what = f"{where} has the TXT record of the other namespace, too: remove that one to move the domain here"
    else:
        what = f"Another namespace holds this domain: {asked.token} as a TXT record of {where} moves it here"
    return _Finding(False, HELD_ELSEWHERE, f"{what}.")


def _values(answer: Answer | None) -> tuple[str, ...]:
    return () if answer is None else answer.values


def _shown(values: tuple[str, ...] | list[str]) -> str:
    return clipped(", ".join(values[:_SHOWN]), _LONGEST)


def _records(asked: Asked, seen: Seen, *, proved: bool) -> tuple[DnsRecord, ...]:
    """What should be there beside what is. Of a domain that is proved: what proves it."""
    reached = seen.aliases.outcome is Outcome.FOUND
    rows: list[DnsRecord] = []
    if reached or not proved:
        rows.append(DnsRecord("CNAME", asked.domain, asked.endpoint, _shown(seen.aliases.aliases) or None))
    if not reached:
        rows += _row("A", asked.domain, seen.endpoint_a, seen.a) + _row(
            "AAAA", asked.domain, seen.endpoint_aaaa, seen.aaaa
        )
    if not (reached and proved) or asked.holder_token is not None:
        rows.append(DnsRecord("TXT", txt_name(asked.domain), asked.token, _shown(_values(seen.txt)) or None))
    return tuple(rows)


def _row(kind: str, name: str, wanted: Answer | None, found: Answer | None) -> list[DnsRecord]:
    """None if nothing should be there, and nothing is."""
    if not (_values(wanted) or _values(found)):
        return []
    return [DnsRecord(kind, name, _shown(sorted(_values(wanted))), _shown(sorted(_values(found))) or None)]
