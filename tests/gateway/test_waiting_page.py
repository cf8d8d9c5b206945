"""The waiting page: who gets it, when, what is in it, and that everybody else is held as ever."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import Conversation, Peer, Starter, fields, get, ok, until

from gateway.answers import answer
from gateway.errors import Failure, Waiting
from gateway.messages import Request
from gateway.waiting_page import navigates, repeats, waiting_page
from state.models import Phase

HTML = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
OPENED = (HTML, "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Sec-Fetch-Site: none", "Sec-Fetch-User: ?1")
REPEATED = (HTML, "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Sec-Fetch-Site: same-origin")


def request(*more: str, method: bytes = b"GET") -> Request:
    made = Request(method, b"/", False)
    made.host = b"app.test"
    made.request_id = b"0" * 32
    for line in more:
        made.lines.append(line.encode())
        if line.startswith("Accept: "):
            made.accept = line[8:].encode()
    return made


class Tags(HTMLParser):
    """What a reader of HTML finds."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    ("made", "navigation"),
    [
        (request(*OPENED), True),
        (request(*REPEATED), True),
        (request(HTML), True),
        (request(), False),
        (request("Accept: */*"), False),
        (request("Accept: application/json, text/html;q=0.5"), False),
        (request(*OPENED, method=b"POST"), False),
        (request(HTML, "Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty"), False),
        (request(HTML, "sec-fetch-mode: no-cors", "sec-fetch-dest: image"), False),
        (request(HTML, "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"), False),
        (request(HTML, "X-Requested-With: XMLHttpRequest"), False),
    ],
)
def test_who_navigates(made: Request, navigation: bool) -> None:
    assert navigates(made) == navigation


def test_who_repeats() -> None:
    assert repeats(request(*REPEATED))
    assert not repeats(request(*OPENED))
    assert not repeats(request(*REPEATED, "Sec-Fetch-User: ?1"))
    assert not repeats(request(HTML))


def test_nothing_in_it_comes_from_elsewhere_or_runs() -> None:
    body, more = waiting_page(Waiting("starting", 1, False), request(*OPENED))
    tags = Tags(body).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object", "a", "form"}
    assert not [name for _, attributes in tags for name in attributes if name in ("src", "href", "style", "action")]
    assert ("meta", {"http-equiv": "refresh", "content": "1"}) in tags
    policy, refresh = more
    assert refresh == b"Refresh: 1"
    style = re.search(rb"<style>(.*?)</style>", body)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1]).digest()).decode()
    assert policy == (
        b"Content-Security-Policy: default-src 'none'; style-src 'sha256-%b'; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'" % digest.encode()
    )


def test_it_can_be_read_by_everybody() -> None:
    tags = Tags(waiting_page(Waiting("starting", 1, False), request(*OPENED))[0]).tags
    assert ("html", {"lang": "en"}) in tags
    assert ("h1", {"role": "status"}) in tags
    assert ("i", {"aria-hidden": "true"}) in tags
    assert [tag for tag, _ in tags].count("main") == 1


@given(st.text(max_size=60), st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60))
def test_what_others_have_written_is_text(details: str, host: str) -> None:
    made = request(*OPENED)
    made.host = host.encode()
    plain = request(*OPENED)
    plain.host = b"app.test"
    body, _ = waiting_page(Waiting(details, 5, True), made)
    expected, _ = waiting_page(Waiting("no", 5, True), plain)
    assert Tags(body).tags == Tags(expected).tags
    assert host in Tags(body).text


def test_only_for_those_who_navigate_and_only_of_services_that_want_it() -> None:
    waiting = Waiting("exited with code 4", 7, True)
    for asked, refreshes in ((request(*OPENED), True), (request(HTML, "X-Requested-With: x"), False)):
        response, body = answer(waiting, asked)
        assert (b"Refresh: 7" in response.lines) == refreshes
        assert b"exited with code 4" in body
    response, _ = answer(Failure(503, "destination_unavailable", "full", 1), request(*OPENED))
    assert b"Refresh: 1" not in response.lines
    response, body = answer(waiting, request("Accept: */*"))
    assert body.startswith(b"{")


