"""A node and the troubles of its store: a damaged file, a full disk, a file from the past, a newer one."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_node import ROOT, Node, eventually
from shared_nodes import RESTARTED, SharedNodes

pytestmark = pytest.mark.e2e

HELLO = {name: (ROOT / "examples" / "hello" / name).read_text() for name in ("Procfile", "server.py")}
HOST = "hello-acme.apps.localhost"


def deploy(node: Node, name: str) -> str:
    """Create a service and wait for it; returns its host."""
    node.commit(f"acme/{name}", HELLO)
    node.create("acme", name)
    node.wait_status("acme", name, "running")
    return f"{name}-acme.apps.localhost"


@pytest.fixture(scope="module")
def served(shared_nodes: SharedNodes) -> Node:
    """A node that serves `HOST`, whose files are harmed while it is stopped."""
    node = shared_nodes.empty(RESTARTED)
    assert deploy(node, "hello") == HOST
    return node


@pytest.fixture
def stopped(served: Node) -> Node:
    if not served.exited:
        assert served.stop() == 0
    return served


@RESTARTED.group
def test_a_damaged_file_is_told_and_its_repair_keeps_the_services(stopped):
    node = stopped
    with next((node.data / "appendonlydir").glob("*.incr.aof")).open("ab") as file:
        file.write(b"\0" * 512)
    node.start(wait=False)
    assert node.process.wait(60) == 1
    command = next(line for line in node.lines() if "damaged" in line).partition("can be kept: ")[2]
    assert command == f"wakegate repair --data-dir {node.data}"
    repair = [sys.executable, "-m", *command.split()]
    done = subprocess.run(repair, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "cut 512" in done.stdout) == (0, True), done
    node.start()
    eventually(lambda: node.request(HOST).status == 200)


@RESTARTED.group
def test_files_of_a_newer_server_are_refused(stopped):
    version = stopped.data / "store.version"
    own = version.read_text()
    version.write_text("Valkey 99.0.0\n")
    stopped.start(wait=False)
    assert stopped.process.wait(60) == 1
    version.write_text(own)
    assert "were written by Valkey 99.0.0" in stopped.said


@RESTARTED.group
def test_a_store_from_an_hour_ago_ends_in_service(stopped):
    """The past knows one service, the present another: what the store says is true again, nothing is doubled."""
    node = stopped
    shutil.copytree(node.data / "appendonlydir", node.root / "past")
    node.start()
    new = deploy(node, "new")
    assert node.api("DELETE", "/auth/v1/seed/acme/services/hello").status == 204
    assert node.stop() == 0
    shutil.rmtree(node.data / "appendonlydir")
    shutil.copytree(node.root / "past", node.data / "appendonlydir")
    node.start()
    eventually(lambda: node.request(HOST).status == 200, 30)
    assert node.request(new).status == 404
    assert node.api("GET", "/acme/service/new").status == 404
    deploy(node, "new")
    assert node.request(new).status == 200
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in node.strays()]
    assert commands.count(b"python3\0server.py\0") == 2, "one replica each"


@pytest.fixture
def small_disk(make_node) -> Iterator[Node]:
    """A node whose data directory is a file system of 24 MiB of its own."""
    node = make_node(workers=1, options=["--access-log", "off"])
    node.data.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", node.data], check=False)
    if mounted.returncode != 0:
        pytest.skip("may not mount")
    yield node
    node.close()
    subprocess.run(["umount", "-l", node.data], check=True)
    shutil.rmtree(node.root, ignore_errors=True)


def fill_disk(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


@pytest.mark.root
@pytest.mark.parametrize("fsync", ["everysec", "always"])
def test_a_full_disk_refuses_changes_and_serves_on(small_disk, fsync):
    node = small_disk
    node.options += ["--store-fsync", fsync]
    node.start()
    host = deploy(node, "hello")
    filler = node.data / "filler"
    fill_disk(filler)
    names = itertools.count()
    body = {"name": "", "repo": "acme/hello", "gpu": "none", "env": {"LONG": "x" * 20_000}}

    def refused() -> bool:
        assert node.request(host).status == 200
        body["name"] = f"more-{next(names)}"  # the first may still be taken: it waits in the store's memory
        return node.api("POST", "/auth/v1/seed/acme/services", body, timeout=20).status in (500, 503)

    eventually(refused, 60, "a change is refused")
    for _ in range(50):
        assert node.request(host).status == 200
    filler.unlink()
    body["name"] = "again"
    create = "/auth/v1/seed/acme/services"
    eventually(lambda: node.api("POST", create, body, timeout=20).status == 201, 60, "the store writes again")
    node.wait_status("acme", "again", "running")
    assert node.request(host).status == 200
    assert node.stop() == 0
