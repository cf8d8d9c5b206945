"""Law 8 from inside a replica, started as root: what it can't read, be, or become."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from node_under_test import World, running

from activator.drivers.process import UsersError, check_reachable
from activator.drivers.process.users import Users

pytestmark = pytest.mark.root


def uid_of(path: Path) -> int:
    return path.stat().st_uid


async def test_each_namespace_has_its_own_uid(world: World) -> None:
    replica, started = await world.run("id -u; id -g; id -G; grep NoNewPrivs /proc/self/status; sleep 67890")
    await world.until(lambda: len(world.lines()) == 4)
    uid = world.driver._builder.identity("acme").uid
    assert uid is not None
    assert 61_000 <= uid < 62_000
    assert world.lines(replica=replica)[:3] == [str(uid)] * 3
    assert world.lines(replica=replica)[3].split() == ["NoNewPrivs:", "1"]
    assert world.driver._builder.identity("other").uid not in (uid, 0, None)
    status = Path(f"/proc/{started.pid}/status").read_text()
    assert all(f"Cap{kind}:\t{0:016x}" in status for kind in ("Inh", "Prm", "Eff", "Amb"))


async def test_what_a_replica_can_not_read(world: World) -> None:
    secret = world.data_dir / "secret.key"
    secret.write_text("k")
    secret.chmod(0o600)
    store = world.data_dir / "store"
    store.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(store / "s"))
        server.listen()
        (store / "s").chmod(0o777)  # the directory alone must do
        _, other = await world.run("touch $HOME/mine; sleep 67890", service="theirs", namespace="other")
        home = world.data_dir / "process" / "homes" / "other" / "theirs"
        await world.until(lambda: (home / "mine").exists())
        checkout = next((world.data_dir / "process" / "checkouts" / "other").glob("*/*/source"))
        tries = [
            f"ls {world.data_dir}",
            f"cat {secret}",
            f"ls {world.data_dir}/replicas",
            f"ls {world.data_dir}/logs",
            f"ls {world.data_dir}/process/checkouts",
            f"ls {checkout}",
            f"cat {checkout}/Procfile",
            f"ls {checkout.parent}",
            f"ls {checkout.parents[1]}",
            f"ls {home}",
            f"cat {home}/mine",
            f"cat /proc/{other.pid}/environ",
            f"ls {store}",
            f"python3 -c \"import socket; socket.socket(socket.AF_UNIX).connect('{store}/s')\"",
            f"kill -0 {other.pid}",
            "cat ../complete.json",
            "touch ../x",
            "mv ../source ../moved",
            f"touch {world.data_dir}/process/homes/acme/x",
            "su -c id",
        ]
        script = "".join(f"if {line}; then echo YES {number}; fi\n" for number, line in enumerate(tries))
        world.repository("spy").commit({"Procfile": "web: sh ./spy; echo done\n", "spy": script})
        replica, _ = await world.start(await world.build(repo="acme/spy"))
        await world.exit(replica)
    said = world.lines(replica=replica)
    assert "done" in said
    assert [line for line in said if line.startswith("YES")] == []


async def test_what_a_replica_can_do(world: World) -> None:
    replica, _ = await world.run("echo x >here && cat Procfile >/dev/null && echo y >$HOME/z && echo fine >/dev/stdout")
    assert (await world.exit(replica)).code == 0
    assert world.lines(replica=replica) == ["fine"]


async def test_a_build_can_open_its_output_by_name(world: World) -> None:
    world.repository("loud").commit({"Procfile": "web: true\nbuild: echo out >/dev/stdout && echo err >/dev/stderr\n"})
    await world.build(repo="acme/loud")
    assert {"out", "err"} <= set(world.built)


async def test_the_environment_of_a_tenant_is_nothing_to_root(world: World) -> None:
    """LD_PRELOAD and PATH of a service must not reach anything that still runs as root."""
    log = world.place / "log"
    log.mkdir()
    log.chmod(0o777)
    fake = f'#!/bin/sh\nid -u >>{log}/uids\nexec /usr/bin/setpriv "$@"\n'
    repository = world.repository("evil")
    repository.commit({"Procfile": "web: /usr/bin/id -u\n", "setpriv": fake, "sh": fake, "env": fake})
    for file in ("setpriv", "sh", "env"):
        (repository.path / file).chmod(0o755)
    repository.commit({})
    artifact = await world.build(repo="acme/evil")
    source = world.driver._layout.checkout("acme", "svc", artifact.ref) / "source"
    replica, _ = await world.start(
        artifact, env={"PATH": str(source), "LD_DEBUG": "files", "LD_DEBUG_OUTPUT": f"{log}/ld"}
    )
    assert (await world.exit(replica)).code == 0
    uid = world.driver._builder.identity("acme").uid
    written = list(log.iterdir())
    assert written  # the loader of each program that started has written its own
    assert {uid_of(path) for path in written} == {uid}


async def test_one_that_hides_is_found_by_its_uid(world: World) -> None:
    hide = "setsid env -i /bin/sh -c '(/usr/bin/setsid /bin/sh -c \"echo \\$\\$ >pid; exec /bin/sleep 67890\" &)' & "
    replica, _ = await world.run(f"{hide} sleep 0.3; echo up; sleep 67891")
    await world.said("up")
    pid = int(next(world.data_dir.glob("**/source/pid")).read_text())
    assert running(pid)
    await world.driver.stop(replica, 0.2)
    assert not running(pid)


async def test_modes(world: World) -> None:
    await world.run("echo up; sleep 67890")
    await world.said("up")
    modes = {
        str(path.relative_to(world.data_dir)): (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid)
        for path in (world.data_dir, *world.data_dir.glob("*"), *world.data_dir.glob("process/*"))
    }
    assert modes == {
        ".": (0o711, 0),
        "logs": (0o700, 0),
        "process": (0o711, 0),
        "replicas": (0o700, 0),
        "process/uids.json": (0o600, 0),
        "process/gitconfig": (0o644, 0),
        "process/homes": (0o711, 0),
        "process/checkouts": (0o711, 0),
    }


def test_a_uid_is_its_namespace_s_for_ever(place: Path) -> None:
    path, uids = place / "uids.json", range(61_900, 61_903)
    users = Users(path, uids, place / "locks")
    first = users.of("acme")
    users.close()
    again = Users(path, uids, place / "locks")
    assert again.of("other") != first
    assert again.of("acme") == first
    again.of("third")
    with pytest.raises(UsersError, match="61900-61902 is in use: widen --process-uids"):
        again.of("fourth")
    again.close()


def test_two_nodes_on_a_machine_choose_apart(place: Path) -> None:
    one, two = (Users(place / f"{number}.json", range(61_900, 61_910), place / "locks") for number in (1, 2))
    assert one.of("acme") != two.of("acme")
    assert len({*one.exclusive, *two.exclusive}) == 2
    one.close()
    two.close()


def test_the_uids_of_a_stopped_node_are_left_alone(place: Path) -> None:
    uids, locks = range(61_900, 61_902), place / "locks"
    stopped = Users(place / "stopped.json", uids, locks)
    its = stopped.of("acme")
    stopped.close()
    other = Users(place / "other.json", uids, locks)
    assert other.of("acme") != its
    with pytest.raises(UsersError, match="is in use"):
        other.of("another")
    again = Users(place / "stopped.json", uids, locks)
    assert set(again.exclusive) == {its.uid}
    again.close()
    (place / "stopped.json").unlink()  # its data directory is gone
    assert other.of("another") == its
    other.close()


def test_a_broken_mapping_is_told(place: Path) -> None:
    path = place / "uids.json"
    path.write_text("{")
    with pytest.raises(UsersError, match="can't read the uids of the namespaces"):
        Users(path, range(61_900, 61_910), place / "locks")


def test_a_directory_out_of_reach_names_the_fix(place: Path) -> None:
    closed, inner = place / "closed", place / "closed" / "data"
    inner.mkdir(parents=True)
    assert check_reachable(inner, 61_950) is None
    closed.chmod(0o700)
    told = check_reachable(inner, 61_950)
    assert told is not None
    assert f"chmod o+x {closed}" in told
    assert "--data-dir" in told
    closed.chmod(0o755)
    os.chmod(inner, 0o700)
    assert f"chmod o+x {inner}" in str(check_reachable(inner, 61_950))
