"""Wakegate under test: the real `wakegate serve` on a data directory of its own, services deployed from real git."""

import http.client
import json
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.backend import HEALTH, nginx_binary, nginx_config
from bench.peers import Proxy
from bench.process import BenchError, Running, command_line, free_port, wait_until

NAMESPACE = "bench"
OWN = re.compile(r"-m wakegate |bin/wakegate |valkey-server")
WORKER = re.compile(r"-m wakegate worker \d")
# nginx as a replica: on $PORT, pinned to the core of the load. The directory's name tells the port in process lists.
START_BACKEND = """#!/bin/sh
set -eu
@{GATE}
dir=$HOME/backend-$PORT
mkdir -p "$dir/www"
head -c 1048576 /dev/urandom >"$dir/www/1m"
sed "s#__DIR__#$dir#g; s#__PORT__#$PORT#g" nginx.conf.in >"$dir/nginx.conf"
exec taskset -c @{CORE} @{NGINX} -p "$dir" -c "$dir/nginx.conf" -e "$dir/error.log"
"""


@dataclass(frozen=True, slots=True)
class Form:
    """One installed form of Wakegate: the command, and whether its hot modules are compiled."""

    name: str
    command: Path

    def compiled_modules(self) -> int:
        """How many modules of the data plane are extension modules in this installation."""
        script = "import gateway, pathlib; print(len(list(pathlib.Path(gateway.__file__).parent.rglob('*.so'))))"
        python = self.command.with_name("python")
        done = subprocess.run([python, "-P", "-c", script], capture_output=True, text=True, check=False)
        return int(done.stdout or 0)

    def version(self) -> str:
        script = "from importlib.metadata import version; print(version('wakegate'))"
        python = self.command.with_name("python")
        done = subprocess.run([python, "-P", "-c", script], capture_output=True, text=True, check=False)
        return done.stdout.strip() or "?"


def forms(root: Path) -> list[Form]:
    """The installed forms beside `root`: plain in .venv, compiled in .venv-compiled; either may be missing."""
    places = (("wakegate", root / ".venv-compiled"), ("wakegate (plain)", root / ".venv"))
    found = [Form(name, place / "bin" / "wakegate") for name, place in places]
    return [form for form in found if form.command.exists()]


class Product:
    """A running `wakegate serve`."""

    def __init__(self, form: Form, directory: Path, core: int | None, options: Sequence[str] = ()) -> None:
        self.form = form
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        self.port, self.tls_port, self.api_port = free_port(), free_port(), free_port()
        self.log = directory / "access.log"
        data = directory / "data"
        command = [str(form.command), "serve", "--data-dir", str(data), "--workers", "1"]
        command += ["--http", f"127.0.0.1:{self.port}", "--api", f"127.0.0.1:{self.api_port}"]
        command += ["--https", f"127.0.0.1:{self.tls_port}", "--access-log", str(self.log)]
        command += ["--api-rate", "1000000", "--max-services", "0"]
        command += ["--git-url", f"file://{directory}/git/{{repo}}", "--git-poll", "0", *options]
        self.output = directory / "output.log"
        self.running = Running.start(command, core=core, output=self.output, cwd=directory)
        try:
            wait_until(self._ready, "wakegate serve printing ready", 60)
        except BenchError:
            self.stop()
            raise
        self.key = (data / "admin.key").read_text().strip()

    def _ready(self) -> bool:
        self.running.check()
        return "ready" in self.output.read_text().split()

    def call(self, method: str, path: str, body: object = None, timeout: float = 120) -> tuple[int, dict[str, object]]:
        """One call of the Services API: status and decoded body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=timeout)
        headers = {"Authorization": f"API-Key {self.key}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        return answer.status, json.loads(raw) if raw else {}

    def metrics(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return text

    def deploy(self, name: str, files: Mapping[str, str], wait: bool = True, **fields: object) -> dict[str, object]:
        """Commit `files` to a repository, create a service of it, return it once it runs."""
        self._commit(name, files)
        body = {"name": name, "repo": f"{NAMESPACE}/{name}", "gpu": "none", **fields}
        status, service = self.call("POST", f"/auth/v1/seed/{NAMESPACE}/services", body)
        if status != 201:
            raise BenchError(f"creating {name}: {status} {service}")
        if wait:
            wait_until(lambda: self.get(name)["status"] == "running", f"{name} running", 60)
        return service

    def get(self, name: str) -> dict[str, object]:
        status, service = self.call("GET", f"/{NAMESPACE}/service/{name}")
        if status != 200:
            raise BenchError(f"reading {name}: {status} {service}")
        if service["status"] == "failed":
            raise BenchError(f"{name} failed: {service['deployment']}")
        return service

    def logs(self, name: str) -> list[dict[str, str]]:
        """The newest log lines, oldest first."""
        status, answer = self.call("GET", f"/{NAMESPACE}/service/{name}/logs?limit=10000")
        if status != 200:
            raise BenchError(f"logs of {name}: {status} {answer}")
        items: list[dict[str, str]] = answer["items"]  # type: ignore[assignment]
        return items

    def host(self, name: str) -> str:
        return f"{name}-{NAMESPACE}.apps.localhost"

    def proxy(self, service: str) -> Proxy:
        """This Wakegate in front of `service`, whose one replica is the nginx of `backend_files`."""
        replicas = [re.search(r"backend-(\d+)", command_line(pid)) for pid in self.running.tree()]
        ports = [int(match.group(1)) for match in replicas if match]
        if not ports:
            raise BenchError("the replica's process was not found below wakegate serve")
        return Proxy(
            name=self.form.name,
            version=self.form.version(),
            port=self.port,
            tls_port=self.tls_port,
            host=self.host(service),
            backend=ports[0],
            log=self.log,
            running=self.running,
            worker=lambda line: WORKER.search(line) is not None,
            excluded=lambda line: OWN.search(line) is None,
        )

    def stop(self) -> None:
        self.running.stop(40)

    def _commit(self, name: str, files: Mapping[str, str]) -> None:
        repository = self.directory / "git" / NAMESPACE / name
        repository.mkdir(parents=True)
        for path, content in files.items():
            (repository / path).write_text(content)
        identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
        for arguments in (["init", "-q", "-b", "main"], ["add", "."], [*identity, "commit", "-q", "-m", "service"]):
            subprocess.run(["git", *arguments], cwd=repository, check=True, env=_git_env())


def backend_files(core: int, gate: Path | None = None) -> dict[str, str]:
    """A service that is the same nginx as the peers' backend; it starts once `gate` exists."""
    waiting = f"while [ ! -e {gate} ]; do sleep 0.1; done" if gate else ""
    start = START_BACKEND.replace("@{GATE}", waiting).replace("@{CORE}", str(core))
    return {
        "Procfile": "web: exec sh start\n",
        "start": start.replace("@{NGINX}", nginx_binary()),
        "nginx.conf.in": nginx_config(Path("__DIR__"), "__PORT__"),
    }


def backend_service() -> dict[str, object]:
    """The fields of a service made of `backend_files`: one replica, always."""
    return {"min_replicas": 1, "max_replicas": 1, "health_check_path": HEALTH}


def _git_env() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}


def asleep(product: Product, name: str, timeout: float = 60) -> None:
    """Wait until the service has no replica left."""

    def gone() -> bool:
        replicas = product.get(name)["replicas"]
        assert isinstance(replicas, dict)
        return not any(replicas.values())

    deadline = time.monotonic() + timeout
    while not gone():
        if time.monotonic() > deadline:
            raise BenchError(f"{name} does not fall asleep: {product.get(name)}")
        time.sleep(0.2)
