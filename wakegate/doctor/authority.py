"""The CA: does its directory answer, does it take us, and does its clock agree with ours?"""

from __future__ import annotations

import email.utils
import os
import ssl
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Final

import aiohttp
from cryptography.hazmat.primitives.asymmetric import ec

from certs.acme.client import AcmeClient
from certs.acme.directory import Directory
from certs.acme.errors import AcmeError
from wakegate.config import Config
from wakegate.doctor.findings import Finding, fix, note, ok

_PATIENCE: Final = 15.0  # seconds
_CLOSE: Final = 10.0  # seconds between two clocks that are both right
_FAR: Final = 300.0  # seconds from which on fresh certificates may not count yet


async def look(config: Config, url: str) -> list[Finding]:
    """`url`: of `--acme-directory`."""
    dates: list[str] = []
    try:
        directory = await _directory(config, url, dates)
    except (AcmeError, ssl.SSLError) as error:
        cure = "is --acme-directory right, the way out open, and --acme-ca-bundle given for a CA of your own?"
        return [fix("acme", str(error), cure)]
    return [*judge(config, url, directory), *skew(dates[-1] if dates else None, time.time())]


async def _directory(config: Config, url: str, dates: list[str]) -> Directory:
    """`dates` gets the Date field of the answer. Raises AcmeError; ssl.SSLError for a bundle that is none."""

    async def note_date(_: object, __: SimpleNamespace, answered: aiohttp.TraceRequestEndParams) -> None:
        dates.extend(answered.response.headers.getall("Date", ()))

    watching = aiohttp.TraceConfig()
    watching.on_request_end.append(note_date)
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=config.acme_ca_bundle))
    async with aiohttp.ClientSession(connector=connector, trace_configs=[watching], trust_env=True) as session:
        client = AcmeClient(session, url, ec.generate_private_key(ec.SECP256R1()), timeout=_PATIENCE)
        return await client.directory()


def judge(config: Config, url: str, directory: Directory) -> Iterator[Finding]:
    if directory.meta.external_account_required and config.acme_eab is None:
        yield fix("acme", f"{url} wants an account that it knows", "--acme-eab KID:KEY, which the CA gives you")
        return
    yield ok("acme", f"{url} answers")
    hook = config.acme_dns_hook
    if hook is not None and not os.access(hook, os.X_OK):
        yield fix("acme", f"{hook} can't be run", f"chmod +x {hook}")
    elif hook is None:
        cure = "--acme-dns-hook, or live with HTTP there; custom domains need none"
        yield note("acme", f"no way to a public certificate for *.{config.domain}", cure)


def skew(date: str | None, now: float) -> Iterator[Finding]:
    """`date`: the Date field of the CA's answer (RFC 9110 6.6.1); `now`: seconds since the epoch."""
    try:
        theirs = email.utils.parsedate_to_datetime(date or "").timestamp()
    except (ValueError, OverflowError):
        return
    apart = now - theirs
    if abs(apart) <= _CLOSE:
        yield ok("clock", "agrees with the CA's")
        return
    text = f"{abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} the CA's"
    tell = fix if abs(apart) >= _FAR else note
    yield tell("clock", text, "apt-get install -y chrony")
