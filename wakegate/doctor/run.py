"""The looks, in the order in which they are told."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from certs.dns import Resolver
from certs.dns_answer import Outcome
from wakegate.config import Config, ConfigError, load
from wakegate.doctor import authority, engines, machine, names, ports
from wakegate.doctor.findings import Finding, fix, healthy, ok
from wakegate.issuing import DIRECTORIES
from wakegate.terminal import visible_json


def doctor(flags: Mapping[str, Sequence[str]], file: Path | None, *, as_json: bool) -> int:
    """Look at everything and tell. Returns the exit status: 1 if anything has to be mended."""
    try:
        config = load(flags, os.environ, file).config
    except ConfigError as error:
        findings = [_mistake(mistake) for mistake in error.mistakes]
    else:
        findings = asyncio.run(look(config))
    _tell(findings, as_json)
    return 0 if healthy(findings) else 1


async def look(config: Config) -> list[Finding]:
    found = [ok("config", "valid"), *machine.look(config)]
    if machine.running(config.data_dir):
        found += await ports.answering(config)
    else:
        found += ports.free(config)
    found += ports.public(config)
    found += await engines.look(config)
    found += names.clash(config.api_host, config.domain)
    found += [finding for name in _names(config) for finding in await _name(config, name)]
    if config.acme_directory is not None:
        found += await authority.look(config, DIRECTORIES.get(config.acme_directory, config.acme_directory))
    return found


def _names(config: Config) -> Iterator[str]:
    """Any name below the domain, which only a wildcard record answers for, and the API's host."""
    yield f"doctor-{secrets.token_hex(4)}.{config.domain}"
    if config.api_host is not None:
        yield config.api_host


async def _name(config: Config, name: str) -> list[Finding]:
    if names.on_this_machine_only(name):
        return [ok("dns", f"{_shown(config, name)} is reached from this machine alone")]
    server = config.dns_server
    resolver = Resolver(None if server is None else [(server.host, server.port)])
    answers = [await resolver.lookup(name, kind) for kind in ("A", "AAAA")]
    addresses = {address for answer in answers for address in answer.values}
    silent = next((answer for answer in answers if not answer.answered), None)
    if not addresses and silent is not None:
        asked = "/etc/resolv.conf" if server is None else f"--dns-server {server}"
        text = f"no answer about {_shown(config, name)} ({silent.detail or silent.outcome})"
        return [fix("dns", text, f"is {asked} right, and the way to it open?")]
    missing = "does not exist" if any(a.outcome is Outcome.NXDOMAIN for a in answers) else "has no address"
    return list(names.judge(_shown(config, name), addresses or missing, names.own_addresses()))


def _shown(config: Config, name: str) -> str:
    """As the record is written."""
    return name if name == config.api_host else f"*.{config.domain}"


def _mistake(text: str) -> Finding:
    where, _, what = text.partition(": ")
    return fix("config", f"{where} is wrong", what)


def _tell(findings: Sequence[Finding], as_json: bool) -> None:
    if as_json:
        text = visible_json(json.dumps([finding.to_json() for finding in findings], indent=2, ensure_ascii=False))
    else:
        text = "\n".join(finding.line() for finding in findings)
    sys.stdout.write(text + "\n")
