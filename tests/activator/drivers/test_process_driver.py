"""Replicas of the process driver: real processes, real signals."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from node_under_test import World, running

from activator.drivers import ArtifactMissing, Launch, StartFailed
from activator.drivers.process import ProcessDriver
from activator.drivers.process.procfs import alive, boot_id, parse_stat, read_stat
from activator.drivers.process.records import Record, Records
from activator.logs import Collector, LogStore

FOREVER = "sleep 67890"


async def test_the_environment_is_plain(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAKEGATE_SECRET_KEY", "secret")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy")
    replica, started = await world.run("env", env={"COLOR": "red\nblue", "LANG": "de_DE.UTF-8"})
    assert (await world.exit(replica)).code == 0
    said = {line for line in world.lines(replica=replica) if not line.startswith(("PWD=", "SHLVL=", "_="))}
    assert said == {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        f"HOME={world.data_dir}/process/homes/acme/svc",
        "LANG=de_DE.UTF-8",
        "HOST=127.0.0.1",
        f"PORT={started.port}",
        "COLOR=red",
        "blue",
    }


async def test_replicas_are_shown_their_gpus_and_keep_them_over_an_adoption(world: World) -> None:
    await world.close()
    world.gpus = {"L4": 1, "T4": 2}
    await world.open()
    show = "echo $CUDA_DEVICE_ORDER/$CUDA_VISIBLE_DEVICES; " + FOREVER
    replicas = [(await world.run(show, gpu="T4"))[0] for _ in range(3)]
    replicas.append((await world.run(show, gpu="T4", env={"CUDA_VISIBLE_DEVICES": "GPU-mine"}))[0])
    shown = ["PCI_BUS_ID/1", "PCI_BUS_ID/2", "PCI_BUS_ID/1", "PCI_BUS_ID/GPU-mine"]
    for replica, line in zip(replicas, shown, strict=True):
        await world.until(lambda replica=replica, line=line: world.lines(replica=replica) == [line])  # type: ignore[misc]
    await world.close(keep=True)
    await world.open()
    given = {observed.replica_id: observed.gpus for observed in await world.driver.observe()}
    assert [given[replica] for replica in replicas] == [("1",), ("2",), ("1",), ("2",)]


async def test_nothing_else_is_inherited(world: World) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        replica, started = await world.run(
            "ls -l /proc/$$/fd >$HOME/files; grep -c -- '->' $HOME/files; readlink /proc/$$/fd/0; umask; "
            "grep -E '^Sig(Ign|Blk)' /proc/self/status; ulimit -n; cut -d' ' -f5,6 /proc/$$/stat; echo $$ $PWD"
        )
    finally:
        signal.signal(signal.SIGHUP, old)
        os.close(reader)
        os.close(writer)
    await world.exit(replica)
    count, stdin, umask, blocked, ignored, files, ids, own = world.lines(replica=replica)
    assert int(count) <= 4  # 0, 1, 2, and one that the shell may open to redirect
    assert (stdin, umask) == ("/dev/null", "0022")
    theirs = 1 << 31 | 1 << 32  # signals 32 and 33 are the C library's own: nobody can set them back through it
    assert (int(blocked.split()[1], 16), int(ignored.split()[1], 16) & ~theirs) == (0, 0)
    assert 1024 <= int(files) <= 65_536
    assert own == f"{started.pid} {world.driver._layout.checkouts}/acme/svc/{own.rsplit('/', 2)[1]}/source"
    assert ids == f"{started.pid} {started.pid}"


async def test_how_a_replica_ended(world: World) -> None:
    replica, _ = await world.run("echo fine; echo no module named app >&2; exit 3")
    how = await world.exit(replica)
    assert (how.code, how.signal, how.stopped) == (3, None, False)
    assert (str(how), how.last_line) == ("exited with code 3", "no module named app")
    assert sorted(world.lines(replica=replica)) == ["fine", "no module named app"]
    observed = (await world.driver.observe())[0]
    assert (observed.alive, observed.exit, observed.pid) == (False, how, None)
    await world.driver.forget(replica)
    assert await world.driver.observe() == []
    assert list((world.data_dir / "replicas").iterdir()) == []
    assert len(world.lines(replica=replica)) == 2


async def test_killed_from_outside(world: World) -> None:
    replica, started = await world.run(f"{FOREVER}; true")
    os.kill(started.pid or 0, signal.SIGKILL)
    how = await world.exit(replica)
    assert (how.code, how.signal, str(how)) == (None, 9, "ended by signal 9")


async def test_a_command_that_does_not_exist(world: World) -> None:
    replica, _ = await world.run("unheard-of --port $PORT")
    how = await world.exit(replica)
    assert how.code == 127
    assert "unheard-of: not found" in (how.last_line or "")


async def test_closing_before_it_was_opened(place: Path) -> None:
    data_dir = place / "data"
    data_dir.mkdir()
    driver = ProcessDriver(data_dir, git_url="file:///{repo}", logs=Collector(LogStore(data_dir / "logs")))
    await driver.close(keep=False)
    opening = asyncio.get_running_loop().create_task(driver.open(lambda *_: None))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await driver.close(keep=False)


async def test_starting_twice_is_starting_once(world: World) -> None:
    world.repository().commit({"Procfile": f"web: {FOREVER}\n"})
    artifact = await world.build()
    launch = Launch("r1", "svc", "acme", "dep", artifact.ref, world.driver.allocate(()))
    first = await world.driver.start(launch)
    assert await world.driver.start(launch) == first
    await world.driver.stop("r1", 0)
    with pytest.raises(StartFailed, match="ended by signal 9 already"):
        await world.driver.start(launch)


async def test_an_artifact_that_is_not_here(world: World) -> None:
    with pytest.raises(ArtifactMissing):
        await world.driver.start(Launch("r1", "svc", "acme", "dep", "0" * 40, 20_000))
    with pytest.raises(ArtifactMissing):
        await world.driver.start(Launch("r1", "svc", "acme", "dep", "../../x", 20_000))
    assert await world.driver.observe() == []


async def test_stop_lets_it_finish(world: World) -> None:
    replica, _ = await world.run("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done")
    await world.said("up")
    await world.driver.stop(replica, 10)
    how = world.exits[replica]
    assert (how.code, how.stopped) == (7, True)
    assert [line for line in world.lines(replica=replica) if line != "Terminated"] == ["up", "bye"]
    await world.driver.stop(replica, 10)
    await world.driver.stop("unknown", 10)


async def test_the_grace_is_for_the_server_behind_a_shell_too(world: World) -> None:
    program = "; ".join(
        (
            "import signal, sys, time",
            "end = lambda *_: (time.sleep(.3), print('flushed', flush=True), sys.exit())",
            "signal.signal(15, end)",
            "print('up', flush=True)",
            "signal.pause()",
        )
    )
    replica, _ = await world.run(f'python3 -c "{program}" && true')
    await world.said("up")
    await world.driver.stop(replica, 10)
    assert world.lines(replica=replica) == ["up", "flushed"]


@pytest.mark.parametrize("grace", [0, 0.3])
async def test_one_that_ignores_sigterm_is_killed(world: World, grace: float) -> None:
    replica, started = await world.run("trap '' TERM; echo up; while :; do sleep 0.05; done")
    await world.said("up")
    await world.driver.stop(replica, grace)
    assert world.exits[replica].signal == 9
    assert not running(started.pid or 0)


async def test_a_stopped_one_ends_within_its_grace(world: World) -> None:
    replica, started = await world.run("trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done")
    await world.said("up")
    os.kill(started.pid or 0, signal.SIGSTOP)
    await world.driver.stop(replica, 10)
    assert world.exits[replica].code == 5


@pytest.mark.parametrize(
    "daemon",
    [
        "(sleep 67890 & echo $! >>pids);",
        "setsid sh -c 'echo $$ >>pids; exec sleep 67890' &",
        "(setsid sh -c 'echo $$ >>pids; (setsid sleep 67891 & echo $! >>pids); exec sleep 67892' &);",
    ],
)
async def test_whatever_it_forked_is_stopped(world: World, daemon: str) -> None:
    bystander, other = await world.run(FOREVER, service="bystander")
    replica, _ = await world.run(f"{daemon} sleep 0.2; echo $$ >>pids; echo up; {FOREVER}")
    await world.said("up")
    pids = [int(pid) for path in world.data_dir.glob("**/pids") for pid in path.read_text().split()]
    assert len(pids) >= 2
    assert all(map(running, pids))
    await world.driver.stop(replica, 0.5)
    assert not any(map(running, pids))
    assert running(other.pid or 0)
    assert bystander not in world.exits


async def test_what_a_crashed_one_left_is_ended(world: World) -> None:
    replica, _ = await world.run("setsid sleep 67890 & echo $! >pid; sleep 0.1; exit 1")
    await world.exit(replica)
    pid = next(world.data_dir.glob("**/source/pid"))
    assert not running(int(pid.read_text()))


async def test_replicas_outlive_control_and_are_adopted(world: World) -> None:
    program = "trap 'exit 7' TERM; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done"
    replica, started = await world.run(program)
    ended, _ = await world.run("sleep 0.3; echo last words; exit 4", service="ended")
    await world.said("line 1")
    await world.close(keep=True)
    assert running(started.pid or 0)
    await world.until(lambda: not any(read.alive for read in [read_stat(p) for p in pids_of("last words")] if read))
    world.exits.clear()
    await world.open()
    observed = {found.replica_id: found for found in await world.driver.observe()}
    assert observed[replica].alive
    assert (observed[replica].pid, observed[replica].port) == (started.pid, started.port)
    assert not observed[ended].alive
    assert world.exits[ended].last_lines == ("last words",)
    count = len(world.lines(replica=replica))
    await world.until(lambda: len(world.lines(replica=replica)) > count + 2)
    await world.driver.stop(replica, 10)
    assert world.exits[replica].stopped
    numbers = [int(line.split()[1]) for line in world.lines(replica=replica) if line != "Terminated"]
    assert numbers == list(range(1, len(numbers) + 1))  # none lost, none twice


async def test_one_that_ends_while_control_adopts_takes_nobody_along(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it leaves is ended once all are known: else those that are not adopted yet would go with it."""
    pids = {}
    for service in ("one", "two", "three"):
        replica, started = await world.run(FOREVER, service=service)
        pids[replica] = started.pid or 0
    await world.close(keep=True)
    adopt, adopted = ProcessDriver._adopt, []

    async def slowly(driver: ProcessDriver, record: Record) -> None:
        await adopt(driver, record)
        adopted.append(record.replica_id)
        if len(adopted) == 1:
            os.kill(pids[adopted[0]], signal.SIGKILL)
            await world.until(lambda: driver._tasks)

    monkeypatch.setattr(ProcessDriver, "_adopt", slowly)
    await world.open()
    await world.exit(adopted[0])
    assert [running(pids[replica]) for replica in adopted] == [False, True, True]


