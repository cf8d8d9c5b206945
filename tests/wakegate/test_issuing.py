"""The configuration in the words of the duties that look after domains and certificates."""

from __future__ import annotations

import pytest

from certs.due import Ca
from control.domains import Platform
from control.site import Site
from wakegate.config import Config, load
from wakegate.issuing import cas, platform, reach


def config(**options: str) -> Config:
    return load({name: [text] for name, text in options.items()}, {}).config


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, ("http-01", "tls-alpn-01")),
        ({"http": ":80", "https": ":443"}, ("http-01", "tls-alpn-01")),
        ({"http": ":80"}, ("http-01",)),
        ({"https": ":443"}, ("tls-alpn-01",)),
        ({"public_http": "80", "public_https": "443"}, ("http-01", "tls-alpn-01")),
        ({"http": ":80", "public_http": "8080"}, ("http-01", "tls-alpn-01")),
        ({"https": "off"}, ("http-01",)),
    ],
)
def test_how_a_ca_can_look_at_us(options: dict[str, str], kinds: tuple[str, ...]) -> None:
    assert reach(config(**options)) == kinds


def test_whom_to_ask() -> None:
    assert cas(config()) == ()
    assert cas(config(acme_directory="https://ca.test/dir", acme_eab="kid:key_")) == (
        Ca("https://ca.test/dir", ("kid", "key_")),
    )
    first, second = cas(config(acme_directory="letsencrypt-staging", acme_fallback="letsencrypt"))
    assert (first.trusted, second.trusted) == (False, True)
    assert first.directory.startswith("https://acme-staging")
    assert second.directory.endswith("/directory")


def test_the_names_of_the_platform() -> None:
    made = platform(config(domain="apps.test", api_host="api.test"))
    assert (made.domain, made.api_host, made.wildcard) == ("apps.test", "api.test", False)


def test_endpoints_are_told_as_https_from_the_moment_that_clients_trust_them() -> None:
    trusted: list[int] = []
    site = Site(Platform("apps.test"), 80, "us-east-1", https_port=lambda: (trusted or [None])[0])
    assert site.endpoint("a") == "http://a.apps.test"
    trusted.append(443)
    assert site.endpoint("a") == "https://a.apps.test"
    trusted[0] = 8443
    assert site.endpoint("a") == "https://a.apps.test:8443"
