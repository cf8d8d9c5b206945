"""What this installation can't run, each with what there is (SPEC section 2, Create: 422). Pure."""

from __future__ import annotations

from control.contract.problem import FieldError
from control.site import Offer
from state.models import Service


def lacking(
    offer: Offer, *, gpu: str = "none", gpu_count: int | None = None, region: str | None = None, image: bool = False
) -> list[FieldError]:
    """What no node here has of these."""
    errors = []
    if gpu != "none" and offer.gpus.get(gpu, 0) < (gpu_count or 1):
        have = ", ".join(f"{count} x {name}" for name, count in sorted(offer.gpus.items())) or "none"
        errors.append(FieldError("gpu", f"no node has {gpu_count or 1} x {gpu}; GPUs here: {have}"))
    if region is not None and region not in offer.regions:
        here = ", ".join(sorted(offer.regions))
        errors.append(FieldError("region", f"no node is in {region}; regions here: {here}"))
    if image and not offer.images:
        errors.append(FieldError("image", f"no node runs images; the {offer.driver} driver runs a repo"))
    return errors


def unfit(service: Service, offer: Offer) -> str | None:
    """Why what is here now can't run a service that it once could; None: it can."""
    found = lacking(
        offer,
        gpu=service.gpu,
        gpu_count=service.gpu_count,
        region=service.region,
        image=service.run.image is not None,
    )
    return "; ".join(error.message for error in found) or None
