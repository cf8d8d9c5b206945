"""What control has to find or write before it is ready: the mark of the secret key in the store, the first admin key,
and where the API is found by commands beside the data directory."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Final

from control.credentials.keys import make_first_key
from state.kinds import Kind
from state.mirror import Mirror
from state.secret_key import FINGERPRINT_ID, fingerprint
from state.store import ABSENT, Change, Conflict, Store, StoreError
from wakegate.client import URL_FILE

_RETRY: Final = 0.2  # seconds between attempts to reach a store that is gone


class StartError(Exception):
    """Control can't run like this; the text says what to do."""


async def check_secret_key(store: Store, key: bytes, file: Path) -> None:
    """Every node of a store must have the same secret key; the first leaves its fingerprint. Raises StartError.

    `file`: where the key is kept, for the text. A store that is gone is waited for.
    """
    own = fingerprint(key).encode()
    while True:
        try:
            record = await store.get(Kind.META, FINGERPRINT_ID)
            if record is None:
                await store.commit([Change(Kind.META, FINGERPRINT_ID, own, ABSENT)])
            elif record.value != own:
                raise StartError(
                    f"the store was written with another secret key: set WAKEGATE_SECRET_KEY, or put the "
                    f"right key into {file}"
                )
        except Conflict:
            continue  # another node was first: compare with it
        except StoreError:
            await asyncio.sleep(_RETRY)
            continue
        return


async def first_key(store: Store, mirror: Mirror, file: Path) -> str | None:
    """The admin key, if this call made it and wrote `file`; None: there was one. Raises StartError.

    A store that is gone is waited for.
    """
    while True:
        try:
            return await make_first_key(store, mirror, file)
        except StoreError:
            await asyncio.sleep(_RETRY)
        except OSError as error:
            raise StartError(f"the admin key can't be written: {error}") from error


def write_url(data_dir: Path, host: str, port: int) -> None:
    """Where commands beside the data directory find the API. Failing at it is no reason to stop."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - told apart, not bound
    url = f"http://[{host}]:{port}\n" if ":" in host else f"http://{host}:{port}\n"
    beside = data_dir / f".{URL_FILE}.new"
    with contextlib.suppress(OSError):
        beside.write_text(url)
        beside.replace(data_dir / URL_FILE)
