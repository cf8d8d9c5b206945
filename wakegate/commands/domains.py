"""`wakegate domains`: custom domains of a service, and certificates of their owners."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, Final

import click

from wakegate.client import Answer
from wakegate.commands.domain_views import COLUMNS, RECORD_COLUMNS, domain_facts, domain_row, record_row, settled
from wakegate.commands.naming import Target, if_match, on_service
from wakegate.commands.output import FAILED, as_json, echo_json, note, print_facts, print_rows
from wakegate.commands.suggestions import domains as known
from wakegate.terminal import visible

_POLL: Final = 2.0  # seconds between two looks
_PATIENCE: Final = 30.0  # seconds that an API which is gone is waited for


@click.group()
def domains() -> None:
    """Custom domains of services, and certificates of your own for them."""


def _domain(*, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.argument("domain", required=required, shell_complete=known)


@domains.command(name="list")
@as_json
@on_service
def list_(target: Target, as_json: bool) -> None:
    """List the domains of a service."""
    answer = target.read("domains")
    echo_json(answer.text) if as_json else print_rows(COLUMNS, map(domain_row, answer.body["items"]))


@domains.command()
@if_match
@as_json
@on_service
@click.argument("domain")
@click.option("--redirect-to", metavar="DOMAIN", help="Send requests on to this other domain of the service.")
@click.option("--no-redirect", is_flag=True, help="Serve it itself from now on.")
def add(
    target: Target, domain: str, redirect_to: str | None, no_redirect: bool, if_match: str | None, as_json: bool
) -> None:
    """Add a domain, or have one looked at again now; shows what DNS should say."""
    if no_redirect and redirect_to is not None:
        raise click.UsageError("--redirect-to and --no-redirect exclude each other")
    body = {"domain": domain} | ({"redirect_to": redirect_to} if no_redirect or redirect_to is not None else {})
    _show(target.write("POST", "domains", body=body, if_match=if_match), as_json=as_json)


@domains.command()
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@if_match
@as_json
@on_service
@_domain()
def remove(target: Target, domain: str, yes: bool, if_match: str | None, as_json: bool) -> None:
    """Remove a domain: it stops being served, and its key is destroyed. Asks first where somebody can answer."""
    if not yes and sys.stdin.isatty() and not click.confirm(visible(f"Remove {domain} from {target}?"), err=True):
        note("nothing was removed")
        sys.exit(FAILED)
    target.write("DELETE", "domains", domain, if_match=if_match)
    if not as_json:
        click.echo(visible(f"removed {domain} from {target}"))


@domains.command()
@click.option("--watch", "-w", is_flag=True, help="Show each change until all are active, or until interrupted.")
@as_json
@on_service
@_domain(required=False)
def status(target: Target, domain: str | None, watch: bool, as_json: bool) -> None:
    """Show what DNS should say and what it says, why a domain is not served yet, and what to do."""
    seen = None
    while True:
        answer = target.read("domains", *([domain] if domain else []), patience=_PATIENCE if watch else 0.0)
        if (shown := _comparable(answer)) != seen:
            _show(answer, as_json=as_json)
            seen = shown
        if not watch or settled(_those_of(answer)):
            return
        time.sleep(_POLL)


@domains.command()
@click.option("--cert", metavar="FILE", type=click.File(), help="PEM, the leaf first, then its issuers in order.")
@click.option("--key", metavar="FILE", type=click.File(), help="PEM of the leaf's key, without a password.")
@click.option("--remove", "removed", is_flag=True, help="Destroy yours; the next one is got and renewed by itself.")
@if_match
@as_json
@on_service
@_domain()
def certificate(
    target: Target,
    domain: str,
    cert: IO[str] | None,
    key: IO[str] | None,
    removed: bool,
    if_match: str | None,
    as_json: bool,
) -> None:
    """Serve a domain with a certificate of your own, or not any more. Renewing it is then up to you."""
    if removed and (cert is not None or key is not None):
        raise click.UsageError("--remove and a new certificate exclude each other")
    if removed:
        target.write("DELETE", "domains", domain, "certificate", if_match=if_match)
        if not as_json:
            click.echo(visible(f"removed the certificate of {domain}"))
        return
    if cert is None or key is None:
        raise click.UsageError("give --cert and --key, or --remove")
    body = {"certificate": _text(cert, "--cert"), "key": _text(key, "--key")}
    _show(target.write("PUT", "domains", domain, "certificate", body=body, if_match=if_match), as_json=as_json)


def _text(file: IO[str], option: str) -> str:
    """Raises click.BadParameter, which tells nothing of what is in the file."""
    try:
        return file.read()
    except UnicodeDecodeError:
        raise click.BadParameter("is no PEM: not a text", param_hint=option) from None


def _those_of(answer: Answer) -> Sequence[Mapping[str, Any]]:
    """The answer's domain, or domains."""
    items: Sequence[Mapping[str, Any]] = answer.body.get("items", [answer.body])
    return items


def _comparable(answer: Answer) -> list[dict[str, Any]]:
    """What a watcher wants to hear of: not every look of ours."""
    passing = ("checked_at", "next_check_at")
    return [{name: value for name, value in one.items() if name not in passing} for one in _those_of(answer)]


def _show(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        echo_json(answer.text)
        return
    for number, domain in enumerate(_those_of(answer)):
        if number:
            click.echo()
        print_facts(domain_facts(domain))
        click.echo()
        print_rows(RECORD_COLUMNS, map(record_row, domain["records"]))
