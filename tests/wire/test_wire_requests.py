"""requests.toml and smuggling.toml: bytes in, bytes at a replica, statuses out; in five ways, which `WAYS` names.

Beside what each case expects there is one rule that knows nothing of it, `judge`: what the gateway says it has
forwarded, the heads that a naive reader finds at the replica, and the requests that llhttp and h11 read there are the
same ones; and what stands behind a request that was refused never gets there.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass

import pytest
from bystander import Bystander
from corpus import HERE, HOST, RequestCase, requests
from pieces import received, send, turns
from readers import Seen, by_h11, by_llhttp, canonical, forwarded, messages, statuses
from wire import Conversation, Starter, until

from state.models import Endpoint

BEFORE = f"GET /before HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
BEHIND = f"GET /behind HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
SEEN_BEFORE = f"GET /before HTTP/1.1\r\nHost: {HOST}\r\n{{own}}\r\n".encode()
SEEN_BEHIND = f"GET /behind HTTP/1.1\r\nHost: {HOST}\r\n{{own}}\r\n".encode()
PART = b"{part}"

REQUESTS = requests("requests.toml")
SMUGGLING = requests("smuggling.toml")
WAYS = ["whole", "bytes", "pieces", "pipelined", "held"]


@dataclass
class Outcome:
    """What everybody has seen. `logged`: ids that the gateway says it has forwarded."""

    answers: bytes
    recorded: list[bytes]
    logged: list[str]


def test_sizes() -> None:
    assert len(REQUESTS) >= 150
    assert len(SMUGGLING) >= 150
    assert all(case.source for case in SMUGGLING)


def test_the_head_counts_the_cases_of_each_source() -> None:
    head = (HERE / "smuggling.toml").read_text().partition("[[case]]")[0]
    told = {source: int(number) for number, source in re.findall(r"^#   +(\d+)  (.+)$", head, re.MULTILINE)}
    assert told == Counter(case.source for case in SMUGGLING)


@pytest.mark.parametrize("case", [*REQUESTS, *SMUGGLING], ids=lambda case: case.name)
async def test_a_case(conversation: Starter, case: RequestCase) -> None:
    for way in WAYS:
        check(case, way, await converse(conversation, case, way))


def check(case: RequestCase, way: str, outcome: Outcome) -> None:
    seen = judge(outcome)
    assert (b"/behind" in [request.target for request in seen]) is (case.behind == "answered"), way

    first, behind = way == "pipelined", case.behind == "answered"
    expected = [SEEN_BEFORE] * first + list(case.origin) + [SEEN_BEHIND] * behind
    got = [message for data in outcome.recorded for message in messages(data)]
    methods = methods_of(case, way)
    if expected and expected[-1].endswith(PART):  # and maybe some of its body, never the end
        assert not seen[-1].whole, way
        expected[-1] = expected[-1].removesuffix(PART)
        got[-1] = got[-1][: len(expected[-1])]
    assert got == expected, way
    client = [200] * first + list(case.client) + [200] * behind
    assert statuses(outcome.answers, methods) == client, way
    for text in case.has:
        assert text in b"".join(canonical(message) for message in messages(outcome.answers, methods)), way


def methods_of(case: RequestCase, way: str) -> list[bytes]:
    """Of the requests that get an answer: HEAD is what matters."""
    return [b"GET"] * (way == "pipelined") + [request.split(b" ")[0] for request in case.origin]


async def converse(conversation: Starter, case: RequestCase, way: str) -> Outcome:
    out, log = os.pipe()
    with os.fdopen(out) as lines:
        try:
            talk = await conversation(log_fd=log, **case.settings)
            replica = await Bystander().start()
            try:
                answers = await talk_through(talk, replica, case, way)
            finally:
                await replica.close()
            talk.log.close()
        finally:
            os.close(log)
        logged = [json.loads(line) for line in lines]
    await until(lambda: replica.open == 0)
    assert replica.stumbled == []
    return Outcome(answers, replica.recorded, [line["id"] for line in logged if line["replica"]])


async def talk_through(talk: Conversation, replica: Bystander, case: RequestCase, way: str) -> bytes:
    """Send it all, until nothing more can come. What the client has got."""
    ready = Endpoint("replica", "127.0.0.1", replica.port, True)
    talk.serve(*([ready] if way != "held" else []), host=HOST)
    client = await talk.client()
    pieces = list(case.send)
    if case.behind != "waits":
        pieces[-1] += BEHIND
    if way == "pipelined":
        pieces[0] = BEFORE + pieces[0]
    for piece in pieces:
        await send(client, piece, way, case.name)
        talk.serve(ready, host=HOST)
    if case.behind == "waits":
        heads = len(case.origin) + (way == "pipelined")
        await until(lambda: sum(len(forwarded(data)) for data in replica.recorded) == heads)
        await turns(20)
        answers = received(client)
    else:
        try:
            answers = await client.rest()
        except ConnectionError:  # the edge had closed before all of it was sent
            answers = received(client)
    client.close()
    await until(lambda: talk.edge.connections == 0)
    await until(lambda: talk.in_flight == 0)
    talk.serve(host=HOST)
    return answers


def judge(outcome: Outcome) -> list[Seen]:
    """The rule. Returns what was read at the replica."""
    found = [request_id for data in outcome.recorded for request_id in forwarded(data)]
    assert sorted(found) == sorted(outcome.logged), "what the gateway says it has forwarded"
    seen: list[Seen] = []
    for data in outcome.recorded:
        reading = by_h11(data)
        assert len(reading) == len(forwarded(data))
        other = by_llhttp(data)
        assert other is None or other == reading
        seen += reading
    return seen
