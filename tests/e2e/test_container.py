"""The container driver on a real node with a real Podman: the demo's service as an image, from its first start to its
deletion; a repository with a Dockerfile; and what a user is told when it can't be."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from e2e_node import Answer, Node, eventually

from tests.podman import Engines, image_files

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.xdist_group("podman"),
]

HOST = "hello-acme.apps.localhost"
HELD = 50


@pytest.fixture(scope="module")
def node(engines: Engines) -> Iterator[Node]:
    options = ["--driver", "container", "--engine-socket", str(engines.podman.socket), "--idle-timeout", "2"]
    made = Node(options=options)
    try:
        made.start()
        yield made
        assert made.stop() == 0
        left = engines.podman.containers(node=node_id(made))
        assert not left, "serve ended and left containers"
    finally:
        for container in engines.podman.containers(node=node_id(made)):
            engines.podman.call("DELETE", f"/containers/{container['Id']}?force=true", parse=False)
        made.close()


def node_id(node: Node) -> str:
    return (node.data / "node.id").read_text().strip()


def create(node: Node, name: str, image: str, **fields: Any) -> None:
    body = {"name": name, "image": image, "gpu": "none", **fields}
    answer = node.api("POST", "/auth/v1/seed/acme/services", body)
    assert answer.status == 201, answer


def containers(engines: Engines, node: Node, **labels: str) -> list[dict[str, Any]]:
    return engines.podman.containers(node=node_id(node), **labels)


def events(node: Node, name: str, kind: str) -> list[dict[str, Any]]:
    answer = node.api("GET", f"/acme/service/{name}/events?limit=1000")
    assert answer.status == 200, answer
    return [event for event in answer.json()["items"] if event["kind"] == kind]


def lines(node: Node, name: str, stream: str) -> list[str]:
    answer = node.api("GET", f"/acme/service/{name}/logs?limit=10000&stream={stream}")
    assert answer.status == 200, answer
    return [item["line"] for item in answer.json()["items"]]


class Clients(threading.Thread):
    """One request after another until stopped; everything that was not 200 is kept."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node
        self._stop_now = threading.Event()
        self.texts: list[bytes] = []
        self.failed: list[object] = []

    def run(self) -> None:
        while not self._stop_now.is_set():
            try:
                answer = self._node.request(HOST)
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(error)
            else:
                (self.texts if answer.status == 200 else self.failed).append(answer.body)  # type: ignore[attr-defined]

    def __enter__(self) -> Clients:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_now.set()
        self.join()


