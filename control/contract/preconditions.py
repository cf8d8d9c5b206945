"""Conditional writes: ETag and If-Match (RFC 9110 sections 8.8.3 and 13.1.1)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import Final

from certs.due import UPLOADED
from control.contract.problem import Problem
from state.certificates import Certificate, Domain
from state.codec import encode
from state.models import Service

_TAGS: Final = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


def etag(service: Service) -> str:
    """A strong validator of what the owner configured; a deployment or a replica that comes and goes keeps it."""
    configured = replace(service, active=None, latest="", updated_at=0, queued=False, pushed=None, hooked_at=None)
    return f'"{hashlib.sha256(encode(configured)).hexdigest()[:20]}"'


def domain_etag(domain: Domain, certificate: Certificate | None) -> str:
    """A strong validator of what the owner configured of a domain; what was found out of it keeps it."""
    own = certificate is not None and certificate.namespace == domain.namespace and certificate.issuer == UPLOADED
    configured = (domain.namespace, domain.name, domain.service, str(domain.created_at), domain.redirect or "")
    told = "\0".join((*configured, certificate.chain if certificate is not None and own else ""))
    return f'"{hashlib.sha256(told.encode()).hexdigest()[:20]}"'


def check(if_match: str | None, tag: str, what: str = "service") -> None:
    """Compared strongly: a weak tag matches nothing. Raises Problem 412.

    What follows a `-` in a tag tells answers apart that show the same configuration at different moments.
    """
    if if_match is None or if_match.strip() == "*":
        return
    given = {tag.partition("-")[0] for weak, tag in _TAGS.findall(if_match) if not weak}
    if tag.strip('"') in given:
        return
    raise Problem(412, f"The {what} has changed: its ETag is another than that of If-Match.")
