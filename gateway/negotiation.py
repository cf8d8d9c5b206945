"""What a client would rather have, by its `Accept` (RFC 9110 12.5.1). Pure."""

from __future__ import annotations

from gateway.fields import elements


def prefers_html(accept: bytes) -> bool:
    """RFC 9110 12.5.1, as far as it goes here: HTML is named with a greater weight than JSON."""
    if b"html" not in accept:
        return False
    page = weight(accept, (b"text/html", b"application/xhtml+xml"))
    return page > max(weight(accept, (b"application/json",)), 0.0)


def weight(accept: bytes, kinds: tuple[bytes, ...]) -> float:
    """The greatest weight (RFC 9110 12.4.2) that one of `kinds`, named as it is, has in `accept`; 0.0: none is."""
    best = 0.0
    for element in elements(accept):
        kind, _, parameters = element.partition(b";")
        if kind.strip() in kinds:
            _, found, weight = parameters.replace(b" ", b"").partition(b"q=")
            best = max(best, _number(weight) if found else 1.0)
    return best


def _number(text: bytes) -> float:
    try:
        return float(text[:5])
    except ValueError:
        return 0.0
