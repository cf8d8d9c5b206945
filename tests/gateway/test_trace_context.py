"""W3C Trace Context through the gateway: the cases of the specification's own test suite, restated, in bytes.

`KEPT`, `AS_00` and `MADE` say what the replica must see: the traceparent as it came, what is known of a later version
under version 00, or a new one. What the suite calls strict (the grammar of tracestate's members) is left to the
replica: 4.2 allows an intermediary to pass tracestate on without reading it.
"""

from __future__ import annotations

import re

import pytest
from wire import Conversation, fields, get, ok

TRACE, PARENT = "12345678901234567890123456789012", "1234567890123456"
GOOD = f"00-{TRACE}-{PARENT}-01"
KEPT, AS_00, MADE = "kept", "as 00", "made"

CASES = {
    "none": ([], MADE),
    "one": ([f"traceparent: {GOOD}"], KEPT),
    "not sampled": ([f"traceparent: 00-{TRACE}-{PARENT}-00"], KEPT),
    "flags that are not defined yet": ([f"traceparent: 00-{TRACE}-{PARENT}-ff"], KEPT),
    "two": ([f"traceparent: 00-{TRACE[:-1]}1-{PARENT}-01", f"traceparent: {GOOD}"], MADE),
    "two that are equal": ([f"traceparent: {GOOD}", f"Traceparent: {GOOD}"], MADE),
    "two in one field": ([f"traceparent: {GOOD}, {GOOD}"], MADE),
    "a bad one before": (["traceparent: x", f"traceparent: {GOOD}"], MADE),
    "a bad one behind": ([f"traceparent: {GOOD}", "traceparent: x"], MADE),
    "name with a hyphen": ([f"trace-parent: {GOOD}"], MADE),
    "name with a dot": ([f"trace.parent: {GOOD}"], MADE),
    "name in mixed case": ([f"TrAcEpArEnT: {GOOD}"], KEPT),
    "name in upper case": ([f"TRACEPARENT: {GOOD}"], KEPT),
    "version 00 with a dot behind": ([f"traceparent: {GOOD}."], MADE),
    "version 00 with more behind": ([f"traceparent: {GOOD}-what-the-future-will-be-like"], MADE),
    "version cc": ([f"traceparent: cc-{TRACE}-{PARENT}-01"], AS_00),
    "version cc with more behind": ([f"traceparent: cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like"], AS_00),
    "version cc with other flags": ([f"traceparent: cc-{TRACE}-{PARENT}-f9"], AS_00),
    "version cc with a dot behind": ([f"traceparent: cc-{TRACE}-{PARENT}-01.what-the-future-will-be-like"], MADE),
    "version ff": ([f"traceparent: ff-{TRACE}-{PARENT}-01"], MADE),
    "version .0": ([f"traceparent: .0-{TRACE}-{PARENT}-01"], MADE),
    "version 0.": ([f"traceparent: 0.-{TRACE}-{PARENT}-01"], MADE),
    "version of 3": ([f"traceparent: 000-{TRACE}-{PARENT}-01"], MADE),
    "version of 4": ([f"traceparent: 0000-{TRACE}-{PARENT}-01"], MADE),
    "version of 1": ([f"traceparent: 0-{TRACE}-{PARENT}-01"], MADE),
    "trace of zeros": ([f"traceparent: 00-{'0' * 32}-{PARENT}-01"], MADE),
    "trace beginning with a dot": ([f"traceparent: 00-.{TRACE[1:]}-{PARENT}-01"], MADE),
    "trace ending with a dot": ([f"traceparent: 00-{TRACE[:-1]}.-{PARENT}-01"], MADE),
    "trace of 33": ([f"traceparent: 00-{TRACE}3-{PARENT}-01"], MADE),
    "trace of 31": ([f"traceparent: 00-{TRACE[:-1]}-{PARENT}-01"], MADE),
    "trace in upper case": ([f"traceparent: 00-ABCDEF{TRACE[6:]}-{PARENT}-01"], MADE),
    "parent of zeros": ([f"traceparent: 00-{TRACE}-{'0' * 16}-01"], MADE),
    "parent beginning with a dot": ([f"traceparent: 00-{TRACE}-.{PARENT[1:]}-01"], MADE),
    "parent ending with a dot": ([f"traceparent: 00-{TRACE}-{PARENT[:-1]}.-01"], MADE),
    "parent of 17": ([f"traceparent: 00-{TRACE}-{PARENT}7-01"], MADE),
    "parent of 15": ([f"traceparent: 00-{TRACE}-{PARENT[:-1]}-01"], MADE),
    "flags beginning with a dot": ([f"traceparent: 00-{TRACE}-{PARENT}-.0"], MADE),
    "flags ending with a dot": ([f"traceparent: 00-{TRACE}-{PARENT}-0."], MADE),
    "flags of 3": ([f"traceparent: 00-{TRACE}-{PARENT}-001"], MADE),
    "flags of 1": ([f"traceparent: 00-{TRACE}-{PARENT}-1"], MADE),
    "bytes beyond ASCII": ([f"traceparent: {GOOD}\xff"], MADE),
    "empty": (["traceparent:"], MADE),
    "a blank before": ([f"traceparent:  {GOOD}"], KEPT),
    "a tab before": ([f"traceparent:\t{GOOD}"], KEPT),
    "a blank behind": ([f"traceparent: {GOOD} "], KEPT),
    "blanks all around": ([f"traceparent:\t {GOOD} \t"], KEPT),
    "named by Connection": ([f"traceparent: {GOOD}", "Connection: traceparent"], KEPT),
}


