"""Which names certificates are wanted for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from certs.wanted import Platform, Wanted, of_domain, of_platform
from state.certificates import Certificate, Domain, Proof
from state.models import Route

HELD = Domain("acme", "www.acme.test", "s1", 0, proof=Proof.VERIFIED, held=True, pointing=True)
ROUTE = Route("s1", "acme", "api")


def test_a_domain_that_is_held_and_leads_here() -> None:
    assert of_domain(HELD, ROUTE) == Wanted(("www.acme.test",), "acme", "s1")


@pytest.mark.parametrize(
    ("domain", "route"),
    [
        (None, ROUTE),
        (HELD, None),
        (replace(HELD, held=False), ROUTE),
        (replace(HELD, pointing=False), ROUTE),
        (HELD, replace(ROUTE, namespace="evil")),
        (HELD, replace(ROUTE, deleted_at=1)),
    ],
)
def test_nothing_else_is_ordered_for(domain: Domain | None, route: Route | None) -> None:
    assert of_domain(domain, route) is None


@pytest.mark.parametrize(
    ("platform", "wanted"),
    [
        (Platform("apps.test"), []),
        (Platform("apps.test", "api.test"), [("api.test",)]),
        (Platform("apps.test", "api.apps.test"), [("api.apps.test",)]),
        (Platform("apps.test", None, wildcard=True), [("*.apps.test", "apps.test")]),
        (Platform("apps.test", "api.apps.test", wildcard=True), [("*.apps.test", "apps.test")]),
        (Platform("apps.test", "apps.test", wildcard=True), [("*.apps.test", "apps.test")]),
        (Platform("apps.test", "a.b.apps.test", wildcard=True), [("*.apps.test", "apps.test"), ("a.b.apps.test",)]),
        (Platform("apps.test", "api.test", wildcard=True), [("*.apps.test", "apps.test"), ("api.test",)]),
    ],
)
def test_the_names_of_the_platform(platform: Platform, wanted: list[tuple[str, ...]]) -> None:
    assert [one.names for one in of_platform(platform)] == wanted


def test_what_serves_a_name() -> None:
    wanted = Wanted(("*.apps.test", "apps.test"))
    certificate = Certificate(("apps.test", "*.apps.test"), "chain", "sealed", "ca", True, 10, 20)
    assert wanted.served_by(certificate, 19)
    assert wanted.served_by(certificate, 9), "the clock of the CA is ahead of ours"
    assert not wanted.served_by(certificate, 20)
    assert not wanted.served_by(None, 15)
    assert not wanted.served_by(replace(certificate, names=("apps.test",)), 15)
    assert not wanted.served_by(replace(certificate, namespace="acme"), 15)
    assert wanted.claim is None
    assert of_domain(HELD, ROUTE).claim == "acme/www.acme.test"  # type: ignore[union-attr] - it is there
