"""HTTP-01: what certificate authorities are answered, whatever becomes of the host otherwise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import Conversation, Starter, fields, get, ok, statuses

from gateway.challenges import PATH, Challenges
from gateway.messages import Request
from state.certificates import Challenge, ChallengeAnswer
from state.models import Phase, Route

TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
AUTHORIZATION = f"{TOKEN}.nP1qzpXGymHBrUEepNY9HCsQk7K8KhOypzEt62jcerQ"
PLACE = PATH.decode() + TOKEN


def http01(token: str = TOKEN, key_authorization: str = AUTHORIZATION) -> Challenge:
    return Challenge((ChallengeAnswer("http-01", token, key_authorization),), 0)


async def asked(talk: Conversation, data: bytes) -> bytes:
    """The answer to one request on a connection of its own, which is ended by it."""
    client = await talk.client()
    await client.send(data)
    return await client.rest()


def last(path: str = PLACE, *more: str, host: str = "app.test", method: str = "GET") -> bytes:
    return get(path, "Connection: close", *more, host=host, method=method)


def proved(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    found = fields(head + b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n"), answer
    assert found[b"content-type"] == [b"application/octet-stream"]
    assert found[b"cache-control"] == [b"no-store"]
    assert found[b"proxy-status"] == [b'wakegate; details="an ACME challenge"']
    return body == AUTHORIZATION.encode()


@pytest.mark.parametrize("host", ["app.test", "APP.test", "app.test:8080", "app.test."])
async def test_a_host_without_a_route_is_answered(talk: Conversation, host: str) -> None:
    talk.edge.challenge("app.test", http01())
    assert proved(await asked(talk, last(host=host)))
    assert proved(await asked(talk, last(f"http://{host}{PLACE}", host="other.test")))


async def test_whatever_becomes_of_the_host(talk: Conversation) -> None:
    talk.edge.challenge("app.test", http01())
    talk.routes["app.test"] = Route("gone", "acme", "app", deleted_at=1)
    assert proved(await asked(talk, last()))
    talk.serve(phase=Phase.REFUSING, reason="it failed")
    assert proved(await asked(talk, last()))
    talk.edge.mark(True)
    assert proved(await asked(talk, last()))
    assert talk.woken == []


async def test_a_sleeping_service_is_not_woken_and_nothing_waits(talk: Conversation) -> None:
    talk.edge.challenge("app.test", http01())
    talk.serve()
    assert proved(await asked(talk, last()))
    assert talk.woken == []
    assert talk.held == 0
    assert talk.count() == {}


async def test_head_and_the_connection_goes_on(talk: Conversation) -> None:
    talk.edge.challenge("app.test", http01())
    client = await talk.client()
    await client.send(get(PLACE, method="HEAD"))
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert fields(head)[b"content-length"] == [b"%d" % len(AUTHORIZATION)]
    await client.send(last())
    assert proved(await client.rest())


async def test_a_body_is_not_waited_for(talk: Conversation) -> None:
    talk.edge.challenge("app.test", http01())
    assert proved(await asked(talk, get(PLACE, "Content-Length: 5")))


@pytest.mark.parametrize(
    "data",
    [
        get(PATH.decode() + "another"),
        get(PATH.decode()),
        get(PLACE + "?x"),
        get(PLACE + "/"),
        get("/x" + PLACE),
        get(PLACE, method="POST"),
        get(PLACE, method="DELETE"),
        get(PATH.decode() + "x" * 8000),
    ],
)
async def test_all_else_goes_on_to_the_tenant(talk: Conversation, data: bytes) -> None:
    """Who may run a client of his own."""
    talk.edge.challenge("app.test", http01())
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(data)
    peer = await origin.peer()
    assert (await peer.head()).startswith(data[: data.index(b" HTTP/1.1")])
    await peer.send(ok(b"ok"))
    assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_another_hosts_token_is_no_answer(talk: Conversation) -> None:
    talk.edge.challenge("app.test", http01())
    assert list(statuses(await asked(talk, last(host="other.test")))) == [404]
    assert list(statuses(await asked(talk, last(host="sub.app.test")))) == [404]


async def test_it_ends_with_the_record(talk: Conversation) -> None:
    talk.edge.challenge("app.test", http01())
    talk.edge.challenge("other.test", http01("second"))
    talk.edge.challenge("app.test", http01("third"))
    assert list(statuses(await asked(talk, last()))) == [404]
    talk.edge.challenge("app.test", None)
    assert list(statuses(await asked(talk, last(PATH.decode() + "third")))) == [404]
    talk.edge.challenge("other.test", None)
    assert not talk.edge._office.challenges.http


async def test_while_draining_too(conversation: Starter) -> None:
    talk = await conversation(drain_grace=5.0)
    talk.edge.challenge("app.test", http01())
    client = await talk.client()
    talk.edge.hurry()
    await client.send(get(PLACE))
    assert proved(await client.rest())


def test_several_answers_of_one_name() -> None:
    answers = (
        ChallengeAnswer("http-01", "a", "a.k"),
        ChallengeAnswer("http-01", "b", "b.k"),
        ChallengeAnswer("dns-01", "c", "c.k"),
        ChallengeAnswer("tls-alpn-01", "d", "d.k"),
    )
    challenges = Challenges()
    challenges.put("app.test", Challenge(answers, 0))
    found = {token: challenges.proof(request(token)) for token in "abcd"}
    assert found == {"a": b"a.k", "b": b"b.k", "c": None, "d": None}
    assert challenges.digest("app.test") is not None
    assert challenges.digest("other.test") is None


def request(token: str, host: bytes = b"app.test") -> Request:
    made = Request(b"GET", PATH + token.encode(), False)
    made.host = host
    return made


@given(st.lists(st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.sampled_from("xyz")))))
def test_nothing_is_left_of_what_is_gone(changes: list[tuple[str, str | None]]) -> None:
    challenges, now = Challenges(), dict[str, str | None]()
    for host, token in changes:
        answers = tuple(ChallengeAnswer(kind, token or "", f"{token}.k") for kind in ("http-01", "tls-alpn-01"))
        challenges.put(host, None if token is None else Challenge(answers, 0))
        now[host] = token
    under = {host: token for host, token in now.items() if token is not None}
    assert challenges.http == {host.encode(): {t.encode(): f"{t}.k".encode()} for host, t in under.items()}
    assert {host for host in "abc" if challenges.digest(host) is not None} == set(under)
