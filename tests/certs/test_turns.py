"""Whose turn it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from certs.turns import Turns


def taken(turns: Turns) -> str | None:
    found = turns.take()
    assert found is None or found[1].endswith("." + found[0])
    return None if found is None else found[1]


def test_namespaces_take_turns() -> None:
    turns = Turns(10, 10)
    for number in range(5):
        turns.put("flood", f"{number}.flood")
    turns.put("acme", "a.acme")
    turns.put("flood", "0.flood")
    assert [taken(turns) for _ in range(4)] == ["0.flood", "a.acme", "1.flood", "2.flood"]


def test_a_share_and_no_more() -> None:
    turns = Turns(3, 2)
    for number in range(5):
        turns.put("flood", f"{number}.flood")
    assert [taken(turns), taken(turns), taken(turns)] == ["0.flood", "1.flood", None]
    turns.put("acme", "a.acme")
    turns.put("acme", "b.acme")
    assert [taken(turns), taken(turns)] == ["a.acme", None]
    turns.done("flood")
    assert taken(turns) == "2.flood"
    turns.done("flood")
    assert taken(turns) == "b.acme"
    turns.clear()
    turns.done("acme")
    assert taken(turns) is None


@given(st.lists(st.one_of(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), st.none(), st.sampled_from("abc"))))
def test_never_more_than_there_is_room_for(steps: list[object]) -> None:
    turns, running, waiting = Turns(4, 2), list[str](), set[str]()
    for step in steps:
        if isinstance(step, tuple):
            turns.put(step[0], f"{step[1]}.{step[0]}")
            waiting.add(f"{step[1]}.{step[0]}")
        elif step is None:
            name = taken(turns)
            if name is not None:
                waiting.remove(name)
                running.append(name[-1])
            else:
                assert len(running) == 4 or all(running.count(name[-1]) == 2 for name in waiting)
        elif step in running:
            running.remove(str(step))
            turns.done(str(step))
        assert len(running) <= 4
        assert all(running.count(namespace) <= 2 for namespace in "abc")
