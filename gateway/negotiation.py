"""What a client would rather have, by its `Accept` (RFC 9110 12.5.1). Pure."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.fields import elements


def prefers_html(accept: bytes) -> bool:
    """RFC 9110 12.5.1, as far as it goes here: HTML is named with a greater weight than JSON."""
    if b"html" not in accept:
        return False
    page = weight(accept, (b"text/html", b"application/xhtml+xml"))
    return page > max(weight(accept, (b"application/json",)), 0.0)


def weight(accept: bytes, kinds: tuple[bytes, ...]) -> float:
    """The greatest weight (RFC 9110 12.4.2) that one of `kinds`, named as it is, has in `accept`; 0.0: none is."""
    return max((given for kind, given in _weights(accept) if kind in kinds), default=0.0)


def quality(accept: bytes, kind: bytes) -> float:
    """The weight that `kind` has by the range that fits it most closely: itself, its type, anything; 0.0: none does."""
    weights = dict(_weights(accept))
    for named in (kind, kind.partition(b"/")[0] + b"/*", b"*/*"):
        if named in weights:
            return weights[named]
    return 0.0


def _weights(accept: bytes) -> Iterator[tuple[bytes, float]]:
    """Of each range that is named."""
    for element in elements(accept):
        kind, _, parameters = element.partition(b";")
        _, found, given = parameters.replace(b" ", b"").partition(b"q=")
        yield kind.strip(), _number(given) if found else 1.0


def _number(text: bytes) -> float:
    try:
        return float(text[:5])
    except ValueError:
        return 0.0
