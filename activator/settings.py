"""What the control side of sleep and wake is configured with: one frozen object, seconds unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """The first group comes from the configuration, the second are laws of the design that tests may shorten."""

    node: str
    idle_timeout: float = 300.0
    drain_timeout: float = 30.0  # how long a draining replica may finish what is in flight
    tombstone_ttl: float = 90.0  # days
    stale_limit: float = 3600.0  # of a node that is out of reach (shared store only)
    node_grace: float = 30.0  # silence of a node until it is lost: what it runs is replaced
    builds_at_once: int = 2

    tick: float = 2.0
    stop_grace: float = 10.0  # between asking a replica to end and ending it
    probe_fast: float = 0.020
    probe_slow: float = 0.250  # while nobody is held
    probe_timeout: float = 5.0
    health_interval: float = 10.0
    guard_interval: float = 1.0  # how often it is looked whether replicas still have their ports
    stable_after: float = 60.0  # a replica ready for that long ends a row of failures
    activity_interval: float = 10.0  # how often the last activity is stored
    beat: float = 1.0  # how often a node says that it lives
    beat_patience: float = 5.0  # silence of a node until it is given nothing new
    gpu_interval: float = 2.0  # how often a node measures how busy its GPUs are
    gpu_patience: float = 10.0  # for how long a measurement counts
    gpu_window: float = 15.0  # over which it is averaged
