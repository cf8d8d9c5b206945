"""The proxies that Wakegate is compared with: how each is started, and where its access log is.

Their configurations lie beside this file and do the same job: X-Forwarded-For/-Proto/-Host, a request id, Via,
keep-alive connections upstream, an access log with the same fields. Buffering of the log is what each does
in production: nginx, Envoy and Wakegate write in batches; HAProxy, Caddy and aiohttp write each line.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import certificate
from bench.backend import render
from bench.process import BenchError, Running, command_line, free_port, memory

HERE = Path(__file__).parent
PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin"
CONNECTIONS = 16384
HOST = "bench.localhost"


@dataclass(slots=True)
class Proxy:
    """A running proxy under test. `host` is the Host (and SNI) that it routes by; `backend` the backend's port behind
    it; `tls_port` is 0 where it has none."""

    name: str
    version: str
    port: int
    tls_port: int
    host: str
    backend: int
    log: Path
    running: Running
    worker: Callable[[str], bool] = lambda _line: True
    excluded: Callable[[str], bool] = lambda _line: False

    def pids(self) -> list[int]:
        """Every process whose CPU time counts as the proxy's."""
        return [pid for pid in self.running.tree() if not self.excluded(command_line(pid))]

    def workers(self) -> list[int]:
        """The processes that carry the requests."""
        return [pid for pid in self.pids() if self.worker(command_line(pid))]

    def log_lines(self) -> int:
        """Lines in the access log now."""
        if not self.log.exists():
            return 0
        with self.log.open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))

    def uss(self) -> int:
        """Bytes that the workers share with nobody."""
        return sum(memory(pid).uss for pid in self.workers())

    def rss(self) -> int:
        return sum(memory(pid).rss for pid in self.workers())

    def stop(self) -> None:
        self.running.stop()


@dataclass(frozen=True, slots=True)
class Peer:
    """How to start one: `command` gets its directory, its configuration, port, the backend's port and the log."""

    name: str
    binary: str
    config: str
    command: Callable[[str, Path, Path, int, int, Path], list[str]]
    version: list[str]
    log_is_stdout: bool = False
    tls: bool = True
    worker: Callable[[str], bool] = lambda _line: True

    def found(self) -> str | None:
        return shutil.which(self.binary, path=PATH)

    def start(self, directory: Path, backend: int, core: int) -> Proxy:
        """Start it on a free port in front of `backend`; BenchError if it isn't installed or doesn't come up."""
        binary = self.found()
        if binary is None:
            raise BenchError(f"{self.name} is not installed")
        directory.mkdir(parents=True, exist_ok=True)
        port, tls_port, log = free_port(), free_port() if self.tls else 0, directory / "access.log"
        if self.tls:
            certificate.make(HOST, directory)
        log.touch()
        log.chmod(0o666)
        config = directory / self.config
        values = {"DIR": directory, "PORT": port, "TLS": tls_port, "HOST": HOST, "BACKEND": backend, "LOG": log}
        values |= {"CONNECTIONS": CONNECTIONS, "FILES": CONNECTIONS + 1024}
        source = (HERE / self.config).read_text()
        config.write_text(source if config.suffix == ".py" else render(source, **values))
        output = log if self.log_is_stdout else directory / "output.log"
        running = Running.start(
            self.command(binary, directory, config, port, backend, log),
            core=core,
            output=output,
            errors=directory / "errors.log",
            env={"GOMAXPROCS": "1", "HOME": str(directory)},
        )
        running.wait_for_port(port)
        if tls_port:
            running.wait_for_port(tls_port)
        return Proxy(self.name, self.told_version(binary), port, tls_port, HOST, backend, log, running, self.worker)

    def told_version(self, binary: str) -> str:
        told = subprocess.run([binary, *self.version], capture_output=True, text=True, timeout=30, check=False)
        match = re.search(r"\d+\.\d+\.\d+", told.stdout + told.stderr)
        return match.group(0) if match else "?"


def _nginx(binary: str, directory: Path, config: Path, _port: int, _backend: int, _log: Path) -> list[str]:
    return [binary, "-p", str(directory), "-c", str(config), "-e", str(directory / "error.log")]


def _haproxy(binary: str, _directory: Path, config: Path, _port: int, _backend: int, _log: Path) -> list[str]:
    return [binary, "-db", "-f", str(config)]


def _caddy(binary: str, _directory: Path, config: Path, _port: int, _backend: int, _log: Path) -> list[str]:
    return [binary, "run", "--adapter", "caddyfile", "--config", str(config)]


def _envoy(binary: str, _directory: Path, config: Path, _port: int, _backend: int, _log: Path) -> list[str]:
    options = ["--concurrency", "1", "--file-flush-interval-msec", "1000", "-l", "warn", "--disable-hot-restart"]
    return [binary, "-c", str(config), *options]


def _aiohttp(binary: str, _directory: Path, config: Path, port: int, backend: int, log: Path) -> list[str]:
    return [binary, str(config), str(port), str(backend), str(log)]


AIOHTTP_VERSION = ["-c", "import aiohttp; print(aiohttp.__version__)"]

PEERS = {
    peer.name: peer
    for peer in (
        Peer("nginx", "nginx", "nginx.conf", _nginx, ["-v"], worker=lambda line: "worker process" in line),
        Peer("haproxy", "haproxy", "haproxy.cfg", _haproxy, ["-v"], log_is_stdout=True),
        Peer("caddy", "caddy", "Caddyfile", _caddy, ["version"]),
        Peer("envoy", "envoy", "envoy.yaml", _envoy, ["--version"]),
        Peer("aiohttp", sys.executable, "aiohttp_proxy.py", _aiohttp, AIOHTTP_VERSION, tls=False),
    )
}
