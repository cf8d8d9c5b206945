"""Session affinity: the cookie that a client gets, what the replica sees of it, and where it leads."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import Conversation, Origin, Peer, Starter, fields, get, lines, ok, until

from gateway.affinity import mark, take, token
from gateway.messages import Request, Response


def request(*cookie_lines: bytes) -> Request:
    made = Request(b"GET", b"/", False)
    made.lines = [b"A: b", *cookie_lines, b"C: d"]
    return made


def test_a_token_is_the_same_everywhere_and_tells_nothing() -> None:
    first = token("01hv-service", "01hv-replica")
    assert first == token("01hv-service", "01hv-replica")
    assert len({first, token("01hv-service", "another"), token("another", "01hv-replica")}) == 3
    assert len(first) == 24
    assert int(first, 16)


@pytest.mark.parametrize(
    ("came", "found", "left"),
    [
        ([], [], []),
        ([b"Cookie: a=b"], [], [b"Cookie: a=b"]),
        ([b"Cookie: wakegate_replica=x"], [b"x"], []),
        ([b"cookie: a=b; wakegate_replica=x; c=d"], [b"x"], [b"Cookie: a=b; c=d"]),
        ([b"Cookie:wakegate_replica=x;a=b"], [b"x"], [b"Cookie: a=b"]),
        ([b"Cookie: wakegate_replica=x", b"Cookie: wakegate_replica=y; a=b"], [b"x", b"y"], [b"Cookie: a=b"]),
        ([b'Cookie: wakegate_replica="x"'], [b"x"], []),
        ([b"Cookie: wakegate_replica"], [b""], []),
        ([b"Cookie: my_wakegate_replica=x; wakegate_replicas=y"], [], None),
        ([b"Cookie: a=wakegate_replica=x"], [], [b"Cookie: a=wakegate_replica=x"]),
        ([b"X-Cookie: wakegate_replica=x"], [], [b"X-Cookie: wakegate_replica=x"]),
    ],
)
def test_it_is_taken_out_and_others_stay(came: list[bytes], found: list[bytes], left: list[bytes] | None) -> None:
    made = request(*came)
    assert take(made) == found
    assert made.lines == [b"A: b", *(came if left is None else left), b"C: d"]


def test_secure_over_https_only() -> None:
    for secure in (False, True):
        response = Response(200, b"OK")
        mark(response, b"x", secure)
        cookie, cache = response.lines
        assert cookie.startswith(b"Set-Cookie: wakegate_replica=x; Path=/; HttpOnly; SameSite=Lax")
        assert cookie.endswith(b"; Secure") == secure
        assert cache == b"Cache-Control: private"


PAIRS = st.lists(
    st.one_of(
        st.sampled_from([b"wakegate_replica=1", b" wakegate_replica =2", b"wakegate_replica", b"", b" "]),
        st.from_regex(rb"[A-Za-z_]{1,8}=[!-:<-~]{0,8}", fullmatch=True),
    ),
    max_size=6,
)


@given(st.lists(PAIRS, max_size=3))
def test_no_cookie_of_that_name_is_passed_on_and_no_other_is_lost(came: list[list[bytes]]) -> None:
    made = request(*[b"Cookie: " + b";".join(pairs) for pairs in came])
    found = take(made)
    left = [pair.strip() for line in made.lines[1:-1] for pair in line.removeprefix(b"Cookie: ").split(b";")]
    everything = [pair.strip() for pairs in came for pair in pairs]
    ours = [pair for pair in everything if pair.partition(b"=")[0].strip() == b"wakegate_replica"]
    assert len(found) == len(ours)
    assert [pair for pair in left if pair] == [pair for pair in everything if pair and pair not in ours]


# In bytes.


async def ask(client: Peer, *more: str, path: str = "/") -> None:
    await client.send(get(path, *more))


async def three(talk: Conversation) -> list[Origin]:
    origins = [await talk.origin(f"r{at}") for at in range(3)]
    talk.serve(*[origin.endpoint() for origin in origins], affinity="cookie")
    return origins


async def answered_by(
    talk: Conversation, origins: list[Origin], *more: str, response: bytes = b""
) -> tuple[int, bytes]:
    """Which replica a request went to, and the head of the response that its client got."""
    before = [origin.connections for origin in origins]
    client = await talk.client()
    await client.send(get("/", *more))
    await until(lambda: [origin.connections for origin in origins] != before)
    (at,) = [at for at, origin in enumerate(origins) if origin.connections != before[at]]
    replica = await origins[at].peer()
    head = await replica.head()
    assert b"wakegate_replica" not in head
    await replica.send(response or ok(b"", "Connection: close"))
    answer = await client.head()
    client.close()
    return at, answer


def cookie_of(head: bytes) -> str:
    (cookie,) = [value for value in fields(head).get(b"set-cookie", []) if value.startswith(b"wakegate_replica=")]
    return cookie.partition(b";")[0].decode()


async def test_a_client_comes_back_to_its_replica(talk: Conversation) -> None:
    origins = await three(talk)
    first, head = await answered_by(talk, origins)
    cookie = cookie_of(head)
    assert fields(head)[b"set-cookie"] == [cookie.encode() + b"; Path=/; HttpOnly; SameSite=Lax"]
    assert fields(head)[b"cache-control"] == [b"private"]
    assert origins[first].id not in cookie
    for _ in range(10):
        at, head = await answered_by(talk, origins, f"Cookie: theme=dark; {cookie}")
        assert at == first
        assert b"set-cookie" not in fields(head)
        assert b"cache-control" not in fields(head)


async def test_the_replica_sees_the_other_cookies_only(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint(), affinity="cookie")
    client = await talk.client()
    await client.send(get("/", "Cookie: a=b; wakegate_replica=0; c=d", "Cookie: wakegate_replica=1"))
    replica = await origin.peer()
    assert fields(await replica.head())[b"cookie"] == [b"a=b; c=d"]
    await replica.send(ok(b"", "Set-Cookie: session=1", "Cache-Control: public, max-age=60"))
    head = fields(await client.head())
    assert len(head[b"set-cookie"]) == 2, "ours is wrong, so that it is replaced"
    assert head[b"cache-control"] == [b"public, max-age=60", b"private"]


async def test_another_replica_and_another_cookie_when_his_is_gone_draining_full_or_failing(talk: Conversation) -> None:
    origins = await three(talk)
    first, head = await answered_by(talk, origins)
    cookie = cookie_of(head)
    others = [origin.endpoint() for at, origin in enumerate(origins) if at != first]
    for endpoints in (others, [*others, origins[first].endpoint(ready=False)]):
        talk.serve(*endpoints, affinity="cookie")
        at, head = await answered_by(talk, origins, f"Cookie: {cookie}")
        assert at != first
        assert cookie_of(head) != cookie
    talk.serve(*[origin.endpoint() for origin in origins], affinity="cookie", concurrency=1)
    busy = await talk.client()
    await busy.send(get("/", f"Cookie: {cookie}"))
    replica = await origins[first].peer()
    await replica.head()
    at, _ = await answered_by(talk, origins, f"Cookie: {cookie}")
    assert at != first, "full"
    await replica.send(ok(b"", "Connection: close"))
    assert b"set-cookie" not in fields(await busy.head())
    await origins[first].stop()
    at, head = await answered_by(talk, origins, f"Cookie: {cookie}")
    assert at != first, "down"
    assert cookie_of(head) != cookie


async def test_never_on_answers_of_our_own_nor_when_it_is_off(talk: Conversation) -> None:
    talk.serve(affinity="cookie", hold_timeout=1)
    client = await talk.client()
    await ask(client)
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 504 ")
    assert b"set-cookie" not in fields(head)
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await ask(client, "Cookie: wakegate_replica=x")
    replica = await origin.peer()
    assert fields(await replica.head())[b"cookie"] == [b"wakegate_replica=x"]
    await replica.send(ok())
    assert b"set-cookie" not in fields(await client.head())


async def test_secure_where_a_trusted_proxy_says_https(conversation: Starter) -> None:
    talk = await conversation(trusted_proxies=(ipaddress.ip_network("127.0.0.0/8"),))
    origin = await talk.origin()
    talk.serve(origin.endpoint(), affinity="cookie")
    for proto in ("https", "http"):
        _, head = await answered_by(talk, [origin], f"X-Forwarded-Proto: {proto}")
        assert fields(head)[b"set-cookie"][0].endswith(b"; Secure") == (proto == "https")


async def test_with_a_tunnel_and_for_a_held_request(talk: Conversation) -> None:
    talk.serve(affinity="cookie")
    client = await talk.client()
    await ask(client, "Connection: upgrade", "Upgrade: websocket", "Cookie: wakegate_replica=old; a=b")
    await until(lambda: talk.held == 1)
    origin = await talk.origin()
    talk.serve(origin.endpoint(), affinity="cookie")
    replica = await origin.peer()
    assert fields(await replica.head())[b"cookie"] == [b"a=b"]
    await replica.send(lines("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: websocket"))
    assert cookie_of(await client.head())


async def test_sent_again_it_is_the_one_who_answers(talk: Conversation) -> None:
    origins = await three(talk)
    first, head = await answered_by(talk, origins)
    cookie = cookie_of(head)
    client = await talk.client()
    await client.send(get("/", f"Cookie: {cookie}"))
    (await origins[first].peer()).close()
    before = [origin.connections for origin in origins]
    await until(lambda: sum(origin.connections for origin in origins) > sum(before) or talk.in_flight == 0)
    (at,) = [at for at in range(3) if at != first and not origins[at]._arrived.empty()]
    replica = await origins[at].peer()
    await replica.head()
    await replica.send(ok())
    assert cookie_of(await client.head()) != cookie
