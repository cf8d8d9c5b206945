"""The configuration in the words of control's parts."""

from __future__ import annotations

from collections.abc import Callable

from activator.drivers import Driver
from activator.drivers.container import ContainerDriver
from activator.logs import LogLimits
from activator.settings import Settings
from control.domains import Platform
from control.site import Site
from state.models import Offer
from wakegate.config import Config
from wakegate.drivers import gpus_of


def settings(config: Config, node: str) -> Settings:
    """What sleep and wake must know of this node."""
    return Settings(
        node=node,
        idle_timeout=config.idle_timeout,
        drain_timeout=config.drain_timeout,
        tombstone_ttl=config.tombstone_ttl,
        stale_limit=config.stale_limit,
        builds_at_once=config.builds,
        node_grace=config.node_grace,
    )


def log_limits(config: Config) -> LogLimits:
    """What is kept of each service's log."""
    limits = LogLimits()
    segment = min(limits.segment, config.log_size // 8)
    return LogLimits(segment=segment, total=config.log_size, age=config.log_age * 86_400)


def site_of(config: Config, driver: Driver, trusted: Callable[[], bool]) -> Site:
    """What the API must know of it.

    Endpoints are told as https if the operator says that clients come that way, or once there is a certificate for
    them that clients trust: nobody trusts the development CA.
    """
    https = config.public_https_port
    return Site(
        platform=Platform(config.domain, config.api_host),
        http_port=config.public_http_port,
        https_port=lambda: https if config.https_redirect == "on" or trusted() else None,
        region=config.region,
        idle_timeout=round(config.idle_timeout),
        hold_timeout=round(config.hold_timeout),
        limits=driver.limits,
        isolated=driver.isolated,
        api=config.api_url,
        max_services=config.max_services,
    )


def offer_of(config: Config, driver: Driver) -> Offer:
    """What this node can run."""
    if isinstance(driver, ContainerDriver):
        return Offer(config.driver, config.region, driver.gpus, images=True)
    return Offer(config.driver, config.region, gpus_of(config.gpus))
