"""The configuration in the words of control's parts."""

from __future__ import annotations

from activator.drivers.process import ProcessDriver
from activator.settings import Settings
from control.domains import Platform
from control.site import Offer, Site
from wakegate.config import Config


def settings(config: Config, node: str) -> Settings:
    """What sleep and wake must know of this node."""
    return Settings(
        node=node,
        idle_timeout=config.idle_timeout,
        drain_timeout=config.drain_timeout,
        tombstone_ttl=config.tombstone_ttl,
        stale_limit=config.stale_limit,
    )


def site_of(config: Config, driver: ProcessDriver) -> Site:
    """What the API must know of it.

    Endpoints are told as https only if the operator says that clients come that way: nobody trusts the development CA.
    """
    return Site(
        platform=Platform(config.domain, config.api_host),
        http_port=config.public_http_port,
        https_port=config.public_https_port if config.https_redirect == "on" else None,
        offer=Offer(config.driver, frozenset({config.region}), _gpus(config.gpus)),
        region=config.region,
        idle_timeout=round(config.idle_timeout),
        hold_timeout=round(config.hold_timeout),
        limits=driver.limits,
        isolated=driver.isolated,
    )


def _gpus(text: str) -> dict[str, int]:
    """`T4=2,L4=1`. The process driver finds none by itself."""
    if text in ("auto", "none"):
        return {}
    return {name: int(count) for name, _, count in (part.partition("=") for part in text.split(","))}
