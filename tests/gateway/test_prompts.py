"""The beginning of a prompt: what it is, that a conversation's next request has it, too, and how much is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.messages import Request
from gateway.prompts import BOUND, Incomplete, asks, key

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
HELLO = {"role": "user", "content": "hello"}
REPLY = {"role": "assistant", "content": 'hi, "you" {[\\'}
MORE = {"content": [{"type": "text", "text": "and?", "role": "user"}], "role": "user"}


def body(**members: Any) -> bytes:
    return json.dumps(members).encode()


def of(*messages: dict[str, Any], **more: Any) -> int:
    return key(body(model="m", **more, messages=list(messages)), True)


def test_a_conversation_keeps_its_key_and_others_have_theirs() -> None:
    first = of(SYSTEM, HELLO)
    assert first == of(SYSTEM, HELLO, REPLY, MORE) == of(SYSTEM, HELLO, stream=True)
    assert len({first, of(SYSTEM, MORE), of(HELLO), of({**SYSTEM, "content": "Be terse."}, HELLO)}) == 4


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (body(prompt="Once", max_tokens=3), body(prompt="Once", max_tokens=4), True),
        (body(prompt="Once"), body(prompt="Twice"), False),
        (body(prompt=["Once", "x"]), body(prompt=["Once", "y"]), True),
        (body(prompt=[1, 2, 3]), body(prompt=[1, 2, 4]), False),
        (body(prompt=[[1, 2], [3]]), body(prompt=[[1, 2], [4]]), True),
        (body(input="a", instructions="b"), body(input="a", instructions="c"), True),
        (body(input=[HELLO]), body(input=[HELLO, REPLY]), True),
        (body(tools=[{"prompt": "x"}], messages=[HELLO]), body(tools=[{"messages": []}], messages=[HELLO]), True),
        (body(messages=[REPLY]), body(messages=[SYSTEM]), False),
    ],
)
def test_what_the_beginning_is(one: bytes, other: bytes, same: bool) -> None:
    assert key(one, True)
    assert (key(one, True) == key(other, True)) == same


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"model":"m"}', b'{"model":{"prompt":"x"}}', b"\x1f\x8b\x08gz", b'"prompt"', b"{1:2}"]
)
def test_none(data: bytes) -> None:
    assert key(data, True) == 0


def test_it_is_known_as_soon_as_it_has_come_and_not_before() -> None:
    data = body(model="m", messages=[SYSTEM, HELLO, REPLY], stream=True)
    whole = key(data, True)
    known = data.index(b"hello") + len(b'hello"}')
    for size in range(known):
        with pytest.raises(Incomplete):
            key(data[:size], False)
    for size in range(known, len(data) + 1):
        assert key(data[:size], False) == whole


def test_of_a_long_one_so_much_counts_and_no_more_is_waited_for() -> None:
    long = "x" * 200_000
    data, other = body(prompt=long), body(prompt=long + "y")
    assert key(data, True) == key(other, True) == key(data[: 33 * 1024], False)
    with pytest.raises(Incomplete):
        key(data[: 32 * 1024], False)
    behind = body(tools=[long], prompt="here")
    assert key(behind, True) == key(behind[:BOUND], False) == 0


@pytest.mark.parametrize("inside", [b"[", b"1,", b"{", b'{"a":'])
def test_what_is_made_of_many_tokens_is_looked_at_no_further(inside: bytes) -> None:
    body = b'{"messages":[' + inside * 4500
    far = key(body, False)
    assert far == key(body + b'{"role":"user"}', True) != 0
    assert key(b'{"tools":[' + inside * 4500 + b']],"prompt":"x"}', True) == 0


TEXTS = st.text(max_size=30)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "assistant", "tool"]), "content": TEXTS}), max_size=3
)


@given(MESSAGES, TEXTS, MESSAGES, st.dictionaries(st.sampled_from(["model", "stop", "n"]), TEXTS | st.integers()))
def test_what_follows_the_first_message_of_the_user_makes_no_difference(
    before: list[dict[str, str]], said: str, behind: list[dict[str, str]], others: dict[str, Any]
) -> None:
    user = {"role": "user", "content": said}
    short = key(body(**others, messages=[*before, user]), True)
    assert short == key(body(**others, messages=[*before, user, *behind]), True)
    assert short != key(body(**others, messages=[*before, {**user, "content": said + "!"}]), True)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_have_a_key_or_none_or_need_more(data: bytes, whole: bool) -> None:
    try:
        assert 0 <= key(data, whole) < 1 << 64
    except Incomplete:
        assert not whole


@pytest.mark.parametrize(
    ("target", "kind", "method", "length", "prompt"),
    [
        (b"/v1/chat/completions", b"Content-Type: application/json", b"POST", 5, True),
        (b"/v1/completions?x=y", b"content-type:application/json; charset=utf-8", b"POST", -1, True),
        (b"/openai/v1/responses", b"Content-Type: application/json", b"POST", 5, True),
        (b"/v1/messages", b"Content-Type: application/json", b"POST", 5, True),
        (b"/api/chat", b"Content-Type: application/json", b"POST", 5, True),
        (b"/v1/chat/completions", b"Content-Type: text/plain", b"POST", 5, False),
        (b"/v1/chat/completions", b"X-Content-Type: application/json", b"POST", 5, False),
        (b"/v1/chat/completions", b"Content-Type: application/json", b"GET", 0, False),
        (b"/v1/chat/completions", b"Content-Type: application/json", b"POST", 0, False),
        (b"/v1/models", b"Content-Type: application/json", b"POST", 5, False),
        (b"/v1/messages/count", b"Content-Type: application/json", b"POST", 5, False),
    ],
)
def test_which_requests_have_one(target: bytes, kind: bytes, method: bytes, length: int, prompt: bool) -> None:
    request = Request(method, target, False)
    request.lines = [b"A: b", kind]
    request.length = length
    assert asks(request) == prompt
    request.expects_continue = True
    assert not asks(request)