# In bytes.


async def opened(talk: Conversation, *more: str) -> Peer:
    client = await talk.client()
    await client.send(get("/", *more))
    await until(lambda: talk.held == 1)
    return client


async def page_of(client: Peer) -> tuple[dict[bytes, list[bytes]], bytes]:
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 503 ")
    found = fields(head)
    return found, await client.exactly(int(found[b"content-length"][0]))


async def test_a_short_hold_first_then_the_page_then_the_application(conversation: Starter) -> None:
    talk = await conversation(waiting_page_after=0.2)
    talk.serve()
    client = await opened(talk, *OPENED)
    assert talk.woken == ["service-app.test"]
    found, body = await page_of(client)
    assert found[b"retry-after"] == found[b"refresh"] == [b"1"]
    assert found[b"cache-control"] == [b"no-store"]
    assert found[b"content-type"] == [b"text/html; charset=utf-8"]
    assert found[b"proxy-status"] == [b'wakegate; error=destination_unavailable; details="starting"']
    assert b"app.test is starting" in body
    assert talk.held == 0
    assert talk.count() == {"503": 1}
    await client.send(get("/", *REPEATED))
    await until(lambda: talk.held == 1)
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    replica = await origin.peer()
    assert (await replica.head()).startswith(b"GET / ")
    await replica.send(ok(b"here"))
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    await client.expect(b"here")


async def test_a_fast_wake_shows_none(talk: Conversation) -> None:
    talk.serve()
    client = await opened(talk, *OPENED)
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok())
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_who_shows_a_page_already_waits_longer(conversation: Starter) -> None:
    talk = await conversation(waiting_page_after=0.2, waiting_page_again=60.0)
    talk.serve()
    again = await opened(talk, *REPEATED)
    first = await talk.client()
    await first.send(get("/", *OPENED))
    await page_of(first)
    await again.silent()
    assert talk.held == 1


@pytest.mark.parametrize("more", [("Accept: */*",), (HTML, "Sec-Fetch-Mode: cors"), OPENED])
async def test_everybody_else_and_where_it_is_off_is_held(conversation: Starter, more: tuple[str, ...]) -> None:
    talk = await conversation(waiting_page_after=0.1)
    talk.serve(hold_timeout=1, waiting_page=more != OPENED)
    client = await opened(talk, *more)
    assert (await client.head()).startswith(b"HTTP/1.1 504 ")


async def test_behind_busy_replicas_a_browser_is_held(conversation: Starter) -> None:
    talk = await conversation(waiting_page_after=0.1)
    origin = await talk.origin()
    talk.serve(origin.endpoint(), concurrency=1, hold_timeout=1)
    busy = await talk.client()
    await busy.send(get())
    replica = await origin.peer()
    await replica.head()
    client = await opened(talk, *OPENED)
    assert (await client.head()).startswith(b"HTTP/1.1 504 ")


async def test_a_wake_that_failed_says_why_and_asks_again(talk: Conversation) -> None:
    talk.serve()
    client = await opened(talk, *OPENED)
    talk.serve(phase=Phase.REFUSING, reason="exited with <code> 4")
    found, body = await page_of(client)
    assert found[b"refresh"] == found[b"retry-after"] == [b"1"]
    assert b"app.test could not start" in body
    assert b"exited with &lt;code&gt; 4" in body
    await client.send(get("/", *OPENED))
    found, body = await page_of(client)
    assert b"could not start" in body
    talk.serve(phase=Phase.REFUSING, reason="no", waiting_page=False)
    await client.send(get("/", *OPENED))
    found, body = await page_of(client)
    assert b"refresh" not in found


async def test_who_leaves_before_the_page_is_gone(talk: Conversation) -> None:
    talk.serve()
    client = await opened(talk, *OPENED)
    client.close()
    await until(lambda: talk.held == 0)
    assert talk.count() == {"499": 1}
