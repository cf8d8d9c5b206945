"""The `ONBUILD` triggers of an image: what the engine does of itself when a build starts from it.

Docker tells them. Podman's API leaves them out (4.3: always null), so they are read where it keeps images
(containers/storage): the manifest of an image names its configuration, which lies beside it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from activator.drivers.files import read_regular

_LIMIT = 8 << 20  # bytes of a manifest, and of a configuration
_ID = re.compile(r"[0-9a-f]{64}")


class TriggersUnknown(Exception):
    """They can't be read; the text says what to do."""


def told(image: Mapping[str, Any]) -> Sequence[str]:
    """From Docker's description of an image."""
    return _triggers(image.get("Config"))


def stored(storage: Path | None, image: str) -> Sequence[str]:
    """Of the image with this id, in Podman's storage. Raises TriggersUnknown."""
    try:
        places = list(storage.glob(f"*-images/{image}")) if storage is not None and _ID.fullmatch(image) else []
        return next(_triggers(_described(place).get("config")) for place in places)
    except (StopIteration, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TriggersUnknown(
            f"what image {image[:12]} does when a build starts from it can't be read in the engine's files: "
            "let Wakegate run as the engine's own user"
        ) from error


def _described(place: Path) -> dict[str, Any]:
    digest = json.loads(read_regular(place / "manifest", _LIMIT) or b"")["config"]["digest"]
    name = "=" + base64.b64encode(str(digest).encode()).decode()
    described: dict[str, Any] = json.loads(read_regular(place / name, _LIMIT) or b"")
    return described


def _triggers(config: Any) -> Sequence[str]:
    found = (config or {}).get("OnBuild") or ()
    return [str(trigger) for trigger in found]