def commands_of_container(port: int) -> list[str]:
    """Command lines of processes anywhere on the machine that serve at that port inside a container."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if f"httpd -f -p 0.0.0.0:{port} " in command:
                found.append(command)
    return found


def test_an_image_sleeps_wakes_rolls_logs_crashes_is_adopted_and_deleted(node: Node, engines: Engines) -> None:
    port = 8642
    first = engines.registry.push("demo/hello", "1", image_files("hello, one\n"))
    image = f"{engines.registry.host}/demo/hello:1"
    awake = {"min_replicas": 0, "max_replicas": 2, "scaling": {"idle_timeout": 600}}
    create(node, "hello", image, port=port, cpu=2, memory=1, **awake)
    service = node.wait_status("acme", "hello", "running", 60)
    assert service["limits"] == "enforced"
    assert (service["image"], service["repo"]) == (image, None)
    assert service["deployment"]["digest"] == first

    # its limits, as the engine says them
    (container,) = containers(engines, node)
    host = engines.podman.inspect(container["Id"])["HostConfig"]
    assert host["NanoCpus"] == min(2, os.cpu_count() or 1) * 1_000_000_000
    assert host["Memory"] == 1 << 30

    # it sleeps, and wakes under 50 requests with one start
    assert node.api("PUT", "/auth/v1/seed/acme/services/hello", {"scaling": {"idle_timeout": 2}}).status == 200
    node.wait_status("acme", "hello", "stopped", 60)
    eventually(lambda: not containers(engines, node), what="no container while it sleeps")
    starts = len(lines(node, "hello", "stdout"))
    with ThreadPoolExecutor(HELD) as pool:
        answers: list[Answer] = list(pool.map(lambda _: node.request(HOST), range(HELD)))
    assert {answer.status for answer in answers} == {200}
    assert {answer.body for answer in answers} == {b"hello, one\n"}
    assert len(containers(engines, node)) == 1
    eventually(lambda: len(lines(node, "hello", "stdout")) == starts + 1, what="one start is in the log")

    # it rolls to what the tag means by now, and no request fails
    second = engines.registry.push("demo/hello", "1", image_files("hello, two\n"))
    with Clients(node) as clients:
        answer = node.api("POST", "/auth/v1/seed/acme/services/hello/redeploy")
        assert answer.status == 200, answer
        eventually(lambda: b"hello, two\n" in clients.texts, 60, "the new image answers")
        eventually(lambda: len(containers(engines, node)) == 1, 60, "the old container is gone")
    assert not clients.failed
    assert node.service("acme", "hello")["deployment"]["digest"] == second

    # its output, and that of its pulls
    assert f"listening on 0.0.0.0:{port}" in lines(node, "hello", "stdout")
    assert "this is stderr" in lines(node, "hello", "stderr")
    assert {f"pulling {image}", f"digest {first}", f"digest {second}"} <= set(lines(node, "hello", "build"))

    # killed from outside, it is replaced
    (container,) = containers(engines, node)
    with Clients(node):
        killed = time.monotonic()
        engines.podman.kill(container["Id"])
        eventually(lambda: [one for one in containers(engines, node) if one["Id"] != container["Id"]], 30, "replaced")
        eventually(lambda: node.request(HOST).status == 200, 30, "it answers again")
        took = time.monotonic() - killed
    print(f"replaced {took:.2f} s after it was killed")  # 1.3 to 1.9 s on two busy cores, 1 s of it backoff
    assert took < 10
    assert "ended by signal 9" in events(node, "hello", "replica.failed")[-1]["reason"]

    # a killed control changes nothing
    (container,) = containers(engines, node)
    with Clients(node) as clients:
        old = node.kill("control")
        node.replaced("control", old)
        eventually(lambda: node.api("GET", "/acme/service/hello").status == 200, 60, "the API is back")
    assert not clients.failed
    assert [one["Id"] for one in containers(engines, node)] == [container["Id"]]

    # deleted, it leaves nothing
    assert node.api("DELETE", "/auth/v1/seed/acme/services/hello").status == 204
    assert node.request(HOST).status == 503
    eventually(lambda: not containers(engines, node), 60, "no container is left")
    assert not commands_of_container(port)

    def left() -> list[str]:
        found = engines.podman.images()
        networks = [one["Name"] for one in engines.podman.call("GET", "/networks")]
        return [name for name in found + networks if node_id(node) in name]

    eventually(lambda: not left(), 60, "no image and no network is left")


def test_a_dockerfile_is_built_and_what_can_t_be_is_told(node: Node, engines: Engines) -> None:
    base = engines.image("demo/base")
    pulled = engines.podman.call("POST", f"/images/create?fromImage={base.replace('/', '%2F')}", parse=False)
    assert b"error" not in pulled, pulled
    node.commit("acme/site", {"Dockerfile": f"FROM {base}\nCOPY page /www/index.html\n", "page": "from a repository\n"})
    node.create("acme", "site", repo="acme/site")
    for name, text in {"absent": f"{engines.registry.host}/demo/absent:1", "nowhere": "127.0.0.1:9/x:1"}.items():
        create(node, name, text)
    node.commit("acme/procfile", {"Procfile": "web: x\n"})
    node.create("acme", "procfile", repo="acme/procfile")

    node.wait_status("acme", "site", "running", 90)
    assert node.request("site-acme.apps.localhost").body == b"from a repository\n"
    assert any("COPY page" in line for line in lines(node, "site", "build"))
    assert node.service("acme", "site")["deployment"]["digest"] is None
    for name, sentence in {
        "absent": f"image '{engines.registry.host}/demo/absent:1' does not exist",
        "nowhere": "the registry of image '127.0.0.1:9/x:1' can't be reached from the node",
        "procfile": "add a Dockerfile",
    }.items():
        service = node.wait_status("acme", name, "failed", 60)
        assert sentence in service["deployment"]["reason"]
        assert sentence in events(node, name, "deployment.failed")[-1]["reason"]
    refused = node.api(
        "POST", "/auth/v1/seed/acme/services", {"name": "gpu", "image": base, "gpu": "T4", "gpu_count": 1}
    )
    assert refused.status == 422, "Podman gives no GPUs"


def test_without_an_engine_serve_ends_and_names_the_fix(make_node: Callable[..., Node]) -> None:
    one = make_node(options=["--driver", "container", "--engine-socket", "/nonexistent/docker.sock"])
    one.start(wait=False)
    eventually(lambda: one.exited, 60, "serve ends")
    assert one.process is not None
    assert one.process.returncode == 1
    assert "--engine-socket: /nonexistent/docker.sock is no socket" in one.said
    assert "podman system service" in one.said
