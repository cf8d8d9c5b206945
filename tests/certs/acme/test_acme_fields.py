"""JSON from a server that may be anyone's: what is read, and that nothing but BadAnswer comes of the rest."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from certs.acme.account import account
from certs.acme.authorization import authorization
from certs.acme.challenge import challenge
from certs.acme.directory import directory
from certs.acme.errors import AcmeError, BadAnswer
from certs.acme.fields import TEXT, Fields, is_url, moment, parse, printable
from certs.acme.order import order
from certs.acme.problem import BLANK, of, problem
from certs.acme.renewal_info import renewal_info

URL = "https://ca.test/x"
DIRECTORY = {"newNonce": URL, "newAccount": URL, "newOrder": URL}
ORDER = {
    "status": "pending",
    "identifiers": [{"type": "dns", "value": "A.test"}],
    "authorizations": [URL],
    "finalize": URL,
    "expires": "2026-01-01T00:00:00Z",
}
CHALLENGE = {"type": "http-01", "url": URL, "token": "abc", "status": "pending"}
AUTHORIZATION = {"status": "pending", "identifier": {"type": "dns", "value": "a.test"}, "challenges": [CHALLENGE]}
WINDOW = {"suggestedWindow": {"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"}}
READERS = (
    (DIRECTORY, directory),
    ({"status": "valid"}, lambda fields: account(URL, fields)),
    (ORDER, lambda fields: order(URL, fields, None)),
    (AUTHORIZATION, lambda fields: authorization(URL, fields, None)),
    (CHALLENGE, challenge),
    (WINDOW, lambda fields: renewal_info(fields, None)),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([URL, "dns", "valid", "http-01"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def fields(values: dict[str, object], *, secure: bool = True) -> Fields:
    return Fields(values, "it", secure=secure)


@pytest.mark.parametrize(("good", "read"), READERS)
def test_what_is_good_is_read(good, read):
    read(fields(good))


@pytest.mark.parametrize(("good", "read"), READERS)
@settings(max_examples=40)
@given(data=st.data())
def test_whatever_is_put_in_its_place_is_read_or_a_bad_answer(good, read, data):
    changed = dict(good)
    for name in data.draw(st.sets(st.sampled_from(sorted(good)), min_size=1)):
        changed[name] = data.draw(JSON)
    changed |= data.draw(
        st.dictionaries(st.sampled_from(["error", "meta", "wildcard", "certificate", "revokeCert"]), JSON)
    )
    try:
        read(fields(changed))
    except BadAnswer as error:
        assert str(error).isprintable()  # noqa: PT017


@given(JSON)
def test_a_problem_is_read_whatever_it_is(value):
    found = problem(json.dumps(value).encode(), 500, None, secure=True)
    assert found.status == 500
    assert str(found).isprintable()
    assert found.type


@given(st.dictionaries(st.sampled_from(["type", "detail", "title", "status", "instance", "subproblems"]), JSON))
def test_the_members_of_a_problem_may_be_anything(values):
    found = of(fields(values))
    assert found.status == 0 or 100 <= found.status < 600
    assert str(found).isprintable()


def test_a_problem_of_another_registry_keeps_its_type():
    assert of(fields({"type": "https://ca.test/errors/odd", "title": "odd"})).type == "https://ca.test/errors/odd"
    assert of(fields({"title": "odd"})).type == BLANK
    assert of(fields({"title": "odd"})).detail == "odd"
    assert str(of(fields({"type": "urn:ietf:params:acme:error:dns"}))) == "dns"


def test_subproblems_are_bounded():
    assert len(of(fields({"subproblems": [{"type": "x"}] * 1000})).subproblems) == 100


@given(st.binary())
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"1" * 10_000)
@example(b'"\\ud800"')
@example(b"\xef\xbb\xbf{}")
def test_bytes_are_json_or_a_value_error(body):
    try:
        parse(body)
    except ValueError:
        return
    json.loads(body)


@pytest.mark.parametrize("body", [b"NaN", b"[Infinity]", b'{"a":1,"a":2}', b"{} {}", b"", b"{'a':1}", b"\xff", b"01"])
def test_what_is_nearly_json(body):
    with pytest.raises(ValueError):
        parse(body)


@pytest.mark.parametrize("value", [None, [], "x", 1, True])
def test_an_answer_is_an_object(value):
    with pytest.raises(BadAnswer, match="not a JSON object"):
        Fields.of(value, "it", secure=True)


def test_texts_are_bounded_and_printable():
    assert fields({"a": "x" * 5000}).text("a") == "x" * TEXT
    assert fields({"a": "one\r\ntwo\x1b[31m\u202e"}).text("a") == "one  two [31m "
    assert printable("\ud800") == " "


@pytest.mark.parametrize(
    "url",
    [
        "https://ca.test",
        "https://ca.test/",
        "https://ca.test:14000/a/b?c=d%20e&f",
        "https://[::1]:443/x",
        "https://127.0.0.1/x",
        "https://acme_v2.ca.test/a~b/(c)/;d=@e",
    ],
)
def test_urls(url):
    assert is_url(url, secure=True)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ca.test",
        "//ca.test/",
        "/x",
        "ftp://ca.test/",
        "HTTPS://ca.test/",
        "https:///x",
        "https://user@ca.test/",
        "https://user:pass@ca.test/",
        "https://ca.test/#x",
        "https://ca.test/a b",
        "https://ca.test/\n",
        "https://ca.test/\r\nHost: x",
        "https://ca.test/ä",
        "https://cä.test/",
        "https://ca.test:99999/",
        "https://ca.test:x/",
        "https://ca..test/",
        "https://-ca.test/",
        "https://[::1/",
        "https://[zz]/",
        "https://ca.test\\@evil.test/",
        "https://" + "a" * 64 + ".test/",
        "https://ca.test/" + "x" * 2048,
    ],
)
def test_no_urls(url):
    assert not is_url(url, secure=True)


def test_plain_http_is_for_a_directory_that_is_plain_http():
    assert is_url("http://127.0.0.1/x", secure=False)
    assert is_url("https://127.0.0.1/x", secure=False)
    assert not is_url("http://127.0.0.1/x", secure=True)
    assert fields({"a": "http://ca.test/"}, secure=False).url("a") == "http://ca.test/"
    with pytest.raises(BadAnswer, match="https"):
        fields({"a": "http://ca.test/"}).url("a")


@given(st.text())
def test_whatever_is_a_url_is_printable_ascii(text):
    if is_url("https://ca.test/" + text, secure=True):
        assert text.isascii()
        assert (text + "x").isprintable()


@given(st.datetimes(min_value=dt.datetime(1970, 1, 1), timezones=st.timezones().map(lambda _: dt.UTC)))
def test_moments_come_back(at):
    assert moment(at.isoformat()) == (at - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:01z", 1_000_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:00.1Z", 100_000),
        ("1970-01-01T00:00:00.123456789Z", 123_456),
        ("9999-12-31T23:59:59Z", 253402300799_000000),
    ],
)
def test_moments(text, expected):
    assert moment(text) == expected


@given(st.text(alphabet="0123456789-:TZ.+ t", max_size=30) | st.text())
@example("2025-02-30T00:00:00Z")
@example("2025-01-01T00:00:60Z")
@example("0001-01-01T00:00:00+23:59")
@example("9999-12-31T23:59:59-23:59")
@example("2025-01-01T00:00:00+24:00")
@example("٢٠٢٥-01-01T00:00:00Z")
def test_no_moments(text):
    try:
        moment(text)
    except ValueError:
        return
    assert text.isascii()


def test_an_order_in_full():
    found = order(URL, fields({**ORDER, "status": "valid", "certificate": URL}), 5.0)
    assert (found.names, found.expires, found.retry_after) == (("a.test",), 1767225600_000000, 5.0)
    assert (found.certificate, found.error) == (URL, None)


def test_a_directory_in_full():
    meta = {
        "termsOfService": "https://ca.test/tos",
        "website": "https://ca.test",
        "caaIdentities": ["CA.test", "other.test"],
        "externalAccountRequired": True,
        "profiles": {"classic": "90 days"},
    }
    found = directory(fields({**DIRECTORY, "renewalInfo": URL, "revokeCert": URL, "newAuthz": None, "meta": meta}))
    assert (found.renewal_info, found.revoke_certificate) == (URL, URL)
    assert found.meta.caa_identities == ("ca.test", "other.test")
    assert found.meta.external_account_required
    assert found.meta.profiles == {"classic": "90 days"}
    assert directory(fields(DIRECTORY)).meta.profiles == {}


def test_an_authorization_for_a_wildcard():
    """RFC 8555 7.1.4 has the name without its `*.`; some servers keep it."""
    for name in ("a.test", "*.a.test"):
        values = {**AUTHORIZATION, "identifier": {"type": "dns", "value": name}, "wildcard": True}
        found = authorization(URL, fields(values), None)
        assert (found.identifier, found.wildcard) == ("a.test", True)
    assert found.challenge("dns-01") is None


def test_every_error_is_an_acme_error():
    assert issubclass(BadAnswer, AcmeError)
    assert problem(b"", 503, 7.0, secure=True).retry_after == 7.0
