"""What an engine says while it pulls or builds, as lines for the build log.

A pull tells its progress many times a second: a line comes when a layer's state changes, and at most every two seconds
while it only grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from activator.drivers.process.run import Lines

_PACE = 2.0  # seconds between lines that only say how far it is
_GROWING = ("Downloading", "Extracting")
_LAYERS = 1000  # whose state is remembered


class Progress:
    """`feed` it what the engine says; it answers with whole lines. `now` in seconds of any clock."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._states: dict[str, str] = {}
        self._next = 0.0
        self.digest: str | None = None

    def feed(self, said: Mapping[str, Any], now: float) -> list[str]:
        if "stream" in said:
            return self._lines.feed(str(said["stream"]).encode("utf-8", "replace"))
        if "status" not in said:
            return []
        status, layer = str(said["status"]), str(said.get("id") or "")
        if status.startswith("Digest: "):
            self.digest = status.removeprefix("Digest: ").strip()
        if not self._is_news(layer, status, now):
            return []
        amount = _amount(said.get("progressDetail") or {})
        return [": ".join(part for part in (layer, status) if part) + amount]

    def end(self) -> list[str]:
        """The rest of a last line."""
        return self._lines.end()

    def _is_news(self, layer: str, status: str, now: float) -> bool:
        if not layer:
            return True
        changed = self._states.get(layer) != status
        if changed and (layer in self._states or len(self._states) < _LAYERS):
            self._states[layer] = status
        if status not in _GROWING:
            return changed
        if now < self._next:
            return False
        self._next = now + _PACE
        return True


def _amount(detail: Mapping[str, Any]) -> str:
    current, total = detail.get("current"), detail.get("total")
    if not isinstance(current, int) or not isinstance(total, int) or total <= 0:
        return ""
    return f" {current / 1e6:.1f} of {total / 1e6:.1f} MB"
