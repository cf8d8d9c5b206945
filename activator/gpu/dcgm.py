"""A DCGM exporter as a source: its exposition over HTTP (https://docs.nvidia.com/datacenter/dcgm, `dcgm-exporter`).

What it says of a whole GPU is `DCGM_FI_DEV_GPU_UTIL`, in percent; where that is not collected, the ratio
`DCGM_FI_PROF_GR_ENGINE_ACTIVE`. Of a GPU that is cut into instances (MIG) the first is absent or always 0, so only the
ratio counts: the whole GPU's, or that of its instances, weighted by their compute slices (`3g.20gb` has three).

An exporter's values are as old as its interval of collection, 30 s by default (`-c`).
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from activator.gpu import NotMeasured, Utilizations

PERCENT: Final = "DCGM_FI_DEV_GPU_UTIL"
RATIO: Final = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
_TIMEOUT: Final = 3.0  # seconds for the whole answer
_BODY: Final = 4 << 20  # bytes of an answer; 16 GPUs with all their fields are 200 KB
_LINES: Final = 4096  # of those two metrics that are read
_STALE: Final = 90.0  # seconds after which a sample that has a time does not count: three intervals of collection
_ROUNDED: Final = 1.0  # percent that a ratio may be above 1, as counters of hardware are read one after the other
_SLICES: Final = re.compile(r"(\d)g\.")


@dataclass(frozen=True, slots=True)
class _Line:
    """One sample: percent of a GPU, or of an instance with so many `slices` of it (0 = the whole GPU)."""

    gpu: str
    uuid: str
    percent: float
    metric: str
    slices: int


def read_exposition(text: str, now: float) -> Utilizations:
    """How busy the GPUs are, by number and UUID. `now`: Unix seconds. Raises NotMeasured if it tells of none."""
    lines = [line for sample in _samples(text, now) if (line := _line(sample)) is not None]
    found: dict[str, float] = {}
    uuids: dict[str, set[str]] = {}
    for gpu in {(line.gpu, line.uuid): None for line in lines}:
        percent = _of_gpu([line for line in lines if (line.gpu, line.uuid) == gpu])
        if percent is not None:
            number, uuid = gpu
            uuids.setdefault(number, set()).add(uuid)
            found |= {name: percent for name in gpu if name}
    if not found:
        raise NotMeasured(f"it tells neither {PERCENT} nor {RATIO} of any GPU: are they in its list of fields?")
    # one number for GPUs of several nodes says of none which it is
    return {name: percent for name, percent in found.items() if len(uuids.get(name, ())) < 2}


def _samples(text: str, now: float) -> Iterator[Sample]:
    """Those of the two metrics that can be read and are not of long ago, `_LINES` at most."""
    wanted = (line for line in text.splitlines() if line.startswith((PERCENT, RATIO)))
    for _, line in zip(range(_LINES), wanted, strict=False):
        try:
            for family in text_string_to_metric_families(line + "\n"):
                yield from (s for s in family.samples if s.timestamp is None or now - float(s.timestamp) < _STALE)
        except (ValueError, KeyError, IndexError):  # one that can't be read was not measured
            continue


def _line(sample: Sample) -> _Line | None:
    """None: of another metric, of no GPU, or no measurement: NaN, and the huge numbers that are DCGM's blanks."""
    scale = {PERCENT: 1.0, RATIO: 100.0}.get(sample.name)
    labels = sample.labels
    gpu, uuid = labels.get("gpu", ""), labels.get("UUID", "")
    if scale is None or not (gpu or uuid):
        return None
    percent = sample.value * scale
    if not math.isfinite(percent) or not 0 <= percent <= 100 + _ROUNDED:
        return None
    slices = _SLICES.match(labels.get("GPU_I_PROFILE", ""))
    instance = bool(labels.get("GPU_I_ID"))
    return _Line(gpu, uuid, min(percent, 100.0), sample.name, (int(slices[1]) if slices else 1) if instance else 0)


def _of_gpu(lines: Iterable[_Line]) -> float | None:
    """All lines are of one GPU. It has several of a kind where containers share it: they say the same."""
    whole: dict[str, float] = {}
    active = slices = 0.0
    cut = False
    for line in lines:
        if not line.slices:
            whole[line.metric] = line.percent
            continue
        cut = True
        if line.metric == RATIO:
            active += line.percent * line.slices
            slices += line.slices
    if not cut:
        return whole.get(PERCENT, whole.get(RATIO))
    return whole.get(RATIO, active / slices if slices else None)


class DcgmExporter:
    """One exporter, by the URL of its metrics."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        return self._url

    async def read(self) -> Utilizations:
        """Raises NotMeasured."""
        try:
            body = await self._fetch()
        except TimeoutError:
            raise NotMeasured(f"it did not answer in {_TIMEOUT:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise NotMeasured(f"it can't be read: {str(error) or type(error).__name__}") from error
        return await asyncio.to_thread(read_exposition, body.decode(errors="replace"), time.time())

    async def _fetch(self) -> bytes:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
            headers = {"Accept": "text/plain; version=0.0.4", "Accept-Encoding": "identity"}
            self._session = aiohttp.ClientSession(timeout=timeout, headers=headers, auto_decompress=False)
        async with self._session.get(self._url, allow_redirects=False) as answer:
            if answer.status != 200:
                raise NotMeasured(f"it answers {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_chunked(1 << 16):
                body += chunk
                if len(body) > _BODY:
                    raise NotMeasured(f"it answers more than {_BODY >> 20} MiB")
        return bytes(body)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
