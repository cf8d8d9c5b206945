"""What this installation lacks, each with what there is."""

from __future__ import annotations

from dataclasses import replace

from control.services.placement import lacking, unfit
from control.site import Offer
from state.models import RunSpec, Scaling, Service

HERE = Offer("process", frozenset({"us-east-1", "eu-west-1"}), {"T4": 2, "L4": 1})
SERVICE = Service(
    id="s",
    namespace="acme",
    name="app",
    label="app-acme",
    run=RunSpec(repo="acme/app", branch="main"),
    gpu="L4",
    gpu_count=1,
    min_replicas=1,
    max_replicas=1,
    target_gpu_utilization=70,
    region="us-east-1",
    custom_domain=None,
    scaling=Scaling(),
    created_at=1,
    updated_at=1,
    latest="d",
)


def test_everything_that_is_missing_is_told_with_what_there_is() -> None:
    told = {error.field: error.message for error in lacking(HERE, gpu="T4", gpu_count=4, region="x", image=True)}
    assert told == {
        "gpu": "no node has 4 x T4; GPUs here: 1 x L4, 2 x T4",
        "region": "no node is in x; regions here: eu-west-1, us-east-1",
        "image": "no node runs images; the process driver runs a repo",
    }
    assert lacking(HERE, gpu="T4", gpu_count=2, region="eu-west-1") == []


def test_a_service_that_can_no_longer_run_here_has_a_reason() -> None:
    assert unfit(SERVICE, HERE) is None
    nothing = Offer("process", frozenset({"us-east-1"}))
    assert unfit(SERVICE, nothing) == "no node has 1 x L4; GPUs here: none"
    image = replace(SERVICE, gpu="none", gpu_count=None, run=RunSpec(image="acme/app"))
    assert unfit(image, nothing) == "no node runs images; the process driver runs a repo"
