"""The client: one for a directory and an account's key. Each call is one request, or one for each alternate chain.

It may be used by several tasks at once. Whatever the server does, a call raises AcmeError and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import aiohttp
from cryptography.hazmat.primitives.asymmetric import ec

from certs.acme import account as accounts
from certs.acme import authorization as authorizations
from certs.acme import challenge as challenges
from certs.acme import directory as directories
from certs.acme import jws
from certs.acme import order as orders
from certs.acme import renewal_info as renewals
from certs.acme.account import Account
from certs.acme.authorization import Authorization
from certs.acme.chain import joined, split
from certs.acme.challenge import Challenge
from certs.acme.directory import Directory
from certs.acme.errors import AcmeError
from certs.acme.jws import Mac, base64url, base64url_decoded
from certs.acme.order import Order
from certs.acme.renewal_info import RenewalInfo
from certs.acme.transport import TIMEOUT, Answer, Transport
from state.ids import now_us

_DIRECTORY_LASTS: Final = 24 * 3600 * 1_000_000  # µs
_PEM: Final = "application/pem-certificate-chain"


class AcmeClient:
    """`key`: of the account, on P-256 (else ValueError). `account_url`: None until `register`.

    `now`: wall clock, microseconds since the epoch. `timeout`: seconds, of one request.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        directory_url: str,
        key: ec.EllipticCurvePrivateKey,
        account_url: str | None = None,
        *,
        now: Callable[[], int] = now_us,
        timeout: float = TIMEOUT,
    ) -> None:
        self._jwk = jws.jwk(key.public_key())
        self._key = key
        self._url = directory_url
        self._now = now
        self._transport = Transport(session, now, timeout, secure=not directory_url.startswith("http:"))
        self._directory: tuple[Directory, int] | None = None  # and when it was read
        self._reading = asyncio.Lock()
        self.account_url = account_url

    async def directory(self) -> Directory:
        """Asked for once a day (RFC 8555 7.1.1)."""
        async with self._reading:
            if self._directory is None or not 0 <= self._now() - self._directory[1] < _DIRECTORY_LASTS:
                answer = await self._transport.get(self._url)
                self._directory = directories.directory(answer.fields("the directory")), self._now()
            return self._directory[0]

    async def register(self, contact: str | None, eab: tuple[str, str] | None, mac: Mac = "HS256") -> Account:
        """The account of this key (RFC 8555 7.3), made if there is none; it agrees to the terms of service.

        `contact`: an address of e-mail; that of an account that exists is left as it is. `eab`: key identifier and
        key (base64url) of an external account (7.3.4). From then on its URL signs.
        """
        url = (await self.directory()).new_account
        asked = accounts.request(contact, None if eab is None else self._binding(eab, mac, url))
        answer = await self._post(url, asked, {"jwk": self._jwk})
        found = accounts.account(answer.created("the account"), answer.fields("the account"))
        self.account_url = found.url
        return found

    async def new_order(
        self, names: Sequence[str], *, replaces: str | None = None, profile: str | None = None
    ) -> Order:
        """RFC 8555 7.4. `replaces`: identifier of a certificate (RFC 9773 5), left out if the server does not offer
        renewal information. If the answer is lost, there may be an order that nobody knows of.
        """
        directory = await self.directory()
        replaced = replaces if directory.renewal_info is not None else None
        answer = await self._post(directory.new_order, orders.request(names, replaced, profile))
        found = orders.order(answer.created("the order"), answer.fields("the order"), answer.retry_after)
        return orders.of_these(found, names)

    async def order(self, url: str) -> Order:
        answer = await self._post(url, None)
        return orders.order(url, answer.fields("the order"), answer.retry_after)

    async def authorization(self, url: str) -> Authorization:
        answer = await self._post(url, None)
        return authorizations.authorization(url, answer.fields("the authorization"), answer.retry_after)

    async def respond(self, challenge_url: str) -> Challenge:
        """The server may look now (RFC 8555 7.5.1)."""
        answer = await self._post(challenge_url, {})
        return challenges.challenge(answer.fields("the challenge"), answer.retry_after)

    async def finalize(self, order: Order, csr_der: bytes) -> Order:
        """RFC 8555 7.4. `csr_der`: of `certs.acme.csr`."""
        answer = await self._post(order.finalize, {"csr": base64url(csr_der)})
        return orders.order(order.url, answer.fields("the order"), answer.retry_after)

    async def certificate(self, url: str) -> list[str]:
        """Chains (PEM, leaf first): the server's default, then its alternates (RFC 8555 7.4.2).

        They are well formed; `certs.acme.chain.check` says whether they are what was asked for. An alternate that can't
        be had is left out.
        """
        answer = await self._post(url, None, accept=_PEM)
        chains = [joined(split(answer.body))]
        for alternate in answer.alternates():
            with contextlib.suppress(AcmeError):
                chains.append(joined(split((await self._post(alternate, None, accept=_PEM)).body)))
        return chains

    async def renewal_info(self, certificate_id: str) -> RenewalInfo:
        """RFC 9773 4."""
        base = (await self.directory()).renewal_info
        if base is None:
            raise AcmeError("the server offers no renewal information")
        answer = await self._transport.get(renewals.url(base, certificate_id))
        return renewals.renewal_info(answer.fields("the renewal information"), answer.retry_after)

    async def revoke(self, certificate_der: bytes, reason: int | None = None) -> None:
        """RFC 8555 7.6, in the name of the account. `reason`: of RFC 5280 5.3.1."""
        url = (await self.directory()).revoke_certificate
        if url is None:
            raise AcmeError("the server revokes nothing")
        asked: dict[str, Any] = {"certificate": base64url(certificate_der)}
        await self._post(url, asked if reason is None else asked | {"reason": reason})

    async def deactivate_authorization(self, url: str) -> None:
        """RFC 8555 7.5.2."""
        await self._post(url, {"status": "deactivated"})

    def _binding(self, eab: tuple[str, str], mac: Mac, url: str) -> dict[str, str]:
        key_id, secret = eab
        try:
            return jws.external_binding(self._key.public_key(), key_id, base64url_decoded(secret), url, mac)
        except ValueError as error:
            raise AcmeError("the key of the external account is not base64url") from error

    async def _post(
        self,
        url: str,
        payload: Mapping[str, Any] | None,
        signer: Mapping[str, Any] | None = None,
        accept: str | None = None,
    ) -> Answer:
        """`payload` None: POST-as-GET. `signer`: who signs; the account if it is not said."""
        by = signer or self._by_account()
        new_nonce = (await self.directory()).new_nonce
        return await self._transport.post(
            url, lambda nonce: jws.sign(self._key, {**by, "nonce": nonce, "url": url}, payload), new_nonce, accept
        )

    def _by_account(self) -> dict[str, str]:
        if self.account_url is None:
            raise AcmeError("there is no account yet")
        return {"kid": self.account_url}
