"""The progress of a deployment, as its events tell it: clone, build, start, ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from wakegate.client import Client

_POLL: Final = 0.3  # seconds
_ENDED_BADLY: Final = ("failed", "cancelled")


def follow_deployment(
    client: Client, namespace: str, name: str, show: Callable[[str], None] | None, timeout: float
) -> tuple[Mapping[str, Any], str | None]:
    """Wait until the service's deployment is active; tell each event to `show`, once.

    Returns the service as it is then, and why it does not serve (None = it does). Raises ClientError, Failed.
    """
    began, told = time.monotonic(), ""
    while True:
        service: Mapping[str, Any] = client.call("GET", namespace, "service", name).body
        if show is not None:
            told = _tell(client, namespace, name, show, told)
        deployment = service["deployment"] or {"state": "pending", "reason": None}
        if deployment["state"] == "active":
            return service, None
        if deployment["state"] in _ENDED_BADLY:
            return service, deployment["reason"] or f"the deployment is {deployment['state']}"
        if time.monotonic() - began > timeout:
            return service, f"not ready after {timeout:g} s: the deployment is {deployment['state']}"
        time.sleep(_POLL)


def _tell(client: Client, namespace: str, name: str, show: Callable[[str], None], told: str) -> str:
    """Show the events after `told` (the time of the last one shown); times have one width, so texts sort as they do."""
    for event in client.call("GET", namespace, "service", name, "events").body["items"]:
        if event["time"] > told:
            show(f"{event['time'][11:23]}  {event['kind']}  {event['reason']}")
            told = event["time"]
    return told