def pids_of(text: str) -> list[int]:
    """Processes that have the text in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


async def test_control_is_killed_between_record_and_process(world: World) -> None:
    world.repository().commit({"Procfile": f"web: {FOREVER}\n"})
    artifact = await world.build()
    launch = Launch("r1", "svc", "acme", "dep", artifact.ref, world.driver.allocate(()))
    world.driver._ready(launch, ())
    await world.close(keep=True)
    await world.open()
    assert await world.driver.observe() == []
    assert (await world.driver.start(launch)).pid


async def test_strays_of_a_killed_control_are_ended(world: World) -> None:
    """A build, or a child that wrote its pid too late: nothing is on record of it, its HOME gives it away."""
    home = world.data_dir / "process" / "homes" / "acme" / "svc"
    await world.close(keep=True)
    stray = subprocess.Popen(["/bin/sleep", "67890"], env={"HOME": str(home), "PORT": "1"}, start_new_session=True)
    mine = subprocess.Popen(["/bin/sleep", "67890"], env={"HOME": str(world.place)}, start_new_session=True)
    try:
        if os.geteuid() != 0:
            await world.open()
            assert stray.wait(5) == -9
            assert mine.poll() is None
        else:
            await world.open()
            assert stray.poll() is None  # root's own: no namespace runs as root
    finally:
        stray.kill()
        mine.kill()
        stray.wait()
        mine.wait()


async def test_a_pid_that_was_used_again_is_not_adopted(world: World) -> None:
    replica, started = await world.run(FOREVER)
    path = world.data_dir / "replicas" / replica / "pid"
    await world.until(path.read_text)
    await world.close(keep=True)
    found = read_stat(started.pid or 0)
    assert found is not None
    path.write_text(path.read_text().replace(str(found.start), str(found.start - 1)))
    world.exits.clear()
    await world.open()
    assert not (await world.driver.observe())[0].alive
    assert not alive(started.pid or 0, found.start)  # a stray now


async def test_what_runs_is_seen_without_control(world: World) -> None:
    records = Records(world.data_dir / "replicas")
    replica, started = await world.run(FOREVER)
    other, _ = await world.run(FOREVER, service="other")
    again, _ = await world.run(FOREVER, service="again")
    ended, _ = await world.run("exit 4", service="ended")
    await world.exit(ended)
    await world.until(lambda: len(records.running()) == 3)
    await world.close(keep=True)
    before = world.data_dir / "replicas" / other / "replica.json"
    before.write_text(before.read_text().replace(boot_id(), "another boot"))
    pid = world.data_dir / "replicas" / again / "pid"
    stat = parse_stat(pid.read_text())
    pid.write_text(pid.read_text().replace(str(stat.start), str(stat.start - 1)))
    assert records.running() == {replica: started.pid}
    await world.open()
    await world.driver.stop(replica, 0)
    assert records.running() == {}


async def test_ports_are_not_given_twice(world: World) -> None:
    _, started = await world.run(FOREVER)
    world.driver._addresses._ports._next -= 1
    assert world.driver.allocate(()) != started.port


async def test_whether_it_listens_itself(world: World) -> None:
    replica, started = await world.run("python3 -m http.server --bind 127.0.0.1 $PORT")

    async def listening() -> bool:
        return await world.driver.listens(replica)

    while not await listening():
        assert replica not in world.exits
        with socket.socket() as probe:
            probe.connect_ex(("127.0.0.1", started.port))
    await world.driver.stop(replica, 0)
    assert not await listening()


@pytest.mark.root
async def test_another_s_listener_is_told_apart(world: World) -> None:
    replica, started = await world.run(FOREVER)
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", started.port))
        squatter.listen()
        assert not await world.driver.listens(replica)


async def test_a_start_holds_the_loop_only_briefly(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """The figure is for the eye; how long a start takes is the machine's affair."""
    world.repository().commit({"Procfile": "web: exec true\n"})
    artifact = await world.build()
    took, original = [], world.driver._spawn

    def spawn(*arguments: object) -> object:
        begin = time.perf_counter()
        try:
            return original(*arguments)  # type: ignore[arg-type]
        finally:
            took.append((time.perf_counter() - begin) * 1000)

    world.driver._spawn = spawn  # type: ignore[method-assign,assignment]
    for _ in range(10):
        replica, _ = await world.start(artifact)
        assert (await world.exit(replica)).code == 0
    with capsys.disabled():
        print(f"\nspawn: median {sorted(took)[5]:.2f} ms, worst {max(took):.2f} ms")
