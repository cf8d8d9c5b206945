"""The listeners: free to be taken, or answering as ours if `serve` runs."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from typing import Final

from wakegate.config import Config
from wakegate.doctor.findings import Finding, fix, note, ok
from wakegate.errors import ServeError
from wakegate.sockets import listen
from wakegate.values import Address

_PATIENCE: Final = 5.0  # seconds
_OURS: Final = b"wakegate"  # in Proxy-Status (RFC 9209) of what the gateway itself answers
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - connected to


def free(config: Config) -> Iterator[Finding]:
    """While no `serve` runs on the data directory."""
    for option, address in _addresses(config):
        try:
            for listeners in listen([(option, address)], 1):
                listeners.close()
        except ServeError as error:
            said, _, cure = str(error).removeprefix(f"{option} {address}: ").partition(";")
            yield fix("ports", f"{option} {address} {said}", cure.strip() or _CURES.get(said, "choose another"))
        else:
            yield ok("ports", f"{option} {address} is free")


_CURES: Final = {
    "not allowed: ports below 1024 need root or CAP_NET_BIND_SERVICE": (
        "AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit, or setcap cap_net_bind_service=+ep on Python"
    ),
}


async def answering(config: Config) -> list[Finding]:
    """While `serve` runs: who answers at its listeners?"""
    found = []
    for option, address in _addresses(config):
        local = Address(_ANY.get(address.host, address.host), address.port)
        if option == "--http":
            found.append(answered(option, address, await ask(local, f"{secrets.token_hex(8)}.invalid")))
        else:
            found.append(connected(option, address, await connects(local)))
    return found


def answered(option: str, address: Address, ours: bool | None) -> Finding:
    if ours:
        return ok("ports", f"{option} {address} answers")
    if ours is None:
        return fix("ports", f"{option} {address} does not answer", "see what the running serve printed")
    return fix("ports", f"{option} {address} is answered by another program", f"ss -ltnp 'sport = :{address.port}'")


def connected(option: str, address: Address, works: bool) -> Finding:
    if works:
        return ok("ports", f"{option} {address} accepts connections")
    return fix("ports", f"{option} {address} accepts no connection", "see what the running serve printed")


def public(config: Config) -> Iterator[Finding]:
    """A CA looks at the ports 80 and 443 and nowhere else (RFC 8555 8.3, RFC 8737 3)."""
    if config.acme_directory is None:
        return
    if config.public_http_port != 80 and config.public_https_port != 443:
        cure = "--http '[::]:80' --https '[::]:443', or forward these ports and say so: --public-http 80"
        yield fix("ports", "a CA would reach neither port 80 nor port 443", cure)
    elif config.public_http_port != 80:
        yield note("ports", "nobody answers at port 80", "browsers that type http:// come in vain: --http '[::]:80'")


async def ask(address: Address, host: str) -> bool | None:
    """Whether our gateway answers there; None: nobody does."""
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            with contextlib.closing(writer):
                writer.write(request)
                head = await reader.read(4096)
    except (OSError, TimeoutError):
        return None
    lines = head.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    return any(line.startswith(b"proxy-status:") and _OURS in line for line in lines)


async def connects(address: Address) -> bool:
    try:
        async with asyncio.timeout(_PATIENCE):
            _, writer = await asyncio.open_connection(address.host, address.port)
            writer.close()
    except (OSError, TimeoutError):
        return False
    return True


def _addresses(config: Config) -> list[tuple[str, Address]]:
    found: list[tuple[str, Address]] = []
    if config.runs_workers:
        found += [("--http", address) for address in config.http]
        found += [("--https", address) for address in config.https]
    if config.runs_control:
        found.append(("--api", config.api))
    return found
