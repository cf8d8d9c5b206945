"""`wakegate serve` from outside: starting, refusing to start, dying children, signals."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import scenes
from e2e_node import ROOT, Node, eventually
from shared_nodes import FILE, RESTARTED, SUPERVISED, serves
from test_https import status, trusting

pytestmark = pytest.mark.e2e

ROLES = ("control", "worker 1", "valkey-server")
SERVER = (Path(ROOT) / "examples" / "hello" / "server.py").read_text()
HELLO = {"Procfile": "web: python3 server.py\n", "server.py": SERVER}
HOST = "hello-acme.apps.localhost"


@pytest.fixture
def node(supervised_node: Node) -> Node:
    return supervised_node


@pytest.fixture
def restarted(restarted_node: Node) -> Node:
    """One that is ended and started again, with a service."""
    deploy(restarted_node)
    return restarted_node


def deploy(node: Node, **fields: object) -> None:
    node.commit("acme/hello", HELLO)
    node.create("acme", "hello", **fields)
    node.wait_status("acme", "hello", "running")


def process_of(answer: bytes) -> str:
    """`Hello from process N, …` → N."""
    return answer.decode().split()[3].rstrip(",")


@contextlib.contextmanager
def asking(status: Callable[[], int], expected: int, pause: float = 0) -> Iterator[list[object]]:
    """New connections one after the other, meanwhile; yields what was answered otherwise than expected."""
    wrong: list[object] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                if (got := status()) != expected:
                    wrong.append(got)
            except (OSError, AssertionError) as error:
                wrong.append(error)
            done.wait(pause)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield wrong
    finally:
        done.set()
        thread.join()


# Starting and stopping


@SUPERVISED.group
def test_it_says_its_addresses_and_ready(node):
    said = [line.split()[0] for line in node.lines() if line.startswith(("http ", "api ", "ready"))]
    assert said == ["http", "api", "ready"]
    assert set(node.pids()) == {"control", "worker 1", "worker 2", "valkey-server"}
    assert serves(node)


@SUPERVISED.group
def test_files_are_for_the_owner_alone(node):
    allowed = 0o711 if os.geteuid() == 0 else 0o700
    assert node.data.stat().st_mode & 0o777 == allowed
    for name in ("admin.key", "secret.key", "node.id", "lock", "store.log", "store.sock"):
        assert (node.data / name).stat().st_mode & 0o077 == 0, name


@SUPERVISED.group
def test_a_second_serve_on_the_directory_names_the_first(node, make_node):
    second = make_node()
    second.options += ["--data-dir", str(node.data)]
    second.start(wait=False)
    assert second.process.wait(60) == 1
    assert f"another `wakegate serve` (pid {node.pid}) runs on {node.data}" in second.said
    assert serves(node)


def test_every_port_in_use_is_named(make_node):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        node = make_node(options=["--http", address]).start(wait=False)
        assert node.process.wait(60) == 1
    assert f"--http {address}: already in use" in node.said
    assert node.strays() == []
    assert not node.data.exists(), "a refused start leaves nothing behind"


def test_ports_in_use_of_both_doors_are_named_at_once(make_node):
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        http, api = (f"127.0.0.1:{taken.getsockname()[1]}" for taken in (one, two))
        node = make_node(options=["--http", http, "--api", api]).start(wait=False)
        assert node.process.wait(60) == 1
    assert f"--http {http}: already in use" in node.said
    assert f"--api {api}: already in use" in node.said


@SUPERVISED.group
def test_a_port_that_another_serve_shares_is_in_use(node, make_node):
    """SO_REUSEPORT alone would let both bind."""
    second = make_node(options=["--http", f"127.0.0.1:{node.http_port}"]).start(wait=False)
    assert second.process.wait(60) == 1
    assert "already in use" in second.said


def test_a_directory_that_cannot_be_made_is_said(make_node):
    node = make_node()
    (node.root / "file").write_text("")
    node.options += ["--data-dir", str(node.root / "file" / "data")]
    node.start(wait=False)
    assert node.process.wait(60) == 1
    assert "the data directory can't be written" in node.said
    assert "choose another --data-dir" in node.said


@pytest.mark.root
def test_a_directory_that_replicas_cannot_reach_names_the_fix(make_node):
    node = make_node()
    (node.root / "closed").mkdir(mode=0o700)
    node.options += ["--data-dir", str(node.root / "closed" / "data")]
    node.start(wait=False)
    assert node.process.wait(60) == 1
    assert f"chmod o+x {node.root}/closed" in node.said
    assert list((node.root / "closed").iterdir()) == []


def test_too_few_open_files_is_said(make_node):
    node = make_node()
    limited = ["sh", "-c", 'ulimit -n 512; exec "$@"', "sh", sys.executable, "-m", "wakegate", "serve", *node.options]
    done = subprocess.run(limited, cwd=ROOT, env=node.env, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "only 512 open files are allowed" in done.stderr
    assert "LimitNOFILE" in done.stderr


def test_a_wrong_configuration_exits_2_and_check_starts_nothing(make_node):
    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "wakegate", "serve", *arguments]
        env = make_node().env | more
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    wrong = run("--workers", "0", "--api", "0.0.0.0:1", "--check", WAKEGATE_SECRET_KEY="abc")
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 3
    assert "WAKEGATE_SECRET_KEY: must be 32 bytes in base64" in wrong.stderr
    missing = run("--check", WAKEGATE_CONFIG="/nonexistent/wakegate.toml")
    assert (missing.returncode, "/nonexistent/wakegate.toml: No such file" in missing.stderr) == (2, True)
    right = run("--check", "--data-dir", "/nonexistent/x")
    assert (right.returncode, right.stdout) == (0, "the configuration is valid\n")


@RESTARTED.group
def test_a_long_data_directory_has_no_need_of_a_short_socket_path(restarted_node):
    assert len(str(restarted_node.data / "store.sock")) > 107
    assert serves(restarted_node)


# Dying and silent children


@SUPERVISED.group
def test_whatever_is_killed_comes_back(node):
    for role in ROLES:
        old = node.kill(role)
        node.replaced(role, old)
        eventually(lambda: serves(node), 30, f"after the death of {role}")


@SUPERVISED.group
@pytest.mark.parametrize("role", ROLES)
def test_whatever_falls_silent_is_replaced(node, role):
    """After 10 s; meanwhile the other worker accepts for a silent one."""
    old = node.kill(role, signal.SIGSTOP)
    node.replaced(role, old, 30)
    eventually(lambda: serves(node), 30, f"after the silence of {role}")
    assert f"{role} (pid {old}) has not answered for 10 s: killed" in node.said


@SUPERVISED.group
def test_neighbours_accept_for_a_worker_that_is_silent(node):
    """From a second of silence on, every new connection is served, whichever queue the kernel puts it in."""
    silent = node.kill("worker 1", signal.SIGSTOP)

    def all_answered() -> bool:
        try:
            return all(node.request("nobody.example.com", timeout=0.5).status == 404 for _ in range(30))
        except OSError:
            return False

    eventually(all_answered, 8, "the neighbour serves both queues")
    assert silent in node.pids()["worker 1"], "it is not replaced yet"
    os.kill(silent, signal.SIGCONT)


@SUPERVISED.group
def test_a_delete_waits_for_a_silent_worker_only_until_it_is_killed(node):
    """Every registered worker must acknowledge; one that is silent for 3 s is replaced for it."""
    deploy(node)
    silent = node.kill("worker 1", signal.SIGSTOP)
    assert node.api("DELETE", "/auth/v1/seed/acme/services/hello").status == 204
    assert silent not in node.pids().get("worker 1", [])
    eventually(lambda: node.request(HOST).status == 503)


@SUPERVISED.group
def test_no_new_connection_is_lost_while_workers_die(node):
    with asking(lambda: node.request("nobody.example.com", timeout=10).status, 404) as wrong:
        for role in ("worker 1", "worker 2", "worker 1"):
            old = node.child(role)
            # One request may be inside the worker at that moment; it is the only one that may fail.
            failed = len(wrong)
            os.kill(old, signal.SIGKILL)
            node.replaced(role, old)
            assert len(wrong) <= failed + 1, wrong


@SUPERVISED.group
def test_our_own_stall_is_held_against_nobody(node):
    before, said = node.pids(), node.said
    assert set(before) == {"control", "worker 1", "worker 2", "valkey-server"}
    node.send(signal.SIGSTOP)
    time.sleep(11)  # longer than the silence that a child is allowed
    node.send(signal.SIGCONT)
    eventually(lambda: serves(node))
    time.sleep(1)  # in which it has looked at them
    assert node.said == said
    assert node.pids() == before


@RESTARTED.group
def test_children_do_not_outlive_a_supervisor_that_is_killed(restarted):
    first = process_of(restarted.request(HOST).body)
    children = [pid for pids in restarted.pids().values() for pid in pids]
    restarted.stop(signal.SIGKILL)
    eventually(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in children), 30, "the children end")
    restarted.start()
    eventually(lambda: restarted.request(HOST).status == 200)
    assert process_of(restarted.request(HOST).body) == first, "the replica was adopted"


# Signals


def test_a_second_sigterm_stops_at_once(make_node):
    node = make_node(workers=1, options=["--drain-timeout", "3000"]).start()
    notes = scenes.deploy(node, "acme", "slow")
    node.wait_status("acme", "slow", "running")
    with socket.create_connection(("127.0.0.1", node.http_port)) as client:
        client.sendall(f"GET /slow?s=3000 HTTP/1.1\r\nHost: {scenes.host('acme', 'slow')}\r\n\r\n".encode())
        eventually(lambda: notes.lines("requests"), 30, "the request is in flight")
        node.send(signal.SIGTERM)
        eventually(lambda: _refused(node.http_port), 30, "it stops accepting")
        assert not node.exited, "a request is in flight"
        assert node.stop(signal.SIGTERM) == 0
    assert node.strays() == []


@RESTARTED.group
def test_sigusr2_leaves_the_replicas_and_the_next_serve_adopts_them(restarted):
    first = process_of(restarted.request(HOST).body)
    assert restarted.stop(signal.SIGUSR2) == 0
    assert Path(f"/proc/{first}").exists()
    restarted.start()
    eventually(lambda: restarted.request(HOST).status == 200)
    assert process_of(restarted.request(HOST).body) == first


@RESTARTED.group
def test_sigterm_finishes_what_is_in_flight_stops_the_replicas_and_leaves_no_trace(restarted):
    restarted.commit("acme/late", HELLO | {"server.py": SERVER.replace("awake = ", "time.sleep(1.5); awake = ", 1)})
    restarted.create("acme", "late")
    restarted.wait_status("acme", "late", "running")
    first = process_of(restarted.request(HOST).body)
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(restarted.request("late-acme.apps.localhost").status))
    thread.start()
    eventually(lambda: restarted.client_ports(restarted.child("worker 1")), 30, "the request is on its way")
    assert restarted.stop() == 0
    thread.join()
    assert answers == [200]
    assert restarted.strays() == []
    eventually(lambda: not Path(f"/proc/{first}").exists(), 30, "an adopted one, too")
    assert not (restarted.data / "store.sock").exists()


@SUPERVISED.group
def test_a_log_rotation_meant_for_others_does_no_harm(node):
    node.send(signal.SIGUSR1)
    old = node.child("worker 1")
    node.kill("worker 1")
    node.replaced("worker 1", old)  # the supervisor is still at work


def reload(node: Node) -> None:
    count = node.lines().count("reloaded")
    node.send(signal.SIGHUP)
    eventually(lambda: node.lines().count("reloaded") > count, 60, "reloaded")


@SUPERVISED.group
def test_sighup_replaces_the_workers_without_dropping_a_connection(node):
    before = node.pids()
    name, pause = "nobody.apps.localhost", 0.01
    trust = trusting(node)
    with (
        asking(lambda: node.request(name, timeout=10).status, 404, pause) as wrong,
        asking(lambda: status(node, name, trust), 404, pause) as wrong_over_tls,
    ):
        reload(node)
    assert (wrong, wrong_over_tls) == ([], [])
    eventually(lambda: all(len(pids) == 1 for pids in node.pids().values()), 60, "the old workers end")
    after = node.pids()
    assert after["valkey-server"] == before["valkey-server"]
    for role in ("worker 1", "worker 2", "control"):
        assert after[role] != before[role], role
    assert serves(node)


@SUPERVISED.group
def test_sighup_while_a_worker_is_being_started_is_carried_out_once_it_is_there(node):
    control = node.pids()["control"]
    old = node.child("worker 1")
    node.kill("worker 1")
    reload(node)
    assert node.child("worker 1") != old
    assert node.pids()["control"] != control
    assert serves(node)


@SUPERVISED.group
def test_sighup_with_a_wrong_file_changes_nothing(node):
    file = node.root / "wakegate.toml"
    before = node.pids()
    file.write_text("workers = 3\nhold-limit = 0\n")
    node.send(signal.SIGHUP)
    eventually(lambda: "not reloaded, the configuration is wrong" in node.said)
    file.write_text(FILE)
    assert "hold-limit: expected a whole number" in node.said
    assert node.pids() == before
    assert serves(node)


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False
