"""What the forges' pushes mean for a service."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from control.pushes.decisions import HEAD, Action, NotAPush, Push, is_push, judge, leading_members, read_push
from control.pushes.signatures import Origin
from state.models import Deployment, DeploymentState, RunSpec, Scaling, Service

COMMIT = "a" * 40
OTHER = "b" * 40
GITHUB = Origin("GitHub", "push", "1")
RUN = RunSpec(repo="acme/app", branch="main")
SERVICE = Service(
    id="s", namespace="acme", name="web", label="web-acme", run=RUN, gpu="none", gpu_count=None, min_replicas=0,
    max_replicas=1, target_gpu_utilization=70, region="us-east-1", custom_domain=None, scaling=Scaling(),
    created_at=1, updated_at=1, latest="d",
)  # fmt: skip
LATEST = Deployment("d", "s", DeploymentState.ACTIVE, RUN, 1, commit=COMMIT)


def body(**members):
    return json.dumps(members).encode()


def test_pushes_of_the_forges():
    github = body(ref="refs/heads/main", before=OTHER, after=COMMIT, repository={"id": 1, "full_name": "acme/app"})
    gitea = body(
        ref="refs/heads/main", before=OTHER, after=COMMIT, compare_url="", commits=[{"id": COMMIT}],
        repository={"owner": {"full_name": "Acme"}, "full_name": "acme/app"},
    )  # fmt: skip
    gitlab = body(
        object_kind="push", event_name="push", before=OTHER, after=COMMIT, ref="refs/heads/main", checkout_sha=COMMIT,
        project={"name": "app", "path_with_namespace": "acme/app"}, repository={"name": "app"},
    )  # fmt: skip
    for sent in (github, gitea, gitlab):
        push = read_push(sent)
        assert push == Push("refs/heads/main", COMMIT, "acme/app")
        assert push.branch == "main"
        assert not push.deletes


def test_a_form_with_a_payload():
    """What GitHub and Gitea send for the content type application/x-www-form-urlencoded."""
    text = body(ref="refs/heads/a+b é", after=COMMIT)
    assert read_push(urlencode({"payload": text, "other": "x"}).encode()) == Push("refs/heads/a+b é", COMMIT)


@pytest.mark.parametrize("form", [False, True])
def test_a_body_that_was_cut_off_is_read_as_far_as_it_goes(form):
    text = body(ref="refs/heads/main", after=COMMIT, repository={"full_name": "acme/app"}, commits=["é" * HEAD])
    sent = urlencode({"payload": text}).encode() if form else text
    assert read_push(sent[:HEAD]) == Push("refs/heads/main", COMMIT, "acme/app")


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"{}", b"[]", b"null", b"hello", b"\xff\xfe", b"payload=", b"payload=%7B", b"[" * 5000, b'{"a":' * 5000,
        body(ref="refs/heads/main"), body(after=COMMIT), body(ref=1, after=COMMIT), body(ref="r", after=None),
        body(ref="refs/heads/main", after="main"), body(ref="refs/heads/main", after=COMMIT + "0"),
        b'{"ref": "refs/heads/main", "after": "' + COMMIT.encode(), b'{[1]: 2, "ref": 1}',
    ],
)  # fmt: skip
def test_what_is_no_push_is_said_so(sent):
    with pytest.raises(NotAPush):
        read_push(sent)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1, "b": 2}', {"a": 1, "b": 2}),
        (' \n{ "x" : [1, {"a": 3}] , "a" : "}" , "b" : null }', {"a": "}", "b": None}),
        ('{"a": 1, "b": {"c": ', {"a": 1}),
        ('{"a": 1 "b": 2}', {}),
        ('{"a": 1', {}),
        ('{"a": 12}', {"a": 12}),
        ('{"a": "x"', {}),
        ('{"a"', {}),
        ("", {}),
        ("{", {}),
        ('{"a": 1, "b": 2, broken', {"a": 1, "b": 2}),
        ('{"a": 1, "a": 2, "b": 3}', {"a": 2, "b": 3}),
    ],
)
def test_leading_members(text, found):
    assert leading_members(text, {"a", "b"}) == found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["ref", "after", "x", "é"]), JSON), st.integers(0, 100), st.booleans())
@example({"ref": 123}, 9, True)
def test_wherever_a_document_is_cut_off_what_is_found_is_what_it_says(document, cut, escaped):
    text = json.dumps(document, ensure_ascii=escaped)
    found = leading_members(text[:cut], {"ref", "after"})
    wanted = {name: value for name, value in document.items() if name in ("ref", "after")}
    assert found.items() <= wanted.items()
    assert leading_members(text, {"ref", "after"}) == wanted


@given(st.binary(max_size=200))
def test_no_body_does_more_harm_than_to_be_refused(sent):
    for body in (sent, b"payload=" + sent, b'{"ref":' + sent):
        with contextlib.suppress(NotAPush):
            read_push(body)


def test_events_that_are_pushes():
    assert is_push(GITHUB)
    assert is_push(Origin("GitLab", "Push Hook", None))
    assert not any(is_push(Origin("", event, None)) for event in ("", "Tag Push Hook", "ping", "pushes", "create"))


def test_a_push_of_the_branch_redeploys():
    verdict = judge(GITHUB, Push("refs/heads/main", OTHER, "acme/app"), SERVICE, LATEST, LATEST)
    assert verdict.action is Action.REDEPLOY
    assert verdict.hooked
    assert OTHER in verdict.reason


@pytest.mark.parametrize(
    ("event", "push", "hooked", "said"),
    [
        ("ping", None, False, "pong"),
        ("issues", None, False, "issues is not a push"),
        ("", None, False, "without a name"),
        ("push", Push("refs/heads/dev", OTHER), False, "dev is not main"),
        ("push", Push("refs/heads/Main", OTHER), False, "Main is not main"),
        ("push", Push("refs/heads/x/main", OTHER), False, "x/main is not main"),
        ("push", Push("refs/tags/main", OTHER), False, "not a branch"),
        ("push", Push("main", OTHER), False, "not a branch"),
        ("push", Push("refs/heads/main", "0" * 40), True, "deleted"),
        ("push", Push("refs/heads/main", "0" * 64), True, "deleted"),
        ("push", Push("refs/heads/main", COMMIT), True, "deployed already"),
        ("push", Push("refs/heads/main", OTHER, "acme/other"), False, "acme/other is not acme/app"),
        ("push", Push("refs/heads/main", OTHER, "xacme/app"), False, "is not acme/app"),
    ],
)
def test_what_does_nothing_says_why(event, push, hooked, said):
    verdict = judge(replace(GITHUB, event=event), push, SERVICE, LATEST, LATEST)
    assert (verdict.action, verdict.hooked) == (Action.NOTHING, hooked)
    assert said in verdict.reason


@pytest.mark.parametrize("name", ["acme/app", "ACME/App", "group/acme/app", None])
def test_the_same_repository_by_other_spellings(name):
    assert judge(GITHUB, Push("refs/heads/main", OTHER, name), SERVICE, LATEST, LATEST).action is Action.REDEPLOY


@pytest.mark.parametrize(
    ("latest", "active", "redeploys"),
    [
        ((DeploymentState.BUILDING, COMMIT), None, False),
        ((DeploymentState.STARTING, COMMIT), OTHER, False),
        ((DeploymentState.PENDING, None), COMMIT, True),  # nobody knows yet what it takes
        ((DeploymentState.STARTING, OTHER), COMMIT, True),  # back by force, while the other one rolls out
        ((DeploymentState.FAILED, COMMIT), None, True),
        ((DeploymentState.FAILED, COMMIT), OTHER, True),
        ((DeploymentState.FAILED, OTHER), COMMIT, False),  # back by force to what serves
        ((DeploymentState.CANCELLED, COMMIT), COMMIT, False),
        ((DeploymentState.FAILED, None), None, True),
        (None, None, True),
    ],
)
def test_a_commit_is_deployed_already_if_it_serves_or_is_on_its_way(latest, active, redeploys):
    newest = None if latest is None else replace(LATEST, state=latest[0], commit=latest[1])
    serving = None if active is None else replace(LATEST, commit=active)
    verdict = judge(GITHUB, Push("refs/heads/main", COMMIT), SERVICE, newest, serving)
    assert (verdict.action is Action.REDEPLOY) is redeploys
