"""The data directory, the listening sockets, the file limit and systemd: real files, sockets and locks."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wakegate.datadir import DataDirectory
from wakegate.errors import ServeError
from wakegate.limits import client_connections, connect_limit, connections_of_one, judged, raise_file_limit
from wakegate.notify import notify, reloading
from wakegate.sockets import listen
from wakegate.values import Address


@pytest.fixture
def data(tmp_path):
    data = DataDirectory.open(tmp_path / "a" / "data", shared_with_replicas=False)
    yield data
    os.close(data.descriptor)


def test_the_directory_is_closed_to_others_and_the_way_to_it_is_not(data):
    assert data.path.stat().st_mode & 0o777 == 0o700
    assert data.path.parent.stat().st_mode & 0o777 == 0o755
    data.path.chmod(0o777)
    os.close(data.descriptor)
    opened = DataDirectory.open(data.path, shared_with_replicas=True)
    assert data.path.stat().st_mode & 0o777 == 0o711
    data.descriptor = opened.descriptor


def test_the_node_keeps_its_identity(data):
    node = data.node_id()
    assert len(node) == 16
    assert data.node_id() == node
    (data.path / "node.id").write_text("")
    with pytest.raises(ServeError, match=r"node\.id is damaged"):
        data.node_id()


def test_one_owner_at_a_time(data):
    with pytest.raises(ServeError, match=rf"another `wakegate serve` \(pid {os.getpid()}\)"):
        DataDirectory.open(data.path, shared_with_replicas=False)


def test_what_is_given_up_leaves_nothing(tmp_path):
    data = DataDirectory.open(tmp_path / "a" / "b" / "data", shared_with_replicas=False)
    data.node_id()
    data.making("secret.key").write_text("")
    data.abandon()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ServeError, match="choose another --data-dir"):
        DataDirectory.open(tmp_path / "file" / "data", shared_with_replicas=False)
    (tmp_path / "file").chmod(0o640)
    with pytest.raises(ServeError, match="Not a directory"):
        DataDirectory.open(tmp_path / "file", shared_with_replicas=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_what_is_given_up_leaves_what_was_there(data):
    data.node_id()
    data.close()
    (data.path / "theirs").write_text("")
    second = DataDirectory.open(data.path, shared_with_replicas=False)
    second.write("store.version", "Valkey 9.1.0")
    second.write("node.id", data.node_id())
    second.abandon()
    assert sorted(path.name for path in data.path.iterdir()) == ["lock", "node.id", "theirs"]
    data.descriptor = DataDirectory.open(data.path, shared_with_replicas=False).descriptor


def test_a_lock_that_was_removed_while_waiting_for_it_is_not_ours(tmp_path):
    """A start that is given up removes its lock while another waits for it: the other must not lock a dead file."""
    first = DataDirectory.open(tmp_path / "data", shared_with_replicas=False)
    os.pwrite(first.descriptor, b"999999999\n", 0)  # as if it had died, so that the other waits
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(DataDirectory.open, first.path, shared_with_replicas=False)
        while len(_openers(first.path / "lock")) < 2:
            time.sleep(0.001)
        first.abandon()
        second = waiting.result(10)
    assert os.fstat(second.descriptor).st_ino == (first.path / "lock").stat().st_ino
    with pytest.raises(ServeError, match="another `wakegate serve`"):
        DataDirectory.open(first.path, shared_with_replicas=False)
    second.close()


def _openers(file: Path) -> list[str]:
    """Our open descriptors of a file."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == str(file):
                found.append(name)
    return found


def test_what_a_dead_owner_left_gets_a_moment_to_end(data):
    """A process that inherited the lock holds it for 0.5 s after its owner."""
    os.pwrite(data.descriptor, b"999999999\n", 0)
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(0.5)"], pass_fds=[data.descriptor], stdin=subprocess.DEVNULL
    )
    os.close(data.descriptor)
    data.descriptor = DataDirectory.open(data.path, shared_with_replicas=False).descriptor
    assert child.wait(5) == 0


def test_sockets_share_a_port_that_was_free(data):
    (listeners,) = listen([("--http", Address("127.0.0.1", 0))], 3)
    ports = {sock.getsockname()[1] for sock in listeners.sockets}
    assert ports == {listeners.address.port}
    with socket.create_connection(("127.0.0.1", listeners.address.port), 5):
        pass  # they listen already: a connection may come before the workers
    with pytest.raises(ServeError) as caught:
        listen([("--http", listeners.address), ("--api", Address("192.0.2.1", 1)), ("--http", Address("::1", 0))], 1)
    assert [line.partition(" ")[0] for line in str(caught.value).splitlines()] == ["--http", "--api"]
    assert "already in use" in str(caught.value)
    assert "no interface of this machine has this address" in str(caught.value)
    listeners.close()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_every_address_is_dual_stack():
    (listeners,) = listen([("--http", Address("::", 0))], 2)
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, listeners.address.port), 5):
            pass
    listeners.close()


def test_the_file_limit():
    raise_file_limit()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard
    with pytest.raises(ServeError, match="at least 1024 are needed"):
        judged(1023)
    assert "only 4096 open files" in str(judged(4096))
    assert judged(65536) is None


def test_clients_leave_files_for_replicas():
    assert (client_connections(20_000), client_connections(1)) == (15_000, 1)


@pytest.mark.parametrize("files", [256, 1024, 20_000, 1 << 20])
def test_one_client_leaves_files_for_others(files):
    """Each of its connections may have another one to a replica."""
    of_one = connections_of_one(files)
    assert 0 < 2 * of_one <= (files - 64) * 9 / 10
    assert of_one <= client_connections(files)


def test_replicas_leave_files_for_clients():
    assert [connect_limit(files) for files in (1, 400, 1024, 20_000)] == [1, 384, 992, 19_375]


def test_systemd_is_told(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        notify("READY=1", "STATUS=serving")
        assert manager.recv(100) == b"READY=1\nSTATUS=serving"
        reloading()
        assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    notify("READY=1")  # nobody listens any more
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")