async def seen_by_the_replica(talk: Conversation, *lines: str) -> dict[bytes, list[bytes]]:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get("/", *lines))
    replica = await origin.peer()
    seen = fields(await replica.head())
    await replica.send(ok())
    await client.head()
    return seen


@pytest.mark.parametrize("name", CASES)
async def test_traceparent(talk: Conversation, name: str) -> None:
    lines, expected = CASES[name]
    (trace,) = (await seen_by_the_replica(talk, "tracestate: a=1", *lines, "tracestate: b=2"))[b"traceparent"]
    came = next((line.partition(":")[2].strip() for line in lines if line.lower().startswith("traceparent")), "")
    if expected == KEPT:
        assert trace.decode() == came
    elif expected == AS_00:
        assert trace.decode() == GOOD
    else:
        assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", trace)
        assert trace.split(b"-")[1] not in (TRACE.encode(), TRACE[:-1].encode() + b"1", b"0" * 32)


STATES = {
    "one": (["tracestate: foo=1,bar=2"], [b"foo=1,bar=2"]),
    "several, in order": (["tracestate: foo=1", "Tracestate: rojo=1,congo=2", "TRACESTATE: baz=3"], None),
    "empty ones": (["tracestate:", "tracestate: foo=1"], [b"", b"foo=1"]),
    "blanks inside": (["tracestate: foo=1 \t , \t bar=2"], [b"foo=1 \t , \t bar=2"]),
    "every character": (["tracestate: a-z0-9_-*/@a-z0-9_-*/= !\"#$%&'()*+-./:;<>?@[\\]^_`{|}~"], None),
    "32 members": (["tracestate: " + ",".join(f"bar{at:02}={at:02}" for at in range(32))], None),
    "another name": (["trace-state: foo=1", "trace.state: foo=1"], []),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("name", STATES)
async def test_tracestate_comes_along_as_it_is(talk: Conversation, name: str, behind: bool) -> None:
    states, expected = STATES[name]
    parent = [f"traceparent: {GOOD}"]
    seen = await seen_by_the_replica(talk, *(parent + states if behind else states + parent))
    wanted = [line.partition(": ")[2].encode() for line in states] if expected is None else expected
    assert seen.get(b"tracestate", []) == wanted


@pytest.mark.parametrize("name", [name for name, (_, expected) in CASES.items() if expected == MADE])
async def test_tracestate_goes_with_a_traceparent_that_is_replaced(talk: Conversation, name: str) -> None:
    seen = await seen_by_the_replica(talk, "tracestate: a=1", *CASES[name][0], "tracestate: b=2")
    assert b"tracestate" not in seen


async def test_each_request_without_a_trace_gets_one_of_its_own(talk: Conversation) -> None:
    traces = [(await seen_by_the_replica(talk))[b"traceparent"][0] for _ in range(3)]
    assert len({trace.split(b"-")[1] for trace in traces}) == len({trace.split(b"-")[2] for trace in traces}) == 3
