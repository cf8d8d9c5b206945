"""What the supervisor owns for its whole life: the data directory, the ids, the store's program, the listening sockets.

Opened once, before any child; whatever is wrong with it is a ServeError that names the fix. Nothing of it changes on a
reload.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Sequence

from state.secret_key import CERTIFICATES, DerivedKey, SecretError, derive, make_secret_key, read_secret_key
from wakegate.config import Config
from wakegate.datadir import DataDirectory
from wakegate.errors import ServeError
from wakegate.sockets import Listeners, listen
from wakegate.store_process import EmbeddedStore
from wakegate.values import Address

# Bound to the sockets, the store, the directory or the number of processes of this life.
FIXED = (
    *("data_dir", "http", "https", "api", "workers", "redis", "role", "driver", "store_fsync", "process_uids"),
    *("engine_socket", "region", "gpus", "domain"),
)


class Holdings:
    """Everything inherited by children. `config` has the real ports (after a port 0)."""

    def __init__(self, config: Config) -> None:
        """Raises ServeError."""
        os.umask(0o077)
        uids_of_their_own = config.runs_control and os.geteuid() == 0
        if uids_of_their_own:
            _check_reachable(config)
        self.supervisor = secrets.token_hex(8)
        self.api_token = secrets.token_urlsafe(32)
        self._shared_store = config.redis
        self.api: list[Listeners] = []
        self.http: list[Listeners] = []
        self.https: list[Listeners] = []
        self.data = DataDirectory.open(config.data_dir, shared_with_replicas=uids_of_their_own)
        with contextlib.ExitStack() as undo:  # a start that is refused leaves nothing behind
            undo.callback(self.data.abandon)
            undo.callback(self.close_sockets)
            self._listen(config)
            self.store = None if config.redis else EmbeddedStore(self.data, config.store_fsync)
            self.node = self.data.node_id()
            _make_secret_key(config, self.data)
            self.certificates_key = _certificates_key(config) if config.runs_workers else None
            undo.pop_all()
        self.config = dataclasses.replace(
            config,
            http=_real(self.http) or config.http,
            https=_real(self.https) or config.https,
            api=self.api[0].address if self.api else config.api,
        )

    def _listen(self, config: Config) -> None:
        """Raises ServeError naming every address that fails."""
        http, https = (config.http, config.https) if config.runs_workers else ((), ())
        failed: list[str] = []

        def attempt(option: str, addresses: Sequence[Address], count: int) -> list[Listeners]:
            try:
                return listen([(option, address) for address in addresses], count)
            except ServeError as error:
                failed.append(str(error))
                return []

        self.api = attempt("--api", [config.api] if config.runs_control else [], 1)
        self.http = attempt("--http", http, config.workers)
        self.https = attempt("--https", https, config.workers)
        if failed:
            raise ServeError("\n".join(failed))

    def adjusted(self, config: Config) -> Config:
        """Another configuration as this life can have it: what is fixed stays."""
        return dataclasses.replace(config, **{name: getattr(self.config, name) for name in FIXED})

    @property
    def store_url(self) -> str:
        return self.store.url if self.store else self._shared_store or ""

    def http_descriptors(self) -> list[list[int]]:
        """Over addresses, over workers."""
        return [listeners.descriptors for listeners in self.http]

    def https_descriptors(self) -> list[list[int]]:
        return [listeners.descriptors for listeners in self.https]

    def api_descriptors(self) -> list[int]:
        return [descriptor for listeners in self.api for descriptor in listeners.descriptors]

    def store_descriptors(self) -> list[int]:
        return self.store.descriptors if self.store else []

    def addresses(self) -> list[str]:
        """One line per address served."""
        lines = [f"http  http://{listeners.address}" for listeners in self.http]
        lines += [f"https https://{listeners.address}" for listeners in self.https]
        lines += [f"api   http://{listeners.address}" for listeners in self.api]
        return lines + ([f"api   {self.config.api_url}"] if self.config.api_url and self.api and self.http else [])

    def close_sockets(self) -> None:
        self.close_public()
        self.close_api()

    def close_public(self) -> None:
        for listeners in (*self.http, *self.https):
            listeners.close()

    def close_api(self) -> None:
        """Once no control is to be started any more."""
        for listeners in self.api:
            listeners.close()


def _make_secret_key(config: Config, data: DataDirectory) -> None:
    """A new key for a new node; `WAKEGATE_SECRET_KEY` or a key that exists stays. The children check that it fits."""
    if os.environ.get("WAKEGATE_SECRET_KEY") or config.secret_key_file.exists():
        return
    try:
        make_secret_key(data.making(config.secret_key_file.name))
    except OSError as error:
        raise ServeError(f"{config.secret_key_file} can't be written: {error.strerror}") from None


def _certificates_key(config: Config) -> DerivedKey:
    """What workers open the keys of certificates with; the secret key itself stays with control. Raises ServeError."""
    try:
        return derive(read_secret_key(config.secret_key_file, os.environ.get("WAKEGATE_SECRET_KEY")), CERTIFICATES)
    except SecretError as error:
        raise ServeError(f"the secret key can't be read: {error}") from None


def _real(opened: Sequence[Listeners]) -> tuple[Address, ...]:
    return tuple(listeners.address for listeners in opened)


def _check_reachable(config: Config) -> None:
    """Replicas have uids of their own and must get through every folder above the data directory (SPEC section 5)."""
    for folder in config.data_dir.resolve().parents:
        with contextlib.suppress(OSError):
            if folder.is_dir() and not folder.stat().st_mode & 0o001:
                raise ServeError(
                    f"replicas run with uids {config.process_uids} and can't pass {folder} to reach {config.data_dir}: "
                    f"chmod o+x {folder}, or choose another place, as in --data-dir /var/lib/wakegate"
                )
