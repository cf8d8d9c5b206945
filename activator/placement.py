"""Which nodes can run a service, and which of them is given the next replica of it. Pure (law 5).

A node that is not heard at this moment is given nothing. Only one that was lost, which takes longer, counts as none
(`activator.nodes`): what it ran is placed anew, and what nobody else can run is told so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from state.models import Offer, Service


@dataclass(frozen=True, slots=True)
class Needs:
    """What a node must offer to run a service. `gpu_count` devices of the type `gpu`, which is `none` without any."""

    region: str
    gpu: str = "none"
    gpu_count: int = 1
    image: bool = False

    @classmethod
    def of(cls, service: Service) -> Needs:
        return cls(service.region, service.gpu, service.gpu_count or 1, service.run.image is not None)


@dataclass(frozen=True, slots=True)
class Lack:
    """What no node has, by the field that asks for it, and what there is instead."""

    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Fleet:
    """The nodes at one moment, as a leader knows them.

    `offers`: what the nodes of the store offer, also lost ones. `lost`: seconds for which each lost one was silent.
    `up`: those that may be given something now. `complete`: whoever is not in `up` has had time to be heard.
    `draining`, `evicting`: those that stop (`activator.attendance.Leave`).
    """

    offers: Mapping[str, Offer]
    up: frozenset[str]
    lost: Mapping[str, float]
    complete: bool = True
    draining: frozenset[str] = frozenset()
    evicting: frozenset[str] = frozenset()

    @property
    def live(self) -> dict[str, Offer]:
        """What those offer that are not lost."""
        return {node: offer for node, offer in self.offers.items() if node not in self.lost}

    def unfit(self, needs: Needs) -> str | None:
        """Why no live node can run it; None: one can, or nothing is known yet."""
        return unfit(needs, list(self.live.values())) if self.live else None

    def able(self, needs: Needs) -> frozenset[str]:
        """Those that may be given a replica of it now; one that drains only where no other can take it."""
        return self._fit(self.up, needs) or self._fit(self.draining, needs)

    def leaving(self, needs: Needs) -> frozenset[str]:
        """Those whose replicas of it are to go now: a node that drains keeps what no other can take."""
        return self.evicting | self.draining if self._fit(self.up, needs) else self.evicting

    def _fit(self, nodes: Collection[str], needs: Needs) -> frozenset[str]:
        return frozenset(node for node in nodes if node in self.offers and fits(needs, self.offers[node]))

    def choose(self, able: Collection[str], replicas: Mapping[str, int]) -> str | None:
        """The one with the fewest replicas of those; None: none, or another may be heard in a moment."""
        if not self.complete:
            return None
        return min(able, key=lambda node: (replicas.get(node, 0), node), default=None)


def fits(needs: Needs, offer: Offer) -> bool:
    return not lacking(needs, [offer])


def unfit(needs: Needs, offers: Sequence[Offer]) -> str | None:
    """Why none of these can run it, in a sentence for anybody; None: one can."""
    return "; ".join(lack.message for lack in lacking(needs, offers)) or None


def lacking(needs: Needs, offers: Sequence[Offer]) -> list[Lack]:
    """All that no node has of these. What each node has a part of is told with the part that the others lack."""
    found: list[Lack] = []
    where, left = "", [offer for offer in offers if offer.region == needs.region]
    if left:
        where = f" in {needs.region}" if len(left) < len(offers) else ""
    else:
        found.append(Lack("region", f"no node is in {needs.region}; regions here: {_regions(offers)}"))
        left = list(offers)
    able = [offer for offer in left if (offer.images if needs.image else offer.repos)]
    if not able:
        found.append(_no_source(needs, left, where))
        able = left
    if needs.gpu != "none" and all(offer.gpus.get(needs.gpu, 0) < needs.gpu_count for offer in able):
        wanted = f"{needs.gpu_count} x {needs.gpu}"
        found.append(Lack("gpu", f"no node{where} has {wanted}; GPUs {where.strip() or 'here'}: {_gpus(able)}"))
    return found


def _no_source(needs: Needs, offers: Iterable[Offer], where: str) -> Lack:
    drivers = _list({offer.driver for offer in offers})
    what, instead = ("images", "a repo") if needs.image else ("a repo", "images")
    return Lack("image" if needs.image else "repo", f"no node{where} runs {what}; the {drivers} driver runs {instead}")


def _regions(offers: Iterable[Offer]) -> str:
    return _list({offer.region for offer in offers})


def _gpus(offers: Iterable[Offer]) -> str:
    """The most that a single node has of each type."""
    most: dict[str, int] = {}
    for offer in offers:
        for name, count in offer.gpus.items():
            most[name] = max(count, most.get(name, 0))
    return _list({f"{count} x {name}" for name, count in most.items() if count > 0})


def _list(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
