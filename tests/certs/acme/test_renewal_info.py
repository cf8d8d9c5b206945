"""Renewal information: RFC 9773's own certificate and answer."""

from __future__ import annotations

import pytest
from acme.client import _renewal_info_path_component
from cryptography import x509

from certs.acme.errors import AcmeError, BadAnswer
from certs.acme.fields import Fields
from certs.acme.renewal_info import RenewalInfo, certificate_id, renewal_info, url
from certs.authority import make_leaf, make_root

APPENDIX_A = b"""\
-----BEGIN CERTIFICATE-----
MIIBQzCB66ADAgECAgUAh2VDITAKBggqhkjOPQQDAjAVMRMwEQYDVQQDEwpFeGFt
cGxlIENBMCIYDzAwMDEwMTAxMDAwMDAwWhgPMDAwMTAxMDEwMDAwMDBaMBYxFDAS
BgNVBAMTC2V4YW1wbGUuY29tMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEeBZu
7cbpAYNXZLbbh8rNIzuOoqOOtmxA1v7cRm//AwyMwWxyHz4zfwmBhcSrf47NUAFf
qzLQ2PPQxdTXREYEnKMjMCEwHwYDVR0jBBgwFoAUaYhba4dGQEHhs3uEe6CuLN4B
yNQwCgYIKoZIzj0EAwIDRwAwRAIge09+S5TZAlw5tgtiVvuERV6cT4mfutXIlwTb
+FYN/8oCIClDsqBklhB9KAelFiYt9+6FDj3z4KGVelYM5MdsO3pK
-----END CERTIFICATE-----
"""
IDENTIFIER = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"
WINDOW = {"start": "2025-01-02T04:00:00Z", "end": "2025-01-03T04:00:00Z"}
PAGE = "https://acme.example.com/docs/ari"


def fields(**values: object) -> Fields:
    return Fields(values, "the renewal information", secure=True)


def test_the_identifier_of_rfc_9773_4_1():
    assert certificate_id(x509.load_pem_x509_certificate(APPENDIX_A)) == IDENTIFIER


def test_where_rfc_9773_4_1_asks_for_it():
    expected = f"https://acme.example.com/renewal-info/{IDENTIFIER}"
    assert url("https://acme.example.com/renewal-info", IDENTIFIER) == expected
    assert url("https://acme.example.com/renewal-info/", IDENTIFIER) == expected


def test_certbots_library_has_the_same_identifiers():
    """Half of all serial numbers need the byte for the sign."""
    root = make_root(1_750_000_000_000_000)
    for _ in range(20):
        leaf = make_leaf(root, ["a.test"], 1_750_000_000_000_000)
        certificate = x509.load_pem_x509_certificate(leaf.certificate.encode())
        assert certificate_id(certificate) == _renewal_info_path_component(certificate)


def test_a_certificate_without_an_authority_has_none():
    root = x509.load_pem_x509_certificate(make_root(1_750_000_000_000_000).certificate.encode())
    with pytest.raises(AcmeError):
        certificate_id(root)


def test_the_answer_of_rfc_9773_4_2():
    found = renewal_info(fields(suggestedWindow=WINDOW, explanationURL=PAGE), 21600.0)
    assert found == RenewalInfo(1735790400_000000, 1735876800_000000, PAGE, 21600.0)
    assert renewal_info(fields(suggestedWindow=WINDOW), None).explanation is None


@pytest.mark.parametrize(
    "window",
    [
        None,
        [],
        {},
        {"start": WINDOW["start"]},
        {"start": WINDOW["end"], "end": WINDOW["start"]},
        {"start": WINDOW["start"], "end": WINDOW["start"]},
        {"start": "yesterday", "end": WINDOW["end"]},
        {"start": 0, "end": 1},
        {"start": "2025-01-02T04:00:00", "end": WINDOW["end"]},
    ],
)
def test_what_is_no_window(window):
    with pytest.raises(BadAnswer):
        renewal_info(fields(suggestedWindow=window), None)
