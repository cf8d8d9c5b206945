"""What is due for a name, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.budget import DAY, DUPLICATES, HOUR, MINUTE
from certs.due import FAULTS, Ca, Due, Situation, Work, ca_of, due, look_again, room_at
from certs.renewal import renew_at, suggested_at
from certs.wanted import Wanted
from state.certificates import Certificate, Issuance, Window

NOW = 1_900_000_000 * 1_000_000
SECOND = 1_000_000
FIRST, SECOND_CA = Ca("https://ca.test/dir"), Ca("https://other.test/dir", ("kid", "key"))
CAS = (FIRST, SECOND_CA)
WANTED = Wanted(("www.acme.test",), "acme", "s1")
ISSUANCE = Issuance(WANTED.names, "acme")
SERVED = Certificate(
    WANTED.names, "chain", "sealed", FIRST.directory, True, NOW - 10 * DAY, NOW + 80 * DAY, namespace="acme"
)
ASKED = replace(ISSUANCE, window_of="id", window_at=NOW + HOUR)


def situation(
    issuance: Issuance = ASKED, certificate: Certificate | None = SERVED, *, asked: bool = False
) -> Situation:
    return Situation(WANTED, issuance, certificate, None if certificate is None else "id", asked)


def next_of(issuance: Issuance = ASKED, certificate: Certificate | None = SERVED, now: int = NOW) -> Due:
    return due(situation(issuance, certificate), CAS, now)


@pytest.mark.parametrize(
    "certificate",
    [
        None,
        replace(SERVED, not_after=NOW),
        replace(SERVED, namespace="evil"),
        replace(SERVED, names=("acme.test",)),
        replace(SERVED, issuer="internal", trusted=False),
        replace(SERVED, issuer="https://staging.test/dir", trusted=False),
        replace(SERVED, issuer="uploaded", not_after=NOW),
    ],
)
def test_an_order_is_due_without_a_certificate_that_counts(certificate: Certificate | None) -> None:
    assert next_of(ISSUANCE, certificate) == Due(0, Work.ORDER)
    waiting = replace(ISSUANCE, failures=1, retry_at=NOW + HOUR)
    assert next_of(waiting, certificate) == Due(NOW + HOUR, Work.ORDER)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_that_its_owner_chose_stays_whoever_signed_it(trusted: bool) -> None:
    chosen = replace(SERVED, issuer="uploaded", trusted=trusted, not_after=NOW + 30 * DAY)
    assert next_of(ISSUANCE, chosen).work is Work.WARN
    warned = replace(ISSUANCE, warned=NOW + 40 * DAY)
    ends = chosen.not_after - (DAY if trusted else 0)  # clients of a CA of his own may trust no other
    assert next_of(warned, chosen) == Due(ends, Work.ORDER)


def test_a_certificate_of_a_ca_that_is_asked_no_more_is_renewed_in_time() -> None:
    other = replace(SERVED, issuer="https://former.test/dir")
    assert next_of(ISSUANCE, other) == Due(renew_at(other), Work.ORDER, renewal=True)


def test_an_order_in_progress_goes_on() -> None:
    assert next_of(replace(ASKED, began_at=NOW - 1)) == Due(0, Work.ORDER, renewal=True)
    assert next_of(replace(ASKED, began_at=NOW - 1, retry_at=NOW + 5)).at == NOW + 5
    assert next_of(replace(ISSUANCE, began_at=NOW - 1), None) == Due(0, Work.ORDER)


def test_the_ca_is_asked_when_to_renew() -> None:
    assert next_of(ISSUANCE) == Due(0, Work.WINDOW)
    assert next_of(replace(ASKED, window_of="another")) == Due(0, Work.WINDOW)
    assert next_of() == Due(NOW + HOUR, Work.WINDOW)
    assert next_of(now=renew_at(SERVED)) == Due(renew_at(SERVED), Work.ORDER, renewal=True)


@given(st.text(max_size=10), st.integers(1, 70), st.integers(1, 5))
def test_renewal_lies_within_the_window(chain: str, start: int, length: int) -> None:
    certificate = replace(SERVED, chain=chain)
    window = Window(NOW + start * DAY, NOW + (start + length) * DAY)
    moment = suggested_at(certificate, window)
    assert window.start <= moment <= window.end
    found = next_of(replace(ASKED, window=window, window_at=NOW + 79 * DAY), certificate)
    assert found == Due(moment, Work.ORDER, renewal=True, early=moment < renew_at(certificate))


def test_a_window_that_is_over_means_now_and_of_another_certificate_nothing() -> None:
    over = replace(ASKED, window=Window(NOW - 2 * DAY, NOW - DAY))
    assert next_of(over).at <= NOW
    assert next_of(over).early
    assert next_of(replace(over, window_of="another")).work is Work.WINDOW


def test_a_ca_that_always_says_now_is_believed_three_times_a_day() -> None:
    over = replace(ASKED, window=Window(NOW - 2 * DAY, NOW - DAY), window_at=NOW + 2 * DAY)
    believed = replace(over, renewed=(NOW - 3 * HOUR, NOW - 2 * HOUR))
    assert next_of(believed).at <= NOW
    spent = replace(over, renewed=(NOW - 3 * HOUR, NOW - 2 * HOUR, NOW - HOUR))
    assert next_of(spent) == Due(NOW + 21 * HOUR, Work.ORDER, renewal=True, early=True)


@pytest.mark.parametrize("window", [Window(NOW + DAY, NOW + DAY), Window(NOW + DAY, NOW - DAY)])
def test_a_window_that_is_none(window: Window) -> None:
    assert suggested_at(SERVED, window) == renew_at(SERVED)


def test_no_window_lets_a_certificate_end() -> None:
    late = Window(SERVED.not_after + DAY, SERVED.not_after + 2 * DAY)
    assert suggested_at(SERVED, late) < SERVED.not_after - 7 * DAY


def test_what_is_forbidden_is_looked_at_hourly_or_when_its_owner_asks() -> None:
    failed_at = NOW - 10 * MINUTE
    forbidden = replace(ISSUANCE, failures=1, failed_at=failed_at, permanent=True, retry_at=failed_at + HOUR)
    assert due(situation(forbidden, None), CAS, NOW).at == failed_at + HOUR
    assert due(situation(forbidden, None, asked=True), CAS, NOW).at <= NOW
    just_now = replace(forbidden, failed_at=NOW, retry_at=NOW + HOUR)
    assert due(situation(just_now, None, asked=True), CAS, NOW).at == NOW + MINUTE
    limited = replace(forbidden, permanent=False)
    assert due(situation(limited, None, asked=True), CAS, NOW).at == failed_at + HOUR


def test_owners_are_warned_twice_and_the_last_day_is_ours() -> None:
    uploaded = replace(SERVED, issuer="uploaded", not_after=NOW + 20 * DAY)
    assert next_of(ISSUANCE, uploaded) == Due(NOW + 6 * DAY, Work.WARN)
    assert next_of(replace(ISSUANCE, warned=NOW + 7 * DAY), uploaded) == Due(NOW + 17 * DAY, Work.WARN)
    warned = replace(ISSUANCE, warned=NOW + 18 * DAY)
    assert next_of(warned, uploaded) == Due(NOW + 19 * DAY, Work.ORDER)
    failed = replace(warned, failures=1, retry_at=NOW + 19 * DAY + HOUR)
    assert next_of(failed, uploaded, NOW + 19 * DAY) == Due(NOW + 19 * DAY + HOUR, Work.ORDER)


@pytest.mark.parametrize("cas", [(), (replace(FIRST, trusted=False),)])
def test_what_clients_trust_serves_to_its_end_if_nobody_gives_better(cas: tuple[Ca, ...]) -> None:
    uploaded = replace(SERVED, issuer="uploaded", not_after=NOW + 20 * DAY)
    warned = replace(ISSUANCE, warned=NOW + 18 * DAY)
    assert due(situation(warned, uploaded), cas, NOW) == Due(NOW + 20 * DAY, Work.ORDER)


def test_the_other_ca_is_asked_after_faults_of_the_first_and_back_again() -> None:
    asked = [ca_of(replace(ISSUANCE, faults=faults), CAS, NOW) for faults in range(3 * FAULTS)]
    assert asked == [FIRST] * FAULTS + [SECOND_CA] * FAULTS + [FIRST] * FAULTS
    assert ca_of(replace(ISSUANCE, faults=7), (FIRST,), NOW) == FIRST


def test_a_ca_that_wants_to_be_left_alone_is_and_the_other_is_asked() -> None:
    waits = {FIRST.directory: NOW + HOUR}
    assert ca_of(replace(ISSUANCE, waits=waits), CAS, NOW) == SECOND_CA
    assert ca_of(replace(ISSUANCE, waits=waits), CAS, NOW + HOUR) == FIRST
    both = waits | {SECOND_CA.directory: NOW + MINUTE}
    assert ca_of(replace(ISSUANCE, waits=both), CAS, NOW) == SECOND_CA, "whose time comes first"


def test_orders_within_all_budgets() -> None:
    assert room_at(ISSUANCE, (), renewal=False, now=NOW) == NOW
    failing = replace(ISSUANCE, failed=(NOW - MINUTE,) * 4)
    assert room_at(failing, (), renewal=True, now=NOW) == NOW + HOUR - MINUTE
    again = replace(ISSUANCE, ordered=(NOW - DAY,) * DUPLICATES.most)
    assert room_at(again, (), renewal=False, now=NOW) == NOW + 6 * DAY
    assert room_at(again, (), renewal=True, now=NOW) == NOW
    many = (NOW - HOUR,) * 250
    assert room_at(ISSUANCE, many, renewal=False, now=NOW) == NOW + 2 * HOUR
    assert room_at(ISSUANCE, many, renewal=True, now=NOW) == NOW


@pytest.mark.parametrize(
    ("lifetime", "seconds", "pause"),
    [
        (90 * DAY, 6 * 3600, 6 * HOUR),
        (90 * DAY, 0, MINUTE),
        (90 * DAY, 1e9, DAY),
        (15 * SECOND, 3600, SECOND),
        (6 * DAY, 6 * 3600, 6 * HOUR),
    ],
)
def test_when_to_ask_again_when_to_renew(lifetime: int, seconds: float, pause: int) -> None:
    certificate = replace(SERVED, not_before=NOW, not_after=NOW + lifetime)
    assert look_again(certificate, seconds, NOW) == NOW + pause
