"""The traces under each algorithm. Deterministic: the same seeds, the same outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from activator.signals import Spec, concurrency_per_replica
from simulate.knative import Config, Knative
from simulate.policies import Policy
from simulate.results import Row, row
from simulate.traces import Trace
from simulate.wakegate import Wakegate
from simulate.world import Outcome, Sample, World

DEFAULT_TARGET: Final = 100
AS_KNATIVE: Final = 90.0  # seconds of its stable window and its grace period together


def wakegate(trace: Trace) -> Policy:
    """As a service is without any `scaling`."""
    return Wakegate(spec_of(trace))


def hasty(trace: Trace) -> Policy:
    """As quick to let go as Knative is."""
    return Wakegate(replace(spec_of(trace), scale_down_delay=0.0, idle_timeout=AS_KNATIVE))


def knative(trace: Trace) -> Policy:
    return Knative(Config(trace.model.concurrency, trace.model.max_replicas))


def spec_of(trace: Trace) -> Spec:
    """A service without any `scaling`, but for the limit of the trace."""
    return Spec(
        min_replicas=0,
        max_replicas=trace.model.max_replicas,
        target_concurrency=concurrency_per_replica(DEFAULT_TARGET, trace.model.concurrency),
        scale_down_delay=60.0,
        idle_timeout=trace.idle_timeout,
    )


POLICIES: Final[Mapping[str, Callable[[Trace], Policy]]] = {
    "Wakegate": wakegate,
    "Wakegate, no delay": hasty,
    "Knative": knative,
}


@dataclass(frozen=True, slots=True)
class Run:
    """One algorithm on one trace, or on many services at once: their samples are summed up."""

    row: Row
    samples: tuple[Sample, ...]


def run(trace: Trace, *, sampled: bool = True) -> list[Run]:
    """Each algorithm on the same requests."""
    return [
        Run(row(name, [outcome]), tuple(outcome.samples))
        for name, make in POLICIES.items()
        for outcome in [play(trace, make(trace), sampled=sampled)]
    ]


def play(trace: Trace, policy: Policy, *, sampled: bool = True) -> Outcome:
    return World(trace.model, policy, trace.seconds, trace.seed, sampled=sampled).run(trace.requests())
