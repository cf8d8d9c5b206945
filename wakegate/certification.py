"""Domains and certificates of one control, wired: the internal CA, the looks at DNS, the orders at a CA.

Whoever holds the lease does the work; the others stand by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from activator.activation import Activation
from certs.internal import InternalCertificates, Settings
from state.kinds import Kind
from state.leases import Lease
from state.mirror import Mirror
from state.secret_key import CERTIFICATES, derive
from state.secrets import Vault
from state.store import Store
from wakegate.beginning import StartError
from wakegate.config import Config
from wakegate.issuing import Means, acme_session, issuer, platform, resolver_of, verifier

ROOT_FILE: Final = "ca.pem"


class Certification:
    """`run` once the secret key is known to be the store's: nothing is sealed or opened before."""

    def __init__(
        self, config: Config, store: Store, mirror: Mirror, lease: Lease, secret_key: bytes, activation: Activation
    ) -> None:
        """Raises StartError for a bundle of CAs that can't be read."""
        self.internal = InternalCertificates(
            store,
            mirror,
            lease,
            Vault(derive(secret_key, CERTIFICATES)),
            Settings((config.domain, f"*.{config.domain}"), config.data_dir / ROOT_FILE, alone=_alone(config)),
        )
        try:
            self._session = acme_session(config)
        except OSError as error:
            raise StartError(f"--acme-ca-bundle: {config.acme_ca_bundle}: {error}") from error
        acks, journal = activation.acks, activation.journal
        means = Means(store, mirror, lease, secret_key, acks, journal, resolver_of(config), self._session)
        self.verifier = verifier(config, means)
        self.issuer = issuer(config, means)

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.internal.run(), name="internal CA")
            tasks.create_task(self.verifier.run(), name="looks at domains")
            tasks.create_task(self.issuer.run(), name="orders of certificates")

    def hurry(self) -> None:
        """The lease was gained or lost."""
        self.internal.hurry()
        self.verifier.hurry()
        self.issuer.hurry()

    def changed(self, touched: Sequence[tuple[Kind, str]]) -> None:
        """For the mirror's `on_change`."""
        self.internal.changed(touched)
        self.verifier.changed(touched)
        self.issuer.changed(touched)

    async def close(self) -> None:
        """Of the connections to CAs, when `run` has ended."""
        await self._session.close()


def _alone(config: Config) -> tuple[str, ...]:
    """The host of the API, unless the certificate of the platform domain counts for it."""
    host = config.api_host
    return () if host is None or platform(config).covers(host) else (host,)
