"""The embedded store with the real binary: started, asked, damaged, repaired, refused."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from wakegate.children import Process
from wakegate.datadir import DataDirectory
from wakegate.errors import ServeError
from wakegate.repair import repair
from wakegate.store_process import EmbeddedStore, Version, check_version, find_binary, version_of


class Home:
    """A data directory with a store that the test starts and ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = DataDirectory.open(path, shared_with_replicas=False)
        self.store = EmbeddedStore(self.data, "everysec")
        self.running: list[Process] = []

    async def start(self) -> Process:
        process = self.store.start(0.0)
        self.running.append(process)
        async with asyncio.timeout(30):
            while True:
                try:
                    if await self.store.ping() == "+PONG":
                        return process
                except OSError:
                    await asyncio.sleep(0.01)

    def end(self, process: Process, number: int = signal.SIGTERM) -> int:
        process.signal(number)
        process.ended(os.waitpid(process.pid, 0)[1])
        self.running.remove(process)
        assert process.status is not None
        return process.status

    async def command(self, *words: str) -> str:
        reader, writer = await asyncio.open_unix_connection(self.store.socket)
        writer.write((" ".join(words) + "\r\n").encode())
        answer = (await reader.readline()).decode().strip()
        if answer.startswith("$"):
            answer = (await reader.readline()).decode().strip()
        writer.close()
        return answer

    def close(self) -> None:
        for process in list(self.running):
            self.end(process, signal.SIGKILL)
        os.close(self.data.descriptor)
        os.close(self.store.descriptors[0])


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "data")
    yield home
    home.close()


async def test_it_keeps_what_was_written_over_a_kill(home):
    process = await home.start()
    assert (home.path / "store.sock").stat().st_mode & 0o777 == 0o700
    assert await home.command("SET", "a", "1") == "+OK"
    assert home.end(process, signal.SIGKILL) == -signal.SIGKILL
    process = await home.start()
    assert await home.command("GET", "a") == "1"
    assert home.end(process) == 0


async def test_it_holds_the_lock_of_the_directory(home):
    process = await home.start()
    held = f"/proc/{process.pid}/fd/{home.data.descriptor}"
    assert os.path.samefile(held, home.path / "lock")


async def test_a_damaged_file_is_told_with_its_repair_which_works(home):
    process = await home.start()
    await home.command("SET", "a", "1")
    home.end(process)
    file = home.path / "appendonlydir" / "appendonly.aof.1.incr.aof"
    with file.open("ab") as opened:
        opened.write(b"\0\0damage\0\0*3\r\n")
    process = home.store.start(0.0)
    process.ended(os.waitpid(process.pid, 0)[1])
    assert process.status == 1
    complaint = home.store.complaint()
    assert "its append-only file is damaged: Bad file format reading the append only file" in complaint
    assert complaint.endswith(f"wakegate repair --data-dir {home.path}")
    with pytest.raises(ServeError, match="another `wakegate serve`"):
        repair(home.path)  # we hold the lock
    os.close(home.data.descriptor)
    kept, copy = repair(home.path)
    assert "cut 14" in kept
    assert Path(copy.partition(": ")[2]).read_bytes().endswith(b"*3\r\n")
    assert repair(home.path) == [f"{file} is sound: nothing to repair"]
    home.data = DataDirectory.open(home.path, shared_with_replicas=False)
    home.store._data = home.data
    await home.start()
    assert await home.command("GET", "a") == "1"


async def test_other_reasons_are_the_end_of_its_log(home):
    (home.path / "appendonlydir").mkdir()
    (home.path / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    process = home.store.start(0.0)
    process.ended(os.waitpid(process.pid, 0)[1])
    assert "the end of its log:\n  " in home.store.complaint()
    assert "manifest" in home.store.complaint()


async def test_a_path_too_long_for_a_socket_goes_through_our_open_directory(tmp_path):
    home = Home(tmp_path / ("x" * 120))
    try:
        assert len(home.store.socket) < 40
        await home.start()
    finally:
        home.close()


def test_a_log_begins_anew_when_it_has_grown(home):
    (home.path / "store.log").write_bytes(b"x" * ((1 << 20) + 1))
    os.close(home.store._open_log())
    assert (home.path / "store.log").stat().st_size == 0
    assert (home.path / "store.log.1").exists()


@pytest.mark.parametrize(
    ("server", "writer", "reads"),
    [
        ("Valkey 9.1.2", "Valkey 9.1.9", True),
        ("Valkey 9.1.2", "Valkey 8.0.0", True),
        ("Valkey 8.1.0", "Valkey 9.0.0", False),
        ("Valkey 9.1.2", "Redis 7.2.4", True),
        ("Valkey 9.1.2", "Redis 7.4.0", False),
        ("Redis 7.0.15", "Valkey 7.2.5", False),
    ],
)
def test_which_server_reads_whose_files(server, writer, reads):
    assert Version.read(server).reads_files_of(Version.read(writer)) is reads


def test_files_of_a_newer_server_are_refused(home):
    version = version_of(find_binary())
    assert Version.read((home.path / "store.version").read_text()) == version
    (home.path / "store.version").write_text("Valkey 99.0.1\n")
    with pytest.raises(ServeError, match=r"written by Valkey 99\.0\.1; .* install Valkey 99\.0 or newer"):
        check_version(version, home.path)
    (home.path / "store.version").write_text("nonsense")
    check_version(version, home.path)
