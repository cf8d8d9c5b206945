"""Header fields of answers: Retry-After in all its forms, links, nonces."""

from __future__ import annotations

import datetime as dt
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from certs.acme.headers import LINKS, http_date, links, nonce, retry_after
from certs.acme.nonces import BOUND, Nonces

NOW = 784111777_000000  # Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110 5.6.7
BASE = "https://ca.test/cert/1"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60.0),
        ("Sun Nov  6 08:50:37 1994", 60.0),
        ("Sat, 05 Nov 1994 08:49:37 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:49:60 GMT", 22.0),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 25:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 CET", None),
        ("Sun, 06 Nov 0000 08:49:37 GMT", None),
        ("-1", None),
        ("1.5", None),
        ("1e9", None),
        ("", None),
        ("soon", None),
        ("9" * 10, None),
        ("٣", None),
    ],
)
def test_retry_after(value, seconds):
    assert retry_after(value, NOW) == seconds


def test_years_of_two_digits():
    """RFC 9110 5.6.7: one that is more than 50 years ahead is of the past."""
    now = int(dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp()) * 1_000_000
    years = {}
    for year in (26, 76, 77, 99):
        at = http_date(f"Sunday, 06-Nov-{year} 08:49:37 GMT", now)
        assert at is not None
        years[year] = dt.datetime.fromtimestamp(at // 1_000_000, dt.UTC).year
    assert years == {26: 2026, 76: 2076, 77: 1977, 99: 1999}


@given(st.datetimes(min_value=dt.datetime(1970, 1, 1), max_value=dt.datetime(9999, 1, 1)))
def test_every_date_comes_back(at):
    at = at.replace(microsecond=0, tzinfo=dt.UTC)
    assert http_date(format_datetime(at, usegmt=True), NOW) == int(at.timestamp()) * 1_000_000


@given(st.text() | st.text(alphabet="SunNov 0123456789:,-GMT"))
def test_whatever_it_says_is_seconds_or_nothing(value):
    found = retry_after(value, NOW)
    assert found is None or found >= 0


def test_links_are_found_whatever_stands_beside_them():
    value = (
        '<https://ca.test/dir>;rel="index", <https://ca.test/cert/1/1>;rel="alternate",'
        ' </cert/1/2> ; title="a, b; c" ; REL=alternate, <https://ca.test/up>; rel=up'
    )
    more = '<https://ca.test/cert/1/3>; rel="up Alternate"'
    found = links([value, more], "alternate", BASE, secure=True)
    assert found == ("https://ca.test/cert/1/1", "https://ca.test/cert/1/2", "https://ca.test/cert/1/3")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "https://ca.test/x; rel=alternate",
        "<http://ca.test/x>; rel=alternate",
        "<https://user@ca.test/x>; rel=alternate",
        "<javascript:alert(1)>; rel=alternate",
        "<https://[/>; rel=alternate",
        "<https://ca.test/x>",
        "<https://ca.test/x>; rel=",
        '<https://ca.test/x>; rel="alternate',
        "<https://ca.test/x>; rev=alternate",
        "<https://ca.test/x>; title=alternate",
        "<https://ca.test/x>; rel=index; rel=alternate",
    ],
)
def test_links_that_are_left_out(value):
    assert links([value], "alternate", BASE, secure=True) == ()


def test_links_are_bounded_and_each_is_there_once():
    many = ", ".join(f"<https://ca.test/{i}>; rel=alternate" for i in range(100))
    assert len(links([many], "alternate", BASE, secure=True)) == LINKS
    assert links([many.split(",")[0]] * 5, "alternate", BASE, secure=True) == ("https://ca.test/0",)


@given(st.text() | st.text(alphabet='<>;,="rel alternate/', max_size=200))
@example("<" * 8192)
@example("<x>;" * 2048)
@example("<x>" + ";a=b" * 2048)
@example("<x>" + "; " * 4096)
def test_whatever_a_link_is_it_is_read_in_time(value):
    for url in links([value], "alternate", BASE, secure=True):
        assert url.startswith("https://")


@pytest.mark.parametrize("value", ["abc", "q83v-_", "x" * 256])
def test_nonces(value):
    assert nonce(value) == value


@pytest.mark.parametrize("value", [None, "", "a b", "a+b", "a=", "x" * 257, "ä", "a\n"])
def test_no_nonces(value):
    assert nonce(value) is None


def test_the_pool_is_bounded_and_gives_each_nonce_once():
    pool = Nonces()
    for i in range(100):
        pool.add(str(i))
    assert (len(pool), repr(pool)) == (BOUND, f"Nonces({BOUND})")
    assert [pool.take() for _ in range(BOUND + 1)] == [str(i) for i in range(99, 99 - BOUND, -1)] + [None]
