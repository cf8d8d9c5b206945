"""Who is looked at next, and that a new leader's long list costs no more than its length."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from activator.agenda import Agenda


def taken(agenda: Agenda) -> list[str]:
    found = []
    while (service := agenda.take()) is not None:
        found.append(service)
        agenda.done(service)
    return found


def test_first_come_first_served() -> None:
    agenda = Agenda(2)
    agenda.put("cab")
    agenda.put("ad")
    assert taken(agenda) == ["c", "a", "b", "d"]
    assert agenda.idle


def test_the_urgent_go_first_and_starve_nobody() -> None:
    agenda = Agenda(10)
    agenda.put("abc")
    agenda.put("cuvwxyz", urgent=True)
    agenda.put("u")
    assert "".join(taken(agenda)) == "cuvawxybz"


def test_each_once_at_a_time_and_again_if_it_was_put_meanwhile() -> None:
    agenda = Agenda(2)
    agenda.put("abc")
    assert (agenda.take(), agenda.take(), agenda.take()) == ("a", "b", None)
    agenda.put("a", urgent=True)
    agenda.put("a")
    agenda.put("b")
    agenda.done("b")
    assert (agenda.take(), agenda.take()) == ("c", None)
    agenda.done("a")
    assert sorted(taken(agenda)) == ["a", "b"]
    agenda.done("c")
    assert agenda.idle


def test_a_cleared_one_still_waits_for_what_is_under_way() -> None:
    agenda = Agenda(1)
    agenda.put("ab")
    assert agenda.take() == "a"
    agenda.put("a")
    agenda.clear()
    assert (len(agenda), agenda.idle) == (0, False)
    agenda.put("a")
    assert agenda.take() is None
    agenda.done("a")
    assert taken(agenda) == ["a"]


def test_a_hundred_thousand() -> None:
    agenda = Agenda(32)
    services = [f"s{n}" for n in range(100_000)]
    began = time.process_time()
    agenda.put(services)
    agenda.put(services[-1:], urgent=True)
    found = taken(agenda)
    assert time.process_time() - began < 5
    assert found[0] == services[-1]
    assert found[1:] == services[:-1]


@given(st.lists(st.tuples(st.sampled_from("pudt"), st.sampled_from("abcde"))))
def test_nothing_is_lost_and_nothing_is_taken_twice(steps: list[tuple[str, str]]) -> None:
    agenda, under_way, wanted = Agenda(2), set(), set()
    for step, service in steps:
        if step in "pu":
            agenda.put(service, urgent=step == "u")
            wanted.add(service)
        elif step == "d" and service in under_way:
            agenda.done(service)
            under_way.discard(service)
        elif step == "t" and (found := agenda.take()) is not None:
            assert found not in under_way
            under_way.add(found)
            wanted.discard(found)
        assert len(under_way) <= 2
        assert len(agenda) == len(wanted)
    for service in under_way:
        agenda.done(service)
    assert set(taken(agenda)) == wanted
