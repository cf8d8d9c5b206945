"""The composition root of a gateway worker: from the supervisor's start message to a running `gateway.worker.Worker`.

The supervisor's word is the pipe; a SIGTERM sent to this process alone drains it the same way. Signals that a terminal
or a supervisor of ours sends to the whole process group are the supervisor's to act on.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import resource
import signal
import socket
import sys
from typing import Any, Final

import uvloop

from gateway.access_log import MODE, OPENED, AccessLog
from gateway.settings import ApiSettings, GatewaySettings
from gateway.worker import Worker, WorkerSettings, WrongKey
from state.secret_key import DerivedKey
from wakegate.config import Config
from wakegate.limits import client_connections, connect_limit, connections_of_one
from wakegate.pipe import Pipe
from wakegate.traces import telemetry

_LEFT_TO_THE_SUPERVISOR: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_YEAR: Final = 365 * 86400  # seconds: what `--hsts on` stands for
_MOST: Final = 100_000  # client connections of a worker, if files allow…
_MOST_OF_ONE: Final = 10_000  # …and of one client
_CACHE_WRITER: Final = 1  # the number of the worker that writes the node's cache


def main() -> None:
    """Run one worker until it is drained (exit 0) or its supervisor is gone (exit at once)."""
    for number in _LEFT_TO_THE_SUPERVISOR:
        signal.signal(number, signal.SIG_IGN)
    uvloop.run(_run())


async def _run() -> None:
    pipe, start = await Pipe.from_env()
    config = Config.from_json(start["config"])
    log_fd = _open_access_log(config, pipe)
    access_log = AccessLog(log_fd, path=config.access_log if config.access_log not in ("off", "-") else None)
    number = int(start["number"])
    spans = telemetry(os.environ, f"{start['node']}/{number}", pipe.say, first=number == 1)
    try:
        worker = Worker(_settings(start, config), pipe, access_log, spans)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.drain, config.drain_timeout)
        pipe.on_message = worker.told
        await worker.run(_sockets(start["http"]), _sockets(start["https"]))
    except* WrongKey as group:
        file = start["secret_key_file"]
        pipe.say(f"error: {group.exceptions[0]}: set WAKEGATE_SECRET_KEY, or put the right key into {file}")
        await asyncio.sleep(0)  # what was said is written
        os._exit(os.EX_CONFIG)
    finally:
        if spans is not None:
            spans.close()
        access_log.close()
        pipe.close()


def _settings(start: dict[str, Any], config: Config) -> WorkerSettings:
    number = int(start["number"])
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return WorkerSettings(
        registration=f"{start['node']}/{start['supervisor']}/{number}/{start['incarnation']}",
        number=number,
        store=start["store"],
        cache=config.data_dir / "cache" / "routes",
        writes_cache=number == _CACHE_WRITER,
        certificates_key=DerivedKey.from_json(start["certificates_key"]),
        stale_limit=config.stale_limit if config.redis else None,
        gateway=GatewaySettings(
            hold_timeout=config.hold_timeout,
            hold_limit=config.hold_limit,
            hold_keepalive_every=config.hold_keepalive_every,
            waiting_page_after=config.waiting_page_after,
            response_timeout=config.response_timeout,
            drain_timeout=config.drain_timeout,
            max_body=config.max_body,
            trusted_proxies=tuple(ipaddress.ip_network(text) for text in config.trusted_proxies),
            domain=config.domain,
            https_redirect="off" if config.public_https_port is None else config.https_redirect,
            public_http_port=config.public_http_port,
            public_https_port=config.public_https_port,
            api=_api(config, start["api_token"]),
            hsts=_hsts(config.hsts),
            connection_limit=min(_MOST, client_connections(files)),
            address_limit=min(_MOST_OF_ONE, connections_of_one(files)),
            connect_limit=connect_limit(files),
        ),
    )


def _api(config: Config, token: str) -> ApiSettings | None:
    """Without control here there is no API to forward to."""
    if config.api_host is None:
        return None
    address = config.api.reachable
    return ApiSettings(config.api_host, (address.host, address.port) if config.runs_control else None, token)


def _hsts(text: str) -> int | None:
    """`off`, `on` or seconds."""
    return {"off": None, "on": _YEAR}[text] if text in ("off", "on") else int(text)


def _sockets(descriptors: list[list[int]]) -> list[list[socket.socket]]:
    return [[_inherited(fd) for fd in of_address] for of_address in descriptors]


def _inherited(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)


def _open_access_log(config: Config, pipe: Pipe) -> int | None:
    """The file that all workers append to. A log that can't be opened is told and done without."""
    if config.access_log == "off":
        return None
    if config.access_log == "-":
        return sys.stdout.fileno()
    try:
        return os.open(config.access_log, OPENED, MODE)
    except OSError as error:
        pipe.say(f"no access log is written ({config.access_log}: {error.strerror})")
        return None
