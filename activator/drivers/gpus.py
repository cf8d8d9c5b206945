"""The GPUs of a node by their numbers, and which of them a replica gets. Pure.

The kinds of `--gpus` are numbered through in the order that they are written in, as the node's driver shows them:
`T4=2,L4=1` is T4 0 and 1, L4 2. In that order (of the PCI bus) NVML and the DCGM exporter number them, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


def numbers(offer: Mapping[str, int], kind: str) -> Sequence[str]:
    """Of all GPUs of that kind."""
    first = 0
    for name, number in offer.items():
        if name == kind:
            return [str(device) for device in range(first, first + number)]
        first += number
    return ()


def free_gpus(offer: Mapping[str, int], kind: str, count: int, in_use: Collection[str]) -> Sequence[str] | None:
    """Numbers of `count` GPUs of that kind that nobody has; `None`: there are not so many."""
    free = [device for device in numbers(offer, kind) if device not in in_use]
    return free[:count] if len(free) >= count else None


def least_used(offer: Mapping[str, int], kind: str, count: int, uses: Mapping[str, int]) -> Sequence[str]:
    """Numbers of the `count` GPUs of that kind that the fewest replicas have; all of them, if there are not so many."""
    return sorted(sorted(numbers(offer, kind), key=lambda device: uses.get(device, 0))[:count], key=int)


def cuda_environment(devices: Sequence[str]) -> dict[str, str]:
    """What makes CUDA show these GPUs only. Its own order, the fastest first, is not that of the numbers."""
    if not devices:
        return {}
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(devices)}
