"""The one backend of all proxies: an nginx that answers 128 bytes or 1 MiB, and counts its connections."""

import os
import shutil
import urllib.request
from pathlib import Path
from string import Template

from bench.process import BenchError, Running, free_port

SMALL = "/small"
LARGE = "/1m"
HEALTH = "/healthz"
SMALL_BODY = "x" * 128
LARGE_BYTES = 1 << 20


class _AtTemplate(Template):
    """`@{NAME}` is replaced; `$name` belongs to nginx, HAProxy and Envoy themselves."""

    delimiter = "@"


def render(text: str, **values: object) -> str:
    """Fill every `@{NAME}` of a committed configuration; KeyError for one without a value."""
    return _AtTemplate(text).substitute({key: str(value) for key, value in values.items()})


def nginx_config(directory: Path, port: object) -> str:
    """The backend's configuration; `directory` gets its files and holds `www/1m`."""
    source = Path(__file__).parent / "peers" / "backend.conf"
    return render(source.read_text(), DIR=directory, PORT=port, BODY=SMALL_BODY)


def write_files(directory: Path) -> None:
    """The files that the backend serves."""
    www = directory / "www"
    www.mkdir(parents=True, exist_ok=True)
    (www / "1m").write_bytes(os.urandom(LARGE_BYTES))


def nginx_binary() -> str:
    found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        raise BenchError("nginx is needed as the backend: apt-get install -y nginx-light")
    return found


class Backend:
    """A running backend."""

    def __init__(self, directory: Path, core: int) -> None:
        self.directory = directory
        self.port = free_port()
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        write_files(directory)
        config = directory / "nginx.conf"
        config.write_text(nginx_config(directory, self.port))
        self.running = Running.start(
            [nginx_binary(), "-p", str(directory), "-c", str(config), "-e", str(directory / "error.log")],
            core=core,
            output=directory / "output.log",
        )
        self.running.wait_for_port(self.port)

    def accepts(self) -> int:
        return accepts(self.port)

    def stop(self) -> None:
        self.running.stop()


def accepts(port: int) -> int:
    """Connections accepted so far by a backend, the asking one not counted."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stub_status", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    _asked[port] = _asked.get(port, 0) + 1
    return int(lines[2].split()[0]) - _asked[port]


_asked: dict[int, int] = {}
