"""What replicas run on, what measures their GPUs, and a shared store: do they answer?"""

from __future__ import annotations

import os

from activator.drivers.container import Engine, EngineMissing, find_socket
from activator.gpu import NotMeasured
from state.models import Offer
from state.store import Store, StoreError
from wakegate.config import Config
from wakegate.doctor.findings import Finding, fix, note, ok
from wakegate.drivers import gpu_sources, gpus_of


async def look(config: Config) -> list[Finding]:
    return [*await engine(config), *await gpus(config), *await shared_store(config)]


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


async def gpus(config: Config) -> list[Finding]:
    """Whether it is measured how busy those of `--gpus` are; by NVML or by exporters is all the same."""
    if not config.runs_control:
        return []
    found, measured = [], False
    for source in gpu_sources(config, Offer(config.driver, config.region, gpus_of(config.gpus))):
        try:
            known = await source.read()
        except NotMeasured as error:
            exporter = source.name in config.dcgm_url
            if exporter:
                found.append(fix("gpus", f"the exporter {source.name}: {error}", "start it, or mend --dcgm-url"))
            elif not measured:
                cure = f"{source.name} ({error}), or an exporter by --dcgm-url"
                found.append(note("gpus", "nothing measures how busy they are, so no service scales by it", cure))
        else:
            measured = True
            numbers = sorted(name for name in known if name.isdecimal())
            found.append(ok("gpus", f"{source.name} measures GPUs {', '.join(numbers)}"))
        finally:
            await source.close()
    return found


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
