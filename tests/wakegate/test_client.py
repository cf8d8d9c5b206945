"""The client of the API on real sockets: what is repeated and what is not, what a failure says."""

from __future__ import annotations

import pytest
from scripted_api import CUT, ScriptedApi, answer

from wakegate.client import Broken, Client, ClientError, Failed, find, pause_before_repeat

PROBLEM = {"title": "Internal Server Error", "status": 500, "detail": "Something went wrong.", "request_id": "abc"}
BUSY = answer(409, {"status": 409, "detail": "is being done"}, {"Retry-After": "0"})


def client(api: ScriptedApi) -> Client:
    return Client(api.url, "admin$x")


def test_a_post_whose_connection_broke_is_sent_again_under_its_key():
    with ScriptedApi([CUT, BUSY, answer(201, {"id": "1"}), answer(200, {})]) as api:
        assert client(api).call("POST", "auth", "v1", "seed", "acme", "services", body={"name": "a"}).status == 201
        client(api).call("POST", "auth", "v1", "seed", "acme", "services", body={"name": "b"})
    keys = [asked.headers["idempotency-key"] for asked in api.asked]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert [asked.body for asked in api.asked[:3]] == ['{"name": "a"}'] * 3


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_what_may_have_been_done_is_not_done_again(method):
    with ScriptedApi([CUT, answer(200, {})]) as api, pytest.raises(Broken, match="can't be reached"):
        client(api).call(method, "x", patience=60)
    assert len(api.asked) == 1
    assert "idempotency-key" not in api.asked[0].headers


def test_a_rate_limit_is_waited_for_by_who_has_the_patience():
    limited = answer(429, {"status": 429, "detail": "too many"}, {"Retry-After": "1"})
    with ScriptedApi([limited, answer(200, {"items": []})]) as api:
        assert client(api).call("GET", "acme", "services", patience=10).body == {"items": []}
    with ScriptedApi([limited]) as api, pytest.raises(Failed) as failed:
        client(api).call("GET", "acme", "services")
    assert failed.value.lines() == ["too many", "  try again in 1 s"]


def test_a_failure_says_every_field_and_the_request_of_our_faults():
    errors = [{"field": "port", "message": "must be 1 or more"}, {"field": "gpu", "message": "is required"}]
    refused = Failed({"status": 400, "detail": "2 fields are wrong", "errors": errors, "request_id": "abc"}, "")
    assert refused.lines() == ["2 fields are wrong", "  port: must be 1 or more", "  gpu: is required"]
    with ScriptedApi([answer(500, PROBLEM)]) as api, pytest.raises(Failed) as failed:
        client(api).call("GET", "acme", "services")
    assert failed.value.lines() == ["Something went wrong.", "  request id: abc"]
    assert Failed({"status": 418}, "").lines() == ["the API answered 418"]


def test_what_is_no_api_is_called_so():
    with ScriptedApi([answer(502, b"<html>")]) as api, pytest.raises(ClientError, match="502 and no JSON"):
        client(api).call("GET", "acme", "services")
    with ScriptedApi([b"SSH-2.0-OpenSSH_9.2\r\n"]) as api, pytest.raises(Broken):
        client(api).call("PUT", "x")


@pytest.mark.parametrize("url", ["gopher://x", "http://", "http://host:port", "host:80", "http://host:99999"])
def test_a_url_that_is_none_is_told(url):
    with pytest.raises(ClientError, match="WAKEGATE_API_URL"):
        Client(url, "k")


def test_a_key_that_can_not_be_sent_is_told():
    with ScriptedApi([answer(200, {})]) as api, pytest.raises(ClientError, match="can't be sent"):
        Client(api.url, "a\nb").call("GET", "x")


def failed(status: int, retry_after: float | None = None) -> Failed:
    return Failed({"status": status}, "", retry_after)


CUT_OFF, NOBODY = Broken("", refused=False), Broken("", refused=True)


@pytest.mark.parametrize(
    ("method", "error", "attempt", "patience", "broke", "pause"),
    [
        ("GET", CUT_OFF, 0, 0.0, False, 0.25),
        ("GET", CUT_OFF, 1, 0.0, True, 0.5),
        ("GET", CUT_OFF, 2, 0.0, True, None),
        ("GET", CUT_OFF, 9, 30.0, True, 5.0),
        ("GET", CUT_OFF, 9, 4.0, True, None),
        ("GET", NOBODY, 0, 0.0, False, None),
        ("POST", NOBODY, 0, 30.0, False, 0.25),
        ("PUT", CUT_OFF, 0, 30.0, False, None),
        ("GET", failed(429, 7.0), 0, 30.0, False, 7.0),
        ("GET", failed(429, 7.0), 0, 5.0, False, None),
        ("GET", failed(503), 1, 30.0, False, 0.5),
        ("GET", failed(404), 0, 30.0, False, None),
        ("POST", failed(409), 0, 30.0, True, None),
        ("POST", failed(409, 1.0), 1, 0.0, True, 1.0),
        ("POST", failed(409, 1.0), 0, 30.0, False, None),
        ("POST", failed(409, 1.0), 60, 0.0, True, None),
    ],
)
def test_when_a_call_is_made_again(method, error, attempt, patience, broke, pause):
    assert pause_before_repeat(method, error, attempt, patience, broke=broke) == pause


def test_beside_a_data_directory_both_are_found(tmp_path):
    (tmp_path / "api.url").write_text("http://127.0.0.1:9\n")
    (tmp_path / "admin.key").write_text("admin$x\n")
    assert find({"WAKEGATE_DATA_DIR": str(tmp_path)}).url == "http://127.0.0.1:9"
    assert find({"WAKEGATE_DATA_DIR": str(tmp_path), "WAKEGATE_API_URL": "https://api/"}).url == "https://api"
    with pytest.raises(ClientError, match="WAKEGATE_API_KEY"):
        find({"WAKEGATE_DATA_DIR": "/nowhere", "WAKEGATE_API_URL": "https://api/"})
    with pytest.raises(ClientError, match="WAKEGATE_API_URL"):
        find({"WAKEGATE_DATA_DIR": "/nowhere"})
