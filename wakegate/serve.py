"""`wakegate serve` from its arguments to its exit status: the composition root of the supervisor."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from activator.drivers.process.forge import Forge
from wakegate.config import Config, ConfigError, Loaded, load
from wakegate.errors import ServeError
from wakegate.holdings import FIXED, Holdings
from wakegate.limits import raise_file_limit
from wakegate.options import BY_NAME
from wakegate.supervisor import Supervisor, await_signals, say
from wakegate.terminal import visible


def serve(flags: Mapping[str, Sequence[str]], file: Path | None, *, check: bool) -> int:
    """Run `wakegate serve`; with `check` only validate. Returns the exit status."""

    def read() -> Loaded:
        return load(flags, os.environ, file)

    try:
        loaded = read()
    except ConfigError as error:
        _complain(error.mistakes)
        return 2
    if check:
        say("the configuration is valid")
        return 0
    try:
        asyncio.run(_run(loaded, read))
    except ServeError as error:
        _complain(str(error).splitlines())
        return 1
    return 0


async def _run(loaded: Loaded, read: Callable[[], Loaded]) -> None:
    if loaded.config.driver == "kubernetes":
        raise ServeError("--driver kubernetes is not available in this version: use --driver process or container")
    if warning := raise_file_limit():
        say(f"warning: {warning}")
    for note in notes(loaded):
        say(f"note: {note}")
    await_signals()
    await Supervisor(Holdings(loaded.config), lambda: _reread(loaded.config, read)).run()


def notes(loaded: Loaded) -> list[str]:
    """What an operator should know of a valid configuration before he relies on it."""
    told = []
    if loaded.config.redis is not None:
        told.append("replicas listen on 127.0.0.1: all nodes that share this store must run on this machine")
    if loaded.sources.get("git_url") == BY_NAME["git_url"].flag and Forge.of(loaded.config.git_url).private:
        told.append("everybody on this machine can read the credentials on this command line: use WAKEGATE_GIT_URL")
    return told


def _reread(first: Config, read: Callable[[], Loaded]) -> Config | None:
    """The configuration for a reload; mistakes are told, and what needs a restart."""
    try:
        config = read().config
    except ConfigError as error:
        _complain(["not reloaded, the configuration is wrong:", *error.mistakes])
        return None
    for name in FIXED:
        if getattr(config, name) != getattr(first, name):
            say(f"note: {BY_NAME[name].flag} changes with the next restart")
    return config


def _complain(lines: Sequence[str]) -> None:
    for line in lines:
        sys.stderr.write(f"wakegate: {visible(line)}\n")
    sys.stderr.flush()
