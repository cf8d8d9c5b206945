"""Which ports a tenant may bind, asked of the kernel by processes with his uid."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Iterator

import pytest
from node_under_test import World

from activator.drivers import BuildFailed
from activator.drivers.process.addresses import Addresses
from activator.drivers.process.reservations import Reservations, own_cgroup
from tests.conftest import missing

# the same ports and uids in each: not at once
pytestmark = [pytest.mark.root, pytest.mark.xdist_group("reservations")]

RANGE = range(20_000, 32_768)
OWNER, OTHER, UNKNOWN = 61_960, 61_961, 61_962
BIND = """
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, proto=int(sys.argv[3])) as tried:
    tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        tried.bind((sys.argv[1], int(sys.argv[2])))
    except OSError as error:
        sys.exit(error.strerror)
    tried.listen()
"""
MPTCP = 262
REFUSED = "Operation not permitted"
# binds its port when told to, and lets it go
SERVER = """
import os, socket, time
home = os.environ["HOME"]
for turn in ("one", "two"):
    with socket.create_server(("127.0.0.1", int(os.environ["PORT"]))):
        print(turn, flush=True)
        while not os.path.exists(f"{home}/{turn}"):
            time.sleep(0.02)
    print(turn, "closed", flush=True)
time.sleep(67890)
"""


@pytest.fixture
def reservations() -> Iterator[Reservations]:
    try:
        made = Reservations(RANGE, own_cgroup())
    except OSError as error:
        missing(f"eBPF in our cgroup ({error})")
    yield made
    made.close()


def bind(uid: int, port: int, host: str = "127.0.0.1", protocol: int = 0) -> str:
    """What the kernel says to it; nothing if it may."""
    who = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--no-new-privs"]
    argv = [*who, "/usr/bin/python3", "-c", BIND, host, str(port), str(protocol)]
    return subprocess.run(argv, capture_output=True, text=True, cwd="/", check=False).stderr.strip()


@pytest.mark.parametrize(("host", "protocol"), [("127.0.0.1", 0), ("::", 0), ("127.0.0.1", MPTCP)])
def test_a_port_is_for_whom_it_was_given_to(reservations: Reservations, host: str, protocol: int) -> None:
    for uid in (OWNER, OTHER):
        reservations.admit(uid)
    assert bind(OWNER, 25_001, host, protocol) == REFUSED
    reservations.give(25_001, OWNER)
    assert bind(OWNER, 25_001, host, protocol) == ""
    assert bind(OTHER, 25_001, host, protocol) == REFUSED
    reservations.give(25_001, OTHER)
    assert bind(OWNER, 25_001, host, protocol) == REFUSED
    reservations.take_back(25_001)
    reservations.take_back(25_001)
    assert bind(OTHER, 25_001, host, protocol) == REFUSED


def test_nothing_else_is_refused(reservations: Reservations) -> None:
    reservations.admit(OWNER)
    said = {bind(OWNER, port) for port in (0, RANGE.start - 1, RANGE.stop)}
    assert said <= {"", "Address already in use"}, "by somebody else on this machine"
    assert [bind(OWNER, port) for port in (RANGE.start, RANGE.stop - 1)] == [REFUSED, REFUSED]
    assert (bind(UNKNOWN, 25_001), bind(0, 25_001)) == ("", "")
    reservations.close()
    assert bind(OWNER, 25_001) == ""


async def test_a_replica_s_port_is_its_own_while_its_server_is_down(world: World, reservations: Reservations) -> None:
    world.repository("app").commit({"Procfile": "web: exec python3 server.py\n", "server.py": SERVER})
    replica, started = await world.start(await world.build())
    stranger = world.driver._builder.identity("other").uid
    owner = world.driver._builder.identity("acme").uid
    assert stranger is not None
    assert owner is not None
    home = next((world.data_dir / "process" / "homes").glob("*/*"))
    await world.said("one")
    (home / "one").touch()
    await world.said("two")  # it could bind it again
    (home / "two").touch()
    await world.said("two closed")
    assert bind(stranger, started.port) == REFUSED
    await world.close(keep=True)  # control is replaced
    await world.open()
    assert (bind(stranger, started.port), bind(owner, started.port)) == (REFUSED, "")
    await world.driver.stop(replica, 0)
    assert bind(owner, started.port) == REFUSED


async def test_who_is_on_his_way_to_his_port_when_control_is_replaced_gets_it(
    world: World, reservations: Reservations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next control reserves what is given before it refuses anything."""
    world.repository("app").commit({"Procfile": "web: sleep 67890\n"})
    _, started = await world.start(await world.build())
    owner = world.driver._builder.identity("acme").uid
    await world.close(keep=True)
    steps: list[tuple[str, int]] = []

    def admit(self: Reservations, uid: int) -> None:
        steps.append(("admit", uid))
        real_admit(self, uid)

    def give(self: Reservations, port: int, uid: int) -> None:
        steps.append((f"give {port}", uid))
        real_give(self, port, uid)

    real_admit, real_give = Reservations.admit, Reservations.give
    monkeypatch.setattr(Reservations, "admit", admit)
    monkeypatch.setattr(Reservations, "give", give)
    await world.open()
    assert owner is not None
    assert steps.index((f"give {started.port}", owner)) < steps.index(("admit", owner))


async def test_who_is_closed_while_it_opens_refuses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of an `open` that was cancelled goes on; what it takes is given back."""
    world.repository("app").commit({"Procfile": "web: sleep 67890\n"})
    await world.build()
    owner, port = world.driver._builder.identity("acme").uid, world.driver.allocate(())
    assert owner is not None
    await world.close()
    begun, may_go_on, real_open = threading.Event(), threading.Event(), Addresses.open

    def slow_open(self: Addresses) -> None:
        begun.set()
        may_go_on.wait(30)
        real_open(self)

    with monkeypatch.context() as patched:
        patched.setattr(Addresses, "open", slow_open)
        opening = asyncio.get_running_loop().create_task(world.open())
        await asyncio.to_thread(begun.wait, 30)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        closing = asyncio.get_running_loop().create_task(world.close(keep=True))
        await asyncio.sleep(0)
        may_go_on.set()
        await closing
    assert bind(owner, port) == ""
    await world.open()


async def test_a_build_takes_no_port_of_a_replica(world: World, reservations: Reservations) -> None:
    port = world.driver.allocate(())
    build = f"python3 bind.py 127.0.0.1 {port} 0"
    world.repository("app").commit({"Procfile": f"web: true\nbuild: {build}\n", "bind.py": BIND})
    with pytest.raises(BuildFailed, match=REFUSED):
        await world.build()
