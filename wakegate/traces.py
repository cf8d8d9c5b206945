"""The export of traces, if the environment asks for it (OTEL_EXPORTER_OTLP_ENDPOINT) and the extra is installed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from gateway.telemetry import Telemetry, configured


def telemetry(
    environment: Mapping[str, str], instance: str, say: Callable[[str], None], *, first: bool
) -> Telemetry | None:
    """None: no export. `instance` names this worker; only the `first` of a node says what is wrong."""
    remark = say if first else _silence
    settings = configured(environment, remark)
    if settings is None:
        return None
    try:
        from gateway.otlp import OtlpExporter
    except ImportError as error:
        remark(f"no traces are exported: {error.name} is not installed: pip install 'wakegate[otel]'")
        return None
    try:
        exporter = OtlpExporter(instance)
    except Exception as error:  # whatever a library thinks of its variables, it is no reason not to serve
        remark(f"no traces are exported: {error}")
        return None
    loop = asyncio.get_running_loop()

    def say_soon(text: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(say, text)

    return Telemetry(settings, exporter, say_soon)


def _silence(text: str) -> None:
    """Somebody else says it."""
