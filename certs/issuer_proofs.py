"""How a CA is shown that a name is ours: by what every worker answers (http-01, tls-alpn-01), or by TXT (dns-01).

Law kept here: 3, in spirit: a CA is told to look only after every registered worker has the answer. One that does not
acknowledge in time is not waited for any longer: it may be the one that the CA asks, and then the validation fails and
is made again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from certs.acme.authorization import Authorization
from certs.acme.challenge import DNS_01, HTTP_01, TLS_ALPN_01, Challenge, dns01_value, key_authorization
from certs.dns_hook import HookFailed
from certs.issuer_account import Membership
from certs.setbacks import CHALLENGE_FAILED, HOOK_FAILED, Setback
from certs.wanted import WILDCARD, Wanted
from state.certificates import ChallengeAnswer, Issuance

log = logging.getLogger(__name__)

_FIRST_LOOK: Final = 1.0  # seconds between looks for a TXT record, half as long again each time
_LONGEST: Final = 10.0


class Hook(Protocol):
    """`certs.dns_hook.DnsHook`."""

    async def add(self, name: str, value: str) -> None:
        """Raises HookFailed."""

    async def remove(self, name: str, value: str) -> None:
        """Raises HookFailed."""


Txt = Callable[[str], Awaitable[Sequence[str]]]
"""The TXT records of a name, as far as DNS answers; none if it does not."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What is shown for one authorization."""

    authorization: str  # URL
    name: str
    challenge: Challenge
    answer: ChallengeAnswer

    @property
    def txt(self) -> tuple[str, str]:
        """Name and value of the record that dns-01 wants (RFC 8555 8.4)."""
        return f"_acme-challenge.{self.name}", dns01_value(self.answer.key_authorization)


def kinds(wanted: Wanted, reach: Sequence[str], issuance: Issuance) -> tuple[str, ...]:
    """The types of challenges for the next order, the best first: what went well before, or is next after what did not.

    `reach`: the types that clients from outside can have answered, the best first.
    """
    if wanted.name.startswith(WILDCARD):
        return (DNS_01,)
    known = tuple(reach) or (HTTP_01, TLS_ALPN_01)
    if issuance.challenge not in known:
        return known
    turn = known.index(issuance.challenge) + (issuance.reason == CHALLENGE_FAILED)
    return known[turn % len(known) :] + known[: turn % len(known)]


def proof(authorization: Authorization, wanted: Sequence[str], member: Membership) -> Proof:
    """By the first of the types that are `wanted` and offered. Raises Setback."""
    for kind in wanted:
        if (challenge := authorization.challenge(kind)) is not None:
            answer = ChallengeAnswer(kind, challenge.token, key_authorization(challenge.token, member.key))
            return Proof(authorization.url, authorization.identifier, challenge, answer)
    offered = ", ".join(challenge.type for challenge in authorization.challenges)
    raise Setback(CHALLENGE_FAILED, f"the CA offers {offered or 'no challenge'}, and not {' or '.join(wanted)}")


@dataclass(frozen=True, slots=True)
class TxtRecords:
    """TXT records by the operator's program. `patience`: seconds until one has to be seen."""

    hook: Hook
    look: Txt
    patience: float = 120.0

    async def show(self, records: Sequence[tuple[str, str]]) -> None:
        """Returns once all are seen in the DNS. Raises Setback."""
        for name, value in records:
            try:
                await self.hook.add(name, value)
            except HookFailed as error:
                raise Setback(HOOK_FAILED, str(error)) from error
        for name, value in records:
            await self._seen(name, value)

    async def hide(self, records: Sequence[tuple[str, str]]) -> None:
        """What can't be removed is told, and no more than that."""
        for name, value in records:
            try:
                await self.hook.remove(name, value)
            except HookFailed as error:
                log.warning("a TXT record stays behind: %s", error)

    async def _seen(self, name: str, value: str) -> None:
        pause = _FIRST_LOOK
        try:
            async with asyncio.timeout(self.patience):
                while value not in await self.look(name):
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, _LONGEST)
        except TimeoutError:
            detail = f"the TXT record of {name} was set and not seen within {self.patience:g} s"
            raise Setback(HOOK_FAILED, detail) from None
