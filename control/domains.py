"""The syntax of a custom domain; whether it points here is verified elsewhere.

IDNA 2008 with the mapping of UTS 46, as browsers do; public suffixes by the Public Suffix List (both its divisions: a
private suffix such as a hosting provider's belongs to many tenants too).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Final

import idna
from publicsuffixlist import PublicSuffixList

_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LENGTH: Final = 253


class BadDomain(ValueError):
    """The text says why, for the one who typed it."""


@dataclass(frozen=True, slots=True)
class Platform:
    """The names that are ours: the platform domain with all below it, and the API's host."""

    domain: str
    api_host: str | None = None

    def owns(self, domain: str) -> bool:
        return domain in (self.domain, self.api_host) or domain.endswith("." + self.domain)


def custom_domain(text: str, platform: Platform) -> str:
    """The domain in A-labels, lower case, without the root's dot. Raises BadDomain."""
    domain = _a_labels(text)
    parts = domain.split(".")
    if len(domain) > _LENGTH or not all(_LABEL.fullmatch(part) for part in parts):
        raise BadDomain("must be a domain name such as www.example.com")
    if parts[-1].isdigit():
        raise BadDomain("must be a domain name, not an IP address")
    if len(parts) < 2:
        raise BadDomain("must have two labels or more, such as example.com")
    if platform.owns(domain):
        raise BadDomain("is a name of this platform; only domains of your own can be custom domains")
    if _suffixes().is_public(domain):
        raise BadDomain("is a public suffix, under which others register their names")
    return domain


def _a_labels(text: str) -> str:
    if "*" in text:
        raise BadDomain("must not be a wildcard")
    if ":" in text:
        raise BadDomain("must be a domain name, without a port and not an IP address")
    text = text.removesuffix(".")
    try:
        return idna.encode(text, uts46=True).decode().lower()
    except (idna.IDNAError, UnicodeError) as error:
        raise BadDomain("must be a domain name such as www.example.com") from error


@functools.cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()
