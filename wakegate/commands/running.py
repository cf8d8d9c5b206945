"""`wakegate services sleep`, `wake` and `delete`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import click

from wakegate.commands.naming import Target, if_match, on_service
from wakegate.commands.output import FAILED, as_json, fail, note
from wakegate.commands.progress import Show, Told, print_service, progress, wait_options
from wakegate.terminal import visible

_POLL: Final = 0.3  # seconds
_PATIENCE: Final = 30.0  # seconds that an API which is gone is waited for


@click.command()
@if_match
@as_json
@on_service
def sleep(target: Target, if_match: str | None, as_json: bool) -> None:
    """Let a service sleep now; requests in flight finish, and the next one wakes it."""
    answer = target.write("POST", "sleep", if_match=if_match)
    print_service(answer.body, answer.text, as_json=as_json)


@click.command()
@if_match
@wait_options
@as_json
@on_service
def wake(target: Target, if_match: str | None, wait: bool, timeout: float, as_json: bool) -> None:
    """Start a sleeping service as a request would."""
    told = Told.already(target) if wait and not as_json else Told()
    answer = target.write("POST", "wake", if_match=if_match)
    if not wait:
        print_service(answer.body, answer.text, as_json=as_json)
        return
    with progress("waking", quiet=as_json) as show:
        service, reason = _awake(target, show, timeout, told)
    print_service(service, json.dumps(service, ensure_ascii=False), as_json=as_json)
    if reason:
        fail(reason)


def _awake(target: Target, show: Show | None, timeout: float, told: Told) -> tuple[Mapping[str, Any], str | None]:
    """Wait until a replica is ready; the service then, and why none is."""
    deadline = time.monotonic() + timeout
    while True:
        service: Mapping[str, Any] = target.read(patience=_PATIENCE).body
        if show is not None:
            told.tell(target, show)
        if service["replicas"]["ready"]:
            return service, None
        if service["status"] in ("failed", "degraded"):
            return service, _last_reason(target)
        if time.monotonic() > deadline:
            return service, f"not ready after {timeout:g} s: the service is {service['status']}"
        time.sleep(_POLL)


def _last_reason(target: Target) -> str:
    events = target.read("events", query={"limit": 1}, patience=_PATIENCE).body["items"]
    return events[-1]["reason"] if events else "it could not be started"


@click.command()
@click.option("--force", is_flag=True, help="Cut requests in flight instead of letting them finish.")
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@if_match
@as_json
@on_service
def delete(target: Target, force: bool, yes: bool, if_match: str | None, as_json: bool) -> None:
    """Delete a service: its endpoint answers 503 from now on. Asks first where somebody can answer."""
    if not yes and sys.stdin.isatty() and not click.confirm(visible(f"Delete {target}?"), err=True):
        note("nothing was deleted")
        sys.exit(FAILED)
    target.write("DELETE", query={"force": "true" if force else None}, if_match=if_match)
    if not as_json:
        click.echo(visible(f"deleted {target}"))
