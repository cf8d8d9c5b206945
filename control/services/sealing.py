"""What of a service is secret, sealed for the store (law 8): its environment and the secret of its push webhook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from state.models import Service
from state.secret_key import SecretError
from state.secrets import Vault

_WEBHOOK: Final = "webhook secret"  # no name of an environment has a space


@dataclass(frozen=True, slots=True)
class Sealing:
    """With the vault of environments."""

    vault: Vault

    def environment(self, namespace: str, service_id: str, env: Mapping[str, str]) -> dict[str, str]:
        return {name: self.vault.seal(namespace, service_id, name, text) for name, text in env.items()}

    def again(self, service: Service, env: Mapping[str, str]) -> dict[str, str]:
        """As `environment`; a value that is the same as now stays sealed as it is, so that nothing differs."""
        fresh = {name: text for name, text in env.items() if self._now(service, name) != text}
        kept = {name: service.run.env[name] for name in env.keys() - fresh.keys()}
        return kept | self.environment(service.namespace, service.id, fresh)

    def webhook(self, namespace: str, service_id: str, secret: str) -> str:
        return self.vault.seal(namespace, service_id, _WEBHOOK, secret)

    def webhook_secret(self, service: Service) -> str | None:
        """None: it has no webhook. Raises SecretError."""
        if not service.webhook:
            return None
        return self.vault.unseal(service.namespace, service.id, _WEBHOOK, service.webhook)

    def _now(self, service: Service, name: str) -> str | None:
        sealed = service.run.env.get(name)
        try:
            return None if sealed is None else self.vault.unseal(service.namespace, service.id, name, sealed)
        except SecretError:
            return None  # what can't be read is replaced
