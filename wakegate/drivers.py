"""The driver that the configuration names, and the engine behind it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Final

from activator.drivers import Driver
from activator.drivers.container import ContainerDriver, Credentials, Engine, EngineMissing, find_socket
from activator.drivers.process import ProcessDriver
from activator.gpu import Source
from activator.gpu.dcgm import DcgmExporter
from activator.gpu.nvml import Nvml
from activator.logs import ReplicaLogs
from state.models import Offer
from wakegate.config import Config

_PATIENCE: Final = 10.0  # seconds for an engine whose socket is there, but which is being started
_PAUSE: Final = 0.25


async def engine_of(config: Config) -> Engine | None:
    """The container engine, which answers; `None` for a driver that needs none. Raises EngineMissing with the fix."""
    if config.driver != "container":
        return None
    socket = find_socket(config.engine_socket, os.environ)
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    while True:
        engine = Engine(socket)
        try:
            await engine.connect()
        except EngineMissing:
            if asyncio.get_running_loop().time() >= deadline:
                raise
            await asyncio.sleep(_PAUSE)
        else:
            return engine


def driver_of(config: Config, node: str, logs: ReplicaLogs, engine: Engine | None) -> Driver:
    """`engine` as `engine_of` gave it."""
    if engine is None:
        uids = range(config.process_uids.first, config.process_uids.last + 1)
        gpus = gpus_of(config.gpus)
        return ProcessDriver(config.data_dir, git_url=config.git_url, logs=logs, uids=uids, gpus=gpus)
    return ContainerDriver(
        config.data_dir,
        node=node,
        engine=engine,
        git_url=config.git_url,
        logs=logs,
        uid=git_uid(config),
        gpus=gpus_of(config.gpus),
        credentials=Credentials.of(os.environ),
    )


def gpu_sources(config: Config, offer: Offer) -> Sequence[Source]:
    """What knows how busy the GPUs are that this node offers; where both do, an exporter counts over NVML."""
    return [*map(DcgmExporter, config.dcgm_url), Nvml()] if offer.gpus else []


def git_uid(config: Config) -> int | None:
    """Git's own uid, which no namespace gets; `None` where everything runs as ourselves."""
    return config.process_uids.last if os.geteuid() == 0 else None


def gpus_of(text: str) -> Mapping[str, int]:
    """Of `--gpus`: `T4=2,L4=1`. None is found by itself."""
    if text in ("auto", "none"):
        return {}
    return {name: int(count) for name, _, count in (part.partition("=") for part in text.split(","))}
