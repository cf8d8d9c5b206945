"""What replicas run on, and a shared store: do they answer?"""

from __future__ import annotations

import os

from activator.drivers.container import Engine, EngineMissing, find_socket
from state.store import Store, StoreError
from wakegate.config import Config
from wakegate.doctor.findings import Finding, fix, ok


async def look(config: Config) -> list[Finding]:
    return [*await engine(config), *await shared_store(config)]


async def engine(config: Config) -> list[Finding]:
    """Of `--driver container`."""
    if config.driver != "container" or not config.runs_control:
        return []
    try:
        found = Engine(find_socket(config.engine_socket, os.environ))
        await found.connect()
    except EngineMissing as error:
        said, separator, cure = str(error).rpartition("; " if "; " in str(error) else ": ")
        return [fix("engine", said, cure)] if separator else [fix("engine", cure, "see docs/operations.md")]
    flavour = found.flavour
    await found.close()
    return [ok("engine", f"{'Podman' if flavour.podman else 'Docker'} {flavour.version} at {found.socket}")]


async def shared_store(config: Config) -> list[Finding]:
    """Of `--redis`."""
    if config.redis is None:
        return []
    store = Store(config.redis)
    try:
        await store.run_id()
    except StoreError as error:
        return [fix("store", f"--redis does not answer ({error})", "start it, or mend the URL")]
    finally:
        await store.close()
    return [ok("store", "--redis answers")]
