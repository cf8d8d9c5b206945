"""What the API must know of this installation: its names and its defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from control.domains import Platform

REGIONS = ("us-east-1", "us-west-2", "eu-west-1", "eu-central-1", "ap-northeast-1")
GPUS = ("A100-40GB", "A100-80GB", "H100-80GB", "L4", "T4", "none")


@dataclass(frozen=True, slots=True)
class Site:
    """The installation as its users see it. Timeouts in seconds; ports as clients see them.

    `max_services`: of a namespace; 0: any number.
    `api`: the URL under which the gateway serves the API; None: it doesn't.
    `https_port`: endpoints are told as https there, from now on; None: as http, as long as clients don't trust the
    certificates.
    """

    platform: Platform
    http_port: int | None
    region: str
    idle_timeout: int = 300
    hold_timeout: int = 120
    https_port: Callable[[], int | None] = lambda: None
    limits: Literal["enforced", "none"] = "none"
    isolated: bool = True
    api: str | None = None
    max_services: int = 0

    def located(self, path: str) -> str:
        """A path of the API as a reference for clients."""
        return (self.api or "") + path

    def host(self, label: str) -> str:
        """The host of a service by its label: the id of its route."""
        return f"{label}.{self.platform.domain}"

    def endpoint(self, label: str) -> str:
        scheme, port, usual = "http", self.http_port, 80
        if (secure := self.https_port()) is not None:
            scheme, port, usual = "https", secure, 443
        return f"{scheme}://{self.host(label)}" + ("" if port in (None, usual) else f":{port}")
