"""What a worker does with the slots that it owns, one decision at a time."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from activator.slots import ASK, CLEAR, RETRY, Account, View
from state.slots import MOST_WANTED, Answer, Hint, Message

READY = ("r1", "r2")


def view(
    held: int = 0, waited: float = 0.0, limit: int = 2, busy: Mapping[str, int] | None = None, **more: object
) -> View:
    given = {"version": 1, "ready": READY, "known": frozenset(READY)} | more
    return View(limit=limit, held=held, waited=waited, busy=busy or {}, **given)  # type: ignore[arg-type]


def owner(**own: int) -> Account:
    """Who has heard that it owns this, at 10.0."""
    account = Account()
    account.settle(view(), 10.0)
    account.waiting = True
    account.answered(Answer("run", own), 10.0)
    account._version = 1
    return account


def hint(own: Mapping[str, int], want: int = 0, waited: float = 0.0, seq: int = 6) -> Hint:
    return Hint("s", seq, own, want, int(waited * 1000))


def says(account: Account, seen: View, now: float = 10.0) -> Message:
    account.settle(seen, now)
    message = account.next(seen, 7, now)
    assert message is not None
    return message


def test_who_has_all_that_it_needs_says_nothing() -> None:
    account = owner(r1=1)
    assert account.next(view(busy={"r1": 1}), 1, 10.0) is None
    assert not account.lending
    assert account.again() is None


def test_a_want_is_told_at_once_and_again_after_a_while() -> None:
    account = owner()
    message = says(account, view(held=3, waited=0.25))
    assert (message.seq, message.want, message.waited, message.holds, message.ready) == (7, 3, 250, {}, READY)
    assert account.next(view(held=4), 8, 10.0) is None, "one at a time"
    account.answered(Answer("run", {}, want=3), 10.0)
    assert account.next(view(held=4), 8, 10.0 + ASK / 2) is None
    later = account.next(view(held=4), 8, 10.001 + ASK)
    assert later is not None
    assert later.want == 4


def test_a_want_is_bounded_and_no_slots_are_wanted_beside_idle_ones() -> None:
    assert says(owner(), view(held=5000)).want == MOST_WANTED
    account = owner(r1=2)
    assert account.next(view(held=2), 1, 10.0) is None
    assert says(account, view(held=2, shun=frozenset({"r1"}))).want == 2, "those can't be used"


def test_that_nothing_is_wanted_any_more_is_told_soon() -> None:
    account = owner()
    says(account, view(held=1))
    account.answered(Answer("run", {}, want=1), 10.0)
    assert account.next(view(), 8, 10.0 + CLEAR / 2) is None
    assert account.again() == 10.0 + CLEAR
    assert account.next(view(), 8, 10.001 + CLEAR) is not None


def test_idle_slots_go_to_who_waits_elsewhere_and_no_more_than_are_wanted() -> None:
    account = owner(r1=2, r2=1)
    account.hinted(hint({"r1": 2, "r2": 1}, 2, 0.1), 10.0)
    assert account.settle(view(busy={"r2": 1}), 10.0)
    assert account.owned == {"r2": 1}
    assert account.recalls == 2
    assert says(account, view(busy={"r2": 1})).holds == {"r2": 1}


@pytest.mark.parametrize(("foreign", "kept"), [(0.5, 1), (0.1, 2)])
def test_the_longest_waiting_goes_first_here_or_elsewhere(foreign: float, kept: int) -> None:
    account = owner(r1=2)
    account.hinted(hint({"r1": 2}, 5, foreign), 10.0)
    account.settle(view(held=9, waited=0.3), 10.0)
    assert account.owned == {"r1": kept}


def test_what_is_not_used_here_goes_first() -> None:
    account = owner(r1=1, r2=1)
    account.hinted(hint({"r1": 1, "r2": 1}, 1, 9.0), 10.0)
    account.settle(view(shun=frozenset({"r2"})), 10.0)
    assert account.owned == {"r1": 1}


def test_what_was_given_back_meanwhile_is_not_in_the_answer() -> None:
    account = owner(r1=2)
    says(account, view(held=3, busy={"r1": 2}))
    account.hinted(hint({"r1": 2}, 1, 5.0), 10.0)
    account.settle(view(busy={"r1": 1}), 10.0)
    assert account.owned == {"r1": 1}
    account.answered(Answer("run", {"r1": 2, "r2": 1}), 10.1)
    assert account.owned == {"r1": 1, "r2": 1}
    assert not account.said
    assert says(account, view(busy={"r1": 1})).holds == {"r1": 1, "r2": 1}


def test_after_a_message_without_an_answer_it_waits_a_moment_and_says_all_again() -> None:
    account = owner(r1=1)
    says(account, view(held=2, busy={"r1": 1}))
    account.failed(10.0)
    assert account.owned == {"r1": 1}, "the store is down: what is owned is used"
    assert account.next(view(held=2, busy={"r1": 1}), 8, 10.0) is None
    assert account.again() == 10.0 + RETRY
    again = account.next(view(held=2, busy={"r1": 1}), 8, 10.001 + RETRY)
    assert again is not None
    assert (again.holds, again.want) == ({"r1": 1}, 2)


def test_a_hint_that_says_otherwise_than_we_know_is_looked_into() -> None:
    account = owner(r1=1)
    account.hinted(hint({"r1": 1}), 10.0)
    assert account.next(view(), 1, 10.0) is None
    account.hinted(hint({"r1": 2}), 10.0)
    assert account.next(view(), 1, 10.0) is not None


def test_what_a_hint_gives_is_used_at_once_and_who_waits_now_is_told() -> None:
    account = owner(r1=1)
    says(account, view(held=3, busy={"r1": 1}))
    account.answered(Answer("run", {"r1": 1}, want=3), 10.0)
    account.hinted(hint({"r1": 1, "r2": 2}, seq=7), 10.0)
    assert account.owned == {"r1": 1, "r2": 2}
    seen = view(held=1, busy={"r1": 1, "r2": 2})
    message = account.next(seen, 8, 10.0)
    assert message is not None
    assert (message.holds, message.want) == ({"r1": 1, "r2": 2}, 1)


def test_a_hint_may_overtake_the_answer() -> None:
    account = owner(r1=1)
    says(account, view(held=3, busy={"r1": 1}))
    account.hinted(hint({"r1": 1, "r2": 1}, 1, 5.0, seq=7), 10.0)
    assert account.owned == {"r1": 1, "r2": 1}
    account.settle(view(held=0, busy={"r1": 1}), 10.0)
    assert account.owned == {"r1": 1}, "another waits for it, who has waited longer"
    account.answered(Answer("run", {"r1": 1, "r3": 1}), 10.0)
    assert account.owned == {"r1": 1, "r3": 1}


@pytest.mark.parametrize("seq", [6, 0])
def test_a_hint_about_an_earlier_message_gives_nothing(seq: int) -> None:
    account = owner(r1=1)
    says(account, view(held=3))
    account.hinted(hint({"r1": 1, "r2": 1}, seq=seq), 10.0)
    assert account.owned == {"r1": 1}


@pytest.mark.parametrize("why", ["forfeit", "distrust", "limit"])
def test_a_hint_gives_nothing_after_what_it_may_not_know_of(why: str) -> None:
    account = owner(r1=1)
    says(account, view(held=3))
    if why == "forfeit":
        account.forfeit({"r1": 1})
    elif why == "distrust":
        account.distrust()
    else:
        account.settle(view(limit=0), 10.0)
        account.settle(view(limit=2, busy={"r1": 1}), 10.0)
    account.hinted(hint({"r1": 1, "r2": 1}, seq=7), 10.0)
    assert account.owned == {"r1": 1}


def test_a_lower_limit_is_shed_as_requests_end() -> None:
    account = owner(r1=2)
    lower = view(limit=1, version=2, busy={"r1": 2})
    assert says(account, lower).holds == {"r1": 2}
    account.answered(Answer("run", {"r1": 2}, over={"r1": 2}), 10.0)
    assert account.lending
    account.settle(view(limit=1, version=2, busy={"r1": 1}), 10.0)
    assert account.owned == {"r1": 1}
    account.settle(view(limit=1, version=2), 10.0)
    assert account.owned == {}
    assert not account.lending


def test_slots_of_a_replica_that_left_are_given_back_when_its_requests_end() -> None:
    account = owner(r1=2)
    account.settle(view(known=frozenset({"r2"}), ready=("r2",), busy={"r1": 1}), 10.0)
    assert account.owned == {"r1": 1}
    assert account.lending
    account.settle(view(known=frozenset({"r2"}), ready=("r2",)), 10.0)
    assert account.owned == {}


def test_a_limit_that_is_set_counts_what_is_in_flight_and_one_that_is_taken_away_nothing() -> None:
    account = Account()
    account.settle(view(busy={"r1": 3}), 10.0)
    assert says(account, view(busy={"r1": 3})).holds == {"r1": 3}
    account.answered(Answer("run", {"r1": 3}), 10.0)
    account.settle(view(limit=0, busy={"r1": 3}), 10.0)
    assert account.owned == {}
    assert says(account, view(limit=0, busy={"r1": 3})).limit == 0


def test_who_ends_or_was_cut_off_keeps_what_is_in_flight() -> None:
    account = owner(r1=2, r2=1)
    account.leaving = True
    account.settle(view(busy={"r1": 1}), 10.0)
    assert account.owned == {"r1": 1}
    message = says(account, view(held=1, busy={"r1": 1}))
    assert (message.want, message.leaving) == (0, True)
    other = owner(r1=2, r2=1)
    other.forfeit({"r2": 1})
    assert other.owned == {"r2": 1}


def test_a_new_version_of_the_service_is_told_by_who_owns_something() -> None:
    assert owner().next(view(version=2), 1, 10.0) is None
    assert owner(r1=1).next(view(version=2), 1, 10.0) is not None


def test_who_is_cut_off_for_long_sends_nothing_new_but_at_home() -> None:
    account = owner(r1=2, r2=2)
    seen = view(busy={"r1": 1}, home=frozenset({"r2"}))
    account.fence()
    assert account.lending, "every request that ends is looked at"
    assert account.settle(seen, 30.0)
    assert account.owned == {"r1": 1, "r2": 2}
    assert account.settle(view(home=frozenset({"r2"})), 31.0), "what was in flight has ended"
    assert account.owned == {"r2": 2}
    account.hinted(hint({"r1": 2, "r2": 2}, seq=account._seq), 32.0)
    account.settle(view(home=frozenset({"r2"})), 32.0)
    assert account.owned == {"r2": 2}, "what was said before is of no use any more"
    message = says(account, view(held=1, shun=frozenset({"r2"}), home=frozenset({"r2"})), 33.0)
    assert (message.holds, message.home, message.want) == ({"r2": 2}, frozenset({"r2"}), 1)
    account.failed(33.0)
    assert account.fenced
    says(account, view(held=1), 34.0)
    account.answered(Answer("run", {"r1": 1, "r2": 2}), 34.1)
    assert not account.fenced
    assert not account.settle(view(), 34.1)
    assert account.owned == {"r1": 1, "r2": 2}


def test_who_only_heard_again_of_the_store_waits_for_its_answer() -> None:
    """Others may have the slot of the request that was in flight all the time."""
    account = owner(r1=1)
    account.fence()
    account.settle(view(limit=1, busy={"r1": 1}), 30.0)
    account.doubt()
    assert account.settle(view(limit=1, held=1), 31.0)
    assert account.owned == {}
