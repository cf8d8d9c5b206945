"""The progress of a deployment, as its events tell it: clone, build, start, ready.

Law kept here: only the deployment that was asked for counts, whatever else happens to the service meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import click
from rich.console import Console

from wakegate.client import Answer
from wakegate.commands.naming import Target
from wakegate.commands.output import echo_json, fail, note, print_facts
from wakegate.commands.views import service_facts
from wakegate.terminal import visible

_POLL: Final = 0.2  # seconds between two looks; grows, as the rate of calls is limited
_LONGEST_POLL: Final = 1.0
_EVENTS: Final = 1000  # at once, as many as are kept
_PATIENCE: Final = 30.0  # seconds that an API which is gone is waited for
_UNFINISHED: Final = ("pending", "building", "starting")

Show = Callable[[str], None]


def wait_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--wait` and its end."""
    text = "Of --wait, seconds."
    command = click.option("--timeout", type=click.FloatRange(min=0), default=1800.0, show_default=True, help=text)(
        command
    )
    return click.option("--wait", is_flag=True, help="Until it serves or has failed; shows the progress.")(command)


def newest(service: Mapping[str, Any]) -> Mapping[str, Any]:
    """The newest deployment that a service shows: the one in progress or failed, else the one that serves."""
    none = {"id": None, "state": "pending", "reason": None}
    return service["rollout"] or service["deployment"] or none


class Told:
    """Which events were shown: those up to a place, the `next` of what was read last; at first none."""

    def __init__(self, place: str = "0") -> None:
        self._place = place

    @classmethod
    def already(cls, target: Target) -> Told:
        """All that happened before now. Raises ClientError, Failed."""
        return cls(target.read("events", query={"limit": 1}).body["next"])

    def tell(self, target: Target, show: Show) -> None:
        """What is new. Raises ClientError, Failed."""
        query = {"cursor": self._place, "limit": _EVENTS}
        body = target.read("events", query=query, patience=_PATIENCE).body
        for event in body["items"]:
            show(f"{event['time'][11:23]}  {event['kind']}  {event['reason']}")
        self._place = body["next"]


@dataclass(frozen=True, slots=True)
class Rollout:
    """A command that may start a deployment: what was there before it, and how it ends.

    With `wait` it lasts until that deployment serves or has failed; otherwise it ends with the API's answer.
    """

    target: Target
    wait: bool
    timeout: float
    as_json: bool
    before: str | None = None  # the newest deployment
    told: Told = field(default_factory=Told)

    @classmethod
    def of(cls, target: Target, *, wait: bool, timeout: float, as_json: bool) -> Rollout:
        """Of a service that is there already. Raises ClientError, Failed."""
        if not wait:
            return cls(target, wait, timeout, as_json)
        before = newest(target.read().body)["id"]
        return cls(target, wait, timeout, as_json, before, Told.already(target))

    def finish(self, answer: Answer) -> None:
        """Show the service; a deployment that failed ends the command with its reason.

        A webhook's secret is in the answer of the creation alone: it goes with the service that is shown at the end.
        """
        started = newest(answer.body)["id"]
        if not self.wait or started == self.before:
            if self.wait and not self.as_json:
                note("nothing of this needs a deployment")
            print_service(answer.body, answer.text, as_json=self.as_json)
            return
        with progress("deploying", quiet=self.as_json) as show:
            service, reason = follow_deployment(self.target, started, show, self.timeout, self.told)
        if "webhook" in answer.body:
            service = {**service, "webhook": answer.body["webhook"]}
        print_service(service, json.dumps(service, ensure_ascii=False), as_json=self.as_json)
        if reason:
            fail(reason)


def print_service(service: Mapping[str, Any], text: str, *, as_json: bool, etag: str | None = None) -> None:
    echo_json(text) if as_json else print_facts(service_facts(service, etag))


@contextlib.contextmanager
def progress(what: str, *, quiet: bool) -> Iterator[Show | None]:
    """To where lines of progress go: nowhere, or the standard error, above a spinner where that is a terminal."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        console = Console(stderr=True, highlight=False)
        with console.status(what):
            yield lambda line: console.print(visible(line), markup=False, soft_wrap=True)
    else:
        yield note


def follow_deployment(
    target: Target, deployment: str | None, show: Show | None, timeout: float, told: Told | None = None
) -> tuple[Mapping[str, Any], str | None]:
    """Wait until this deployment of the service is active; give each event after those that were told to `show`.

    Returns the service as it is then, and why that deployment does not serve (None: it does). Raises ClientError,
    Failed.
    """
    deadline, told, pause = time.monotonic() + timeout, told or Told(), _POLL
    while True:
        service: Mapping[str, Any] = target.read(patience=_PATIENCE).body
        if show is not None:
            told.tell(target, show)
        found = _found(target, service, deployment)
        if found["state"] not in _UNFINISHED:
            return service, verdict(found)
        left = deadline - time.monotonic()
        if left <= 0:
            return service, f"not ready after {timeout:g} s: the deployment is {found['state']}"
        time.sleep(min(pause, left))
        pause = min(pause * 1.2, _LONGEST_POLL)


def _found(target: Target, service: Mapping[str, Any], deployment: str | None) -> Mapping[str, Any]:
    """The deployment by its id: in the service, or among the older ones once another took its place."""
    shown: list[Mapping[str, Any]] = [one for one in (service["rollout"], service["deployment"]) if one is not None]
    if found := next((one for one in shown if deployment in (None, one["id"])), None):
        return found
    if deployment is None:
        return newest(service)
    listed: list[Mapping[str, Any]] = target.read("deployments", patience=_PATIENCE).body["items"]
    forgotten: Mapping[str, Any] = {"id": deployment, "state": "superseded", "reason": None}
    return next((old for old in listed if old["id"] == deployment), forgotten)


def verdict(deployment: Mapping[str, Any]) -> str | None:
    """Why a deployment that is over does not serve; one that served until the next came did what it should."""
    if deployment["state"] in ("active", "superseded"):
        return None
    reason: str | None = deployment["reason"]
    return reason or f"the deployment is {deployment['state']}"
