"""A replica that can't start ends as `failed` with a reason that a user understands; held requests get its first half.

The second half (lines of logs, what git said, addresses, paths) is for the owner alone, who reads it in the API.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest
from e2e_node import Node, eventually
from scenes import REPLICA, Reply, ask, host
from shared_nodes import PLAIN

pytestmark = [pytest.mark.e2e, PLAIN.group]

NOT_200 = """\
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)
http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""

SECRET = "DB=postgres://u:p@db"

CASES = {
    "no-procfile": ({"server.py": REPLICA}, {}, ["add a Procfile with `web: …` listening on $PORT"]),
    "no-web": ({"Procfile": "worker: sleep 1\n"}, {}, ["add a Procfile with `web: …` listening on $PORT"]),
    "no-branch": ({"Procfile": "web: true\n"}, {"branch": "nowhere"}, ["nowhere", "no branch"]),
    "no-repo": (None, {"repo": "acme/none"}, ["acme/none"]),
    "dir-procfile": ({"Procfile/web": "x"}, {}, ["the Procfile must be a regular file"]),
    "bad-build": ({"Procfile": f"build: echo {SECRET}; exit 7\nweb: true\n"}, {}, ["build", "7", SECRET]),
    "exits": ({"Procfile": f"web: echo {SECRET}; exit 3\n"}, {}, ["exit", "3", f"last line of its log: {SECRET}"]),
    "not-found": ({"Procfile": "web: no-such-program\n"}, {}, ["127", "no-such-program"]),
    "no-port": ({"Procfile": "web: sleep 600\n"}, {"scaling": {"startup_timeout": 3}}, ["port", "3 s"]),
    "health-500": (
        {"Procfile": "web: exec python3 server.py\n", "server.py": NOT_200},
        {"scaling": {"startup_timeout": 3}, "health_check_path": "/healthz"},
        ["/healthz", "500", "200"],
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_it_fails_with_a_reason_and_held_requests_get_503_with_it(plain_node, case: str):
    node = plain_node
    files, fields, words = CASES[case]
    if files is not None:
        node.commit(f"acme/{case}", files)
    node.create("acme", case, **{"repo": f"acme/{case}", "min_replicas": 0, **fields})
    async with asyncio.TaskGroup() as group:
        held = [group.create_task(ask(node.http_port, host("acme", case))) for _ in range(5)]
    service = await asyncio.to_thread(node.wait_status, "acme", case, "failed")
    reason = service["deployment"]["reason"]
    assert all(word in reason for word in words), reason
    for task in held:
        reply = task.result()
        assert isinstance(reply, Reply)
        assert reply.status == 503
        assert int(reply.fields["retry-after"]) >= 1
        detail = json.loads(reply.body)["detail"]
        assert reason == detail or reason.startswith(f"{detail}; ")
        for told in (detail, reply.fields["proxy-status"]):
            assert not any(private in told for private in ("postgres", "file://", str(node.root), "no-such-program"))
    assert (service["replicas"]["desired"], service["replicas"]["ready"]) == (0, 0)
    known = case not in ("no-branch", "no-repo")
    assert (service["deployment"]["commit"] is not None) == known
    later = await ask(node.http_port, host("acme", case))
    assert isinstance(later, Reply)
    assert later.status == 503
    await asyncio.to_thread(eventually, lambda: "deployment.failed" in events(node, case))  # told after it is stored


async def test_a_build_that_fails_shows_its_output_in_the_logs(plain_node):
    plain_node.commit("acme/logged", {"Procfile": "build: echo compiling; exit 1\nweb: true\n"})
    plain_node.create("acme", "logged")
    await asyncio.to_thread(plain_node.wait_status, "acme", "logged", "failed")

    def lines() -> list[str]:
        answer = plain_node.api("GET", "/acme/service/logged/logs?stream=build")
        return [item["line"] for item in answer.json()["items"]]

    await asyncio.to_thread(eventually, lambda: "compiling" in lines())


async def test_a_service_that_dies_after_it_was_healthy_is_started_again(plain_node):
    node = plain_node
    node.commit("acme/mortal", {"Procfile": "web: exec python3 server.py\n", "server.py": REPLICA})
    node.create("acme", "mortal", min_replicas=1)
    await asyncio.to_thread(node.wait_status, "acme", "mortal", "running")
    reply = await ask(node.http_port, host("acme", "mortal"))
    assert isinstance(reply, Reply)
    pid = int(reply.body.split()[2])
    os.kill(pid, signal.SIGKILL)
    again = await ask(node.http_port, host("acme", "mortal"))
    assert isinstance(again, Reply)
    assert again.status == 200
    assert again.body != reply.body


def events(node: Node, name: str) -> list[str]:
    """Kinds of those that are kept of a service."""
    return [event["kind"] for event in node.api("GET", f"/acme/service/{name}/events").json()["items"]]
