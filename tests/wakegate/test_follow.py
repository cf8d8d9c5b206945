"""Following a stream: its lines as the standard reads them, and what happens when it breaks off."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_api import CUT, ScriptedApi, answer, chunks

from wakegate.client import Broken, Client, Failed
from wakegate.follow import Message, follow, messages


def read(text: str, last_id: str | None = None) -> list[Message]:
    return list(messages(text.encode().splitlines(keepends=True), last_id))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data: a\n\n", [Message("message", "a", None)]),
        ("id: 1\nevent: log\ndata: a\ndata:b\n\n", [Message("log", "a\nb", "1")]),
        (": heartbeat\n\n\ndata: a\n\n", [Message("message", "a", None)]),
        ("id: 1\r\ndata: a\r\n\r\ndata: b\r\n\r\n", [Message("message", "a", "1"), Message("message", "b", "1")]),
        ("id: 7\n\ndata: a\n\n", [Message("message", "a", "7")]),
        ("event: x\n\ndata:  a: b\n\n", [Message("message", " a: b", None)]),
        ("id: a\0b\ndata: a\nretry: 5\nelse: x\n\n", [Message("message", "a", None)]),
        ("data\n\n", [Message("message", "", None)]),
        ("data: cut\n", []),
        ("data: cut", []),
        ("data: a\n\ndata: c", [Message("message", "a", None)]),
    ],
)
def test_lines_become_messages(text, told):
    assert read(text) == told


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\n"), max_size=9)))
def test_what_is_sent_arrives(lines):
    text = "".join(f"id: {n}\ndata: {line}\n\n" for n, line in enumerate(lines)).encode()
    assert [m.data for m in messages(text.split(b"\n\n") and [x + b"\n" for x in text.split(b"\n")[:-1]])] == lines


def sent(*numbers: int) -> list[str]:
    return [f'id: {n}\ndata: {{"n":{n}}}\n\n' for n in numbers]


def test_a_stream_that_breaks_off_goes_on_where_it_was():
    script = [
        chunks(*sent(1, 2), "id: 3\ndata: cut", ended=False),
        CUT,
        answer(503, {"status": 503, "detail": "The store can't be reached"}, {"Retry-After": "1"}),
        chunks(": heartbeat\n\n", *sent(3)),
        chunks(*sent(4, 5)),
        answer(404, {"status": 404, "detail": "There is no service"}),
    ]
    notes: list[str] = []
    with ScriptedApi(script) as api:
        told = list(follow(Client(api.url, "k"), ("acme", "service", "web", "logs"), {"limit": 5}, notes.append))
    assert [message.data for message in told] == [f'{{"n":{n}}}' for n in (1, 2, 3, 4, 5)]
    assert [asked.headers.get("last-event-id") for asked in api.asked] == [None, "2", "2", "2", "3", "5"]
    assert {asked.target for asked in api.asked} == {"/acme/service/web/logs?limit=5&follow=true"}
    assert {asked.headers["accept"] for asked in api.asked} == {"text/event-stream"}
    assert len(notes) == 3
    assert "trying again" in notes[0]
    assert notes[1:] == ["connected again", "it was deleted"]


def test_the_end_and_gaps_are_told_and_not_taken_for_items():
    script = [
        chunks(
            'event: gap\ndata: {"reason": "older ones went"}\n\n',
            *sent(1),
            'event: end\ndata: {"reason": "deleted"}\n\n',
        )
    ]
    notes: list[str] = []
    with ScriptedApi(script) as api:
        assert [m.data for m in follow(Client(api.url, "k"), ("x",), {}, notes.append)] == ['{"n":1}']
    assert notes == ["older ones went", "deleted"]
    assert len(api.asked) == 1


@pytest.mark.parametrize("status", [401, 404, 400, 503])
def test_one_that_can_not_begin_fails(status):
    with ScriptedApi([answer(status, {"status": status, "detail": "no"})]) as api, pytest.raises(Failed, match="no"):
        next(follow(Client(api.url, "k"), ("x",), {}, print))


def test_an_api_that_is_not_there_fails():
    with pytest.raises(Broken):
        next(follow(Client("http://127.0.0.1:1", "k"), ("x",), {}, print))


def test_a_key_that_was_revoked_meanwhile_ends_it():
    script = [chunks(*sent(1)), answer(401, {"status": 401, "detail": "revoked"})]
    with ScriptedApi(script) as api:
        stream = follow(Client(api.url, "k"), ("x",), {}, print)
        assert next(stream).data == '{"n":1}'
        with pytest.raises(Failed, match="revoked"):
            next(stream)


def test_whoever_stops_listening_leaves_no_connection():
    with ScriptedApi([chunks(*sent(*range(1000)), ended=False)]) as api:
        stream = follow(Client(api.url, "k"), ("x",), {}, print)
        assert len(list(itertools.islice(stream, 3))) == 3
        stream.close()
    assert len(api.asked) == 1
