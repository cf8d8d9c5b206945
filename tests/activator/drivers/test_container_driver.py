"""Replicas as containers of a real Podman: started once, adopted, ended, and nothing of them left."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
from collections.abc import AsyncIterator

import pytest
from container_world import ContainerWorld

from activator.drivers import Artifact, ArtifactMissing, StartFailed
from activator.drivers.container import ContainerDriver, Engine, EngineMissing
from tests.podman import Engines

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("podman")]


@pytest.fixture
async def world(engines: Engines) -> AsyncIterator[ContainerWorld]:
    made = ContainerWorld(engines)
    await made.open()
    yield made
    await made.close()
    made.remove()


async def test_a_replica_serves_at_its_port_with_its_environment_and_limits(world: ContainerWorld) -> None:
    artifact = await world.pulled("acme/serve")
    replica, started = await world.start(artifact, env={"COLOUR": "green", "PORT": "1"}, cpu=64, memory=1)
    assert await world.get(started) == (200, b"hello from a container\n")
    told = (await world.get(started, "/cgi-bin/env"))[1].decode().splitlines()
    assert {"COLOUR=green", "PORT=8080", "HOST=0.0.0.0"} <= set(told)
    assert await world.driver.listens(replica)
    found = world.container(replica)
    host = found["HostConfig"]
    assert host["NanoCpus"] == (os.cpu_count() or 1) * 1_000_000_000
    assert (host["Memory"], host["PidsLimit"]) == (1 << 30, 4096)
    assert host["Init"] is True
    assert "no-new-privileges" in host["SecurityOpt"]
    assert "NET_RAW" in host["CapDrop"]
    assert "green" not in json.dumps(found["Config"]["Labels"])
    assert world.driver.limits == "enforced"
    assert world.driver.isolated


async def test_the_container_s_port_is_the_service_s_own(world: ContainerWorld) -> None:
    artifact = await world.pulled("acme/port")
    _, started = await world.start(artifact, container_port=9123)
    told = (await world.get(started, "/cgi-bin/env"))[1].decode()
    assert "PORT=9123" in told
    assert started.port != 9123


async def test_a_start_is_done_once_however_often_it_is_asked_for(world: ContainerWorld) -> None:
    launch = world.launch(await world.pulled("acme/once"))
    first, second = await asyncio.gather(world.driver.start(launch), world.driver.start(launch))
    assert first == second == await world.driver.start(launch)
    assert len(world.engines.podman.containers(node=world.node)) == 1


async def test_a_start_that_is_cancelled_is_known(world: ContainerWorld) -> None:
    launch = world.launch(await world.pulled("acme/cancel"))
    starting = asyncio.get_running_loop().create_task(world.driver.start(launch))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await world.driver.stop(launch.replica_id, 0)
    assert not world.engines.podman.containers(node=world.node)
    assert (await world.exit(launch.replica_id)).stopped


async def test_a_stopped_replica_is_told_once_and_leaves_no_container(world: ContainerWorld) -> None:
    artifact = await world.pulled("acme/stop")
    replica, started = await world.start(artifact)
    await world.get(started)
    await world.driver.stop(replica, 10)
    how = world.exits[replica]
    assert (how.stopped, how.signal) == (True, signal.SIGTERM)
    assert world.lines(replica) == ["listening on 0.0.0.0:8080", "this is stderr"]
    assert not world.engines.podman.containers(node=world.node)
    (seen,) = await world.driver.observe()
    assert (seen.alive, seen.exit) == (False, how)
    assert not await world.driver.listens(replica)
    with pytest.raises(StartFailed, match="ended by signal 15 already"):
        await world.driver.start(dataclasses.replace(world.launch(artifact), replica_id=replica))
    await world.driver.stop(replica, 0)
    await world.driver.forget(replica)
    await world.driver.forget(replica)
    assert await world.driver.observe() == []


async def test_one_that_ignores_the_signal_is_killed_after_the_grace_or_when_hurried(world: ContainerWorld) -> None:
    command = ["/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"]
    artifact = await world.pulled("acme/deaf", Cmd=command)
    patient, _ = await world.start(artifact)
    hurried, _ = await world.start(artifact)
    await world.until(lambda: world.lines(patient) and world.lines(hurried))
    slow = asyncio.get_running_loop().create_task(world.driver.stop(hurried, 60))
    await asyncio.sleep(0)
    await asyncio.gather(world.driver.stop(patient, 0.3), world.driver.stop(hurried, 0))
    await slow
    assert {world.exits[name].signal for name in (patient, hurried)} == {signal.SIGKILL}


async def test_one_that_ends_by_itself_is_told_with_its_code_and_last_lines(world: ContainerWorld) -> None:
    command = ["/bin/sh", "-c", "echo out; echo the reason >&2; exit 3"]
    replica, _ = await world.start(await world.pulled("acme/exit", Cmd=command))
    how = await world.exit(replica)
    assert (how.code, how.signal, how.stopped) == (3, None, False)
    assert how.last_line == "the reason"
    assert sorted(world.lines(replica)) == ["out", "the reason"]
    await world.until(lambda: not world.engines.podman.containers(node=world.node))


async def test_one_that_is_killed_or_removed_from_outside_is_told(world: ContainerWorld) -> None:
    artifact = await world.pulled("acme/kill")
    killed, _ = await world.start(artifact)
    removed, _ = await world.start(artifact)
    podman = world.engines.podman
    podman.kill(world.container(killed)["Id"])
    assert (await world.exit(killed)).signal == signal.SIGKILL
    podman.call("DELETE", f"/containers/{world.container(removed)['Id']}?force=true", parse=False)
    assert not (await world.exit(removed)).stopped


async def test_another_control_adopts_what_runs_and_hears_of_its_end(world: ContainerWorld) -> None:
    artifact = await world.pulled("acme/adopt", Cmd=["/bin/sh", "-c", "echo first; /bin/server; echo never"])
    replica, started = await world.start(artifact)
    await world.get(started)
    before = world.container(replica)["Id"]
    await world.reopen()
    (seen,) = await world.driver.observe()
    assert (seen.replica_id, seen.port, seen.alive, seen.deployment_id) == (replica, started.port, True, "dep")
    assert world.container(replica)["Id"] == before
    assert await world.driver.start(dataclasses.replace(world.launch(artifact), replica_id=replica)) == started
    assert started.port != world.driver.allocate(())
    await world.driver.stop(replica, 10)
    assert world.exits[replica].stopped
    assert world.lines(replica) == ["first", "listening on 0.0.0.0:8080", "this is stderr"]


async def test_an_end_while_nobody_looked_is_told_once(world: ContainerWorld) -> None:
    artifact = await world.pulled("acme/away", Cmd=["/bin/sh", "-c", "echo up; trap 'echo bye; exit 7' TERM; sleep 99"])
    replica, _ = await world.start(artifact)
    await world.until(lambda: world.lines(replica))
    container = world.container(replica)["Id"]
    await world.close(keep=True)
    world.engines.podman.kill(container, "SIGTERM")
    world.engines.podman.kill(container)
    await world.until(lambda: not world.engines.podman.inspect(container)["State"]["Running"])
    await world.open()
    await world.exit(replica)
    assert not world.exits[replica].stopped
    await world.reopen()  # told already: `_exited` asserts that it is not told again
    (seen,) = await world.driver.observe()
    assert (seen.alive, seen.exit) == (False, world.exits[replica])
    await world.driver.forget(replica)
    await world.reopen()
    assert await world.driver.observe() == []


async def test_what_never_started_or_is_gone_is_cleared_away(world: ContainerWorld) -> None:
    artifact = await world.pulled("acme/orphan")
    replica, _ = await world.start(artifact)
    gone = world.container(replica)["Id"]
    labels = world.container(replica)["Config"]["Labels"]
    await world.close(keep=True)
    podman = world.engines.podman
    podman.call("DELETE", f"/containers/{gone}?force=true", parse=False)
    never = labels | {"wakegate.replica": "never"}
    podman.call("POST", "/containers/create?name=wakegate-never", {"Image": artifact.ref, "Labels": never})
    foreign = podman.call("POST", "/containers/create?name=foreign", {"Image": artifact.ref})
    await world.open()
    assert await world.driver.observe() == []
    assert not podman.containers(node=world.node)
    assert podman.inspect(foreign["Id"])["Name"] == "/foreign"
    podman.call("DELETE", f"/containers/{foreign['Id']}?force=true", parse=False)


async def test_no_line_is_lost_or_doubled_over_restarts(world: ContainerWorld) -> None:
    script = "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); [ $((i % 100)) = 0 ] && sleep 0.3; done; sleep 99"
    replica, _ = await world.start(await world.pulled("acme/lines", Cmd=["/bin/sh", "-c", script]))
    for wanted in (1, 150, 250):
        await world.until(lambda wanted=wanted: len(world.lines(replica)) >= wanted)  # type: ignore[misc]
        await world.reopen()
    await world.until(lambda: f"line {399}" in world.lines(replica))
    await world.driver.stop(replica, 0)
    assert world.lines(replica) == [f"line {number}" for number in range(400)]


async def test_a_missing_image_is_to_be_made_again(world: ContainerWorld) -> None:
    launch = world.launch(Artifact("sha256:0", f"localhost/wakegate-{world.node}/acme/svc:none"))
    with pytest.raises(ArtifactMissing):
        await world.driver.start(launch)
    assert await world.driver.observe() == []


async def test_a_command_that_is_not_there_is_a_failed_start_and_leaves_nothing(world: ContainerWorld) -> None:
    replica, _ = await world.start(await world.pulled("acme/nocommand", Cmd=["/bin/nope"]))
    how = await world.exit(replica)  # its init process was there to say so
    assert how.code not in (None, 0)
    assert "No such file or directory" in str(how.last_line)
    await world.driver.forget(replica)
    without = await world.pulled("acme/none", Cmd=[])
    with pytest.raises(StartFailed, match="add CMD or ENTRYPOINT"):
        await world.start(without)
    assert not world.engines.podman.containers(node=world.node)
    assert await world.driver.observe() == []


async def test_gpus_are_refused_where_the_engine_would_ignore_them(world: ContainerWorld) -> None:
    artifact = await world.pulled("acme/gpu")
    with pytest.raises(StartFailed, match="gives no GPUs"):
        await world.start(artifact, gpu="T4", gpu_count=1)
    assert world.driver.gpus == {}


async def test_namespaces_are_on_networks_that_don_t_meet(world: ContainerWorld) -> None:
    server = await world.pulled("acme/net")
    replica, started = await world.start(server)
    await world.get(started)
    (network,) = world.container(replica)["NetworkSettings"]["Networks"].values()
    address = network["IPAddress"]
    probe = f"echo | nc -w 3 {address} 8080 && echo reached || echo kept out; sleep 99"
    client = await world.build(namespace="other", image=world.engines.image("other/net", Cmd=["/bin/sh", "-c", probe]))
    stranger, _ = await world.start(client, namespace="other")
    sister = await world.build(image=world.engines.image("acme/sister", Cmd=["/bin/sh", "-c", probe]))
    friend, _ = await world.start(sister)
    await world.until(lambda: world.lines(stranger) and world.lines(friend))
    assert "kept out" in world.lines(stranger)
    assert "reached" not in world.lines(stranger)
    assert "reached" in world.lines(friend)


async def test_an_engine_that_is_restarted_is_waited_for(world: ContainerWorld) -> None:
    artifact = await world.pulled("acme/restart")
    replica, started = await world.start(artifact)
    await world.get(started)
    podman = world.engines.podman
    container = world.container(replica)["Id"]
    podman.stop()
    try:
        assert await world.driver.listens(replica)
        with pytest.raises(StartFailed, match="does not answer"):
            await world.start(artifact)
        assert await world.get(started) == (200, b"hello from a container\n")
        podman.run("kill", container)
    finally:
        podman.start()
    assert (await world.exit(replica)).signal == signal.SIGKILL
    assert "this is stderr" in world.lines(replica)


async def test_closing_ends_all_or_keeps_all(world: ContainerWorld) -> None:
    artifact = await world.pulled("acme/close")
    await world.start(artifact)
    await world.reopen()
    assert len(world.engines.podman.containers(node=world.node)) == 1
    await world.close()
    assert not world.engines.podman.containers(node=world.node)
    await world.open()


async def test_no_engine_is_said_with_the_fix(world: ContainerWorld) -> None:
    with pytest.raises(EngineMissing, match="--engine-socket"):
        await Engine(world.place / "nothing.sock").connect()
    assert isinstance(world.driver, ContainerDriver)
