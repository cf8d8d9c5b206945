"""One alarm a name, the earliest first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from state.alarms import Alarms


def test_the_latest_word_counts() -> None:
    alarms = Alarms()
    assert alarms.next() is None
    alarms.set("a", 5.0)
    alarms.set("b", 3.0)
    alarms.set("a", 1.0)
    assert alarms.next() == 1.0
    alarms.set("a", 4.0)
    assert alarms.due(3.5) == ["b"]
    alarms.set("a", None)
    assert alarms.next() is None
    assert len(alarms) == 0


words = st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 9).map(float)), max_size=200)


@given(words, st.integers(0, 9))
def test_as_a_plain_dictionary_would(said: list[tuple[str, float | None]], now: int) -> None:
    alarms, plain = Alarms(), dict[str, float]()
    for service, at in said:
        alarms.set(service, at)
        plain.pop(service, None)
        if at is not None:
            plain[service] = at
    assert alarms.next() == min(plain.values(), default=None)
    assert sorted(alarms.due(now)) == sorted(name for name, at in plain.items() if at <= now)
    assert len(alarms) == sum(at > now for at in plain.values())
