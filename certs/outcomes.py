"""What is stored of a name after an attempt to get a certificate for it. Pure (law 5); times are microseconds."""

from __future__ import annotations

from dataclasses import replace

from certs import backoff
from certs.budget import FAILED_VALIDATIONS
from certs.due import Ca, ca_of
from certs.setbacks import CAA_FORBIDDEN, Setback
from state.certificates import Certificate, Issuance


def done(issuance: Issuance) -> Issuance:
    """After success: nothing is left of the order, its failures are forgotten, its budgets are not."""
    return Issuance(
        names=issuance.names,
        namespace=issuance.namespace,
        directory=issuance.directory,
        challenge=issuance.challenge,
        ordered=issuance.ordered,
        failed=issuance.failed,
        renewed=issuance.renewed,
    )


def dropped(issuance: Issuance) -> Issuance:
    """Without the order in progress; its key is never used again."""
    return replace(issuance, order=None, key=None, began_at=None)


def unfailed(issuance: Issuance) -> Issuance:
    """Without the failed validation that the order in progress is taken for as long as its end is not known."""
    return replace(issuance, failed=tuple(moment for moment in issuance.failed if moment != issuance.began_at))


def failed(
    issuance: Issuance, setback: Setback, cas: tuple[Ca, ...], certificate: Certificate | None, now: int
) -> Issuance:
    """What is stored after a setback: when to go on, at which CA, and what its owner is told. Pure."""
    asked_of = issuance.directory if issuance.began_at is not None else ca_of(issuance, cas, now).directory
    waits = {directory: until for directory, until in issuance.waits.items() if until > now}
    if setback.fault and setback.asked is not None and asked_of is not None:
        waits[asked_of] = backoff.retry_at(issuance.names[0], 1, now, asked=setback.asked)
    after = replace(
        issuance,
        failures=issuance.failures + 1,
        failed_at=now,
        faults=issuance.faults + setback.fault,
        waits=waits,
        reason=setback.reason,
        detail=setback.detail,
        permanent=setback.permanent,
        failed=FAILED_VALIDATIONS.noted(issuance.failed, now) if setback.invalid else issuance.failed,
    )
    same = ca_of(after, cas, now).directory == asked_of
    if not (setback.keeps and same):
        after = dropped(after)
    return replace(after, retry_at=_retry_at(after, setback, certificate, now, same=same))


def _retry_at(issuance: Issuance, setback: Setback, certificate: Certificate | None, now: int, *, same: bool) -> int:
    """The Retry-After of a CA holds for itself alone."""
    name, failures = issuance.names[0], issuance.failures
    usual = backoff.retry_at(name, failures, now, certificate=certificate)
    if setback.permanent:
        return now + backoff.PERMANENT if setback.reason == CAA_FORBIDDEN else max(usual, now + backoff.PERMANENT)
    if setback.asked is not None and (same or not setback.fault):
        return backoff.retry_at(name, failures, now, asked=setback.asked)
    return usual
