"""Renewal information (RFC 9773): when the server would like a certificate to be replaced."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509

from certs.acme.errors import AcmeError, BadAnswer
from certs.acme.fields import Fields
from certs.acme.jws import base64url


@dataclass(frozen=True, slots=True)
class RenewalInfo:
    """A window (`start`, `end`: microseconds since the epoch), and a page for people that says why, if there is one.

    `retry_after`: seconds after which to ask again (RFC 9773 4.3), None if the server did not say.
    """

    start: int
    end: int
    explanation: str | None
    retry_after: float | None


def renewal_info(fields: Fields, retry_after: float | None) -> RenewalInfo:
    """Raises BadAnswer, also for a window that ends before it starts (RFC 9773 4.2)."""
    window = fields.member("suggestedWindow")
    start, end = window.moment("start"), window.moment("end")
    if end <= start:
        raise BadAnswer("the suggested window ends before it starts")
    return RenewalInfo(start, end, fields.optional_text("explanationURL"), retry_after)


def certificate_id(leaf: x509.Certificate) -> str:
    """RFC 9773 4.1: its authority's key identifier and its serial number. Raises AcmeError if it lacks the former."""
    try:
        authority = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        authority = None
    if authority is None:
        raise AcmeError("the certificate does not say which key signed it")
    serial = leaf.serial_number
    return f"{base64url(authority)}.{base64url(serial.to_bytes(serial.bit_length() // 8 + 1))}"  # DER: a sign bit


def url(base: str, certificate: str) -> str:
    """RFC 9773 4.1: where to ask for the certificate with this identifier."""
    return f"{base.rstrip('/')}/{certificate}"
