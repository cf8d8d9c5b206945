"""A real node: `wakegate serve` with ports of its own, a short data directory, git repositories. See conftest.py."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[2]
T = TypeVar("T")


def eventually(condition: Callable[[], T], seconds: float = 40, what: str = "") -> T:
    """The first truthy value of `condition`, looked at every 10 ms at first, later every 50; fails after `seconds`."""
    deadline, pause = time.monotonic() + seconds, 0.01
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(pause)
        pause = min(1.1 * pause, 0.05)
    return value


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; header names as sent, the last of equal ones wins."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Node:
    """One `wakegate serve`. Everything is below `self.root`, a short directory in /tmp that every uid may pass."""

    def __init__(self, *, workers: int = 2, options: Sequence[str] = (), env: Mapping[str, str] | None = None) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="wg-", dir="/tmp"))
        self.root.chmod(0o755)
        self.data = self.root / "data"
        self.git = self.root / "git"
        self.git.mkdir()
        self.output = self.root / "serve.out"
        self.options = [
            *("--data-dir", str(self.data), "--http", "127.0.0.1:0", "--api", "127.0.0.1:0"),
            *(() if "--https" in options else ("--https", "127.0.0.1:0")),
            *("--git-url", f"file://{self.git}/{{repo}}", "--workers", str(workers), *options),
        ]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WAKEGATE_")}
        # tests ask in loops: the quota of a key has tests of its own
        self.env = {"WAKEGATE_API_RATE": "1000000"} | clean | dict(env or {})
        self.process: subprocess.Popen[bytes] | None = None
        self._started_at = 0  # size of the output before this start

    # The process

    def start(self, *, wait: bool = True) -> Node:
        """Start `serve`; with `wait` until it says ready."""
        with self.output.open("ab") as output:
            self._started_at = output.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wakegate", "serve", *self.options],
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, seconds: float = 60) -> None:
        eventually(lambda: "ready" in self.lines() or self.exited, seconds, "the node is ready")
        assert "ready" in self.lines(), self.said

    @property
    def said(self) -> str:
        """All that this start of `serve` and its children wrote."""
        return self.output.read_bytes()[self._started_at :].decode("utf-8", "replace")

    def lines(self) -> list[str]:
        return self.said.splitlines()

    @property
    def exited(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self, number: int = signal.SIGTERM, seconds: float = 60) -> int:
        """Send a signal, wait for the end, return the exit status."""
        assert self.process is not None
        self.send(number)
        return self.process.wait(seconds)

    def close(self) -> None:
        """End everything and remove the directory; replicas that were left behind are ended, too."""
        if self.process is not None and self.process.poll() is None:
            self.send(signal.SIGCONT)
            for _ in range(20):  # two that come together may count as one
                self.send(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(1)
                    break
            else:
                self.process.kill()
                self.process.wait()
        for pid in self.strays():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.root, ignore_errors=True)

    def strays(self) -> list[int]:
        """Processes that work inside our directory: replicas, the store."""
        return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and self._is_ours(p)]

    def _is_ours(self, proc: Path) -> bool:
        try:
            return Path(os.readlink(proc / "cwd")).is_relative_to(self.root)
        except OSError:
            return False

    # Its children

    def pids(self) -> dict[str, list[int]]:
        """{"control": [...], "worker 1": [...], "valkey-server": [...]}: the supervisor's living children by role."""
        found: dict[str, list[int]] = {}
        for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue
            if command:  # not a zombie
                found.setdefault(_role(command), []).append(int(pid))
        return found

    def child(self, role: str) -> int:
        """The pid of the one child with this role; waits for it."""
        return eventually(lambda: self.pids().get(role), what=f"a process {role}")[0]

    def kill(self, role: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to `control`, `worker N` or `valkey-server`; returns its pid."""
        pid = self.child(role)
        os.kill(pid, number)
        return pid

    def replaced(self, role: str, old: int, seconds: float = 30) -> int:
        """The pid of the process that took the place of `old`."""

        def other() -> int:
            return next((pid for pid in self.pids().get(role, []) if pid != old), 0)

        return eventually(other, seconds, f"{role} replaced")

    def client_ports(self, pid: int) -> set[int]:
        """The ports of the clients whose established connections to our plain listener a worker holds."""
        inodes = set()
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(entry.path))
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        local = f":{self.http_port:04X}"
        held = [row for row in rows if row[1].endswith(local) and row[3] == "01" and f"socket:[{row[9]}]" in inodes]
        return {int(row[2].rpartition(":")[2], 16) for row in held}

    # Its addresses and answers

    def _port(self, name: str) -> int:
        return int(next(line for line in self.lines() if line.startswith(name + " ")).rpartition(":")[2])

    @property
    def http_port(self) -> int:
        return self._port("http")

    @property
    def https_port(self) -> int:
        return self._port("https")

    @property
    def api_port(self) -> int:
        return self._port("api")

    @property
    def admin_key(self) -> str:
        """`NAME$SECRET`."""
        return (self.data / "admin.key").read_text().strip()

    def api(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, timeout: float = 60, **headers: str
    ) -> Answer:
        """Call the Services API; `key=""` without credentials."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        credentials = self.admin_key if key is None else key
        if credentials:
            sent["Authorization"] = f"Bearer {credentials}"
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        return _exchange(self.api_port, method, path, data, sent, timeout)

    def request(
        self,
        host: str,
        path: str = "/",
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> Answer:
        """One request through the gateway on a connection of its own."""
        return _exchange(self.http_port, method, path, body, {"Host": host, **(headers or {})}, timeout)

    # Services

    def commit(self, repo: str, files: Mapping[str, str], *, branch: str = "main") -> str:
        """Commit these files (`bin/…` executable) as all of `repo` on `branch`; returns the commit."""
        path = self.git / repo
        if not (path / ".git").exists():
            path.mkdir(parents=True)
            _git(path, "init", "-q", "-b", branch)
        elif _git(path, "branch", "--show-current") != branch:
            exists = bool(_git(path, "branch", "--list", branch))
            _git(path, "checkout", "-q", *([] if exists else ["-b"]), branch)
        for file in path.iterdir():
            if file.name != ".git":
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        for name, text in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)
            (path / name).chmod(0o755 if name.startswith("bin/") else 0o644)
        _git(path, "add", "-A")
        _git(path, "commit", "-q", "--allow-empty", "-m", "change")
        return _git(path, "rev-parse", "HEAD")

    def create(self, namespace: str, name: str, *, repo: str | None = None, **fields: Any) -> dict[str, Any]:
        """Create a service of a repository (default `namespace/name`); returns its JSON."""
        body = {"name": name, "repo": repo or f"{namespace}/{name}", "gpu": "none", **fields}
        answer = self.api("POST", f"/auth/v1/seed/{namespace}/services", body)
        assert answer.status == 201, answer
        return answer.json()

    def service(self, namespace: str, name: str) -> dict[str, Any]:
        answer = self.api("GET", f"/{namespace}/service/{name}")
        assert answer.status == 200, answer
        return answer.json()

    def asleep(self, namespace: str, name: str) -> bool:
        """Whether it is stopped, and none of its replicas is left that may be called back."""
        return _asleep(self.service(namespace, name))

    def wait_status(self, namespace: str, name: str, status: str, seconds: float = 60) -> dict[str, Any]:
        """The service once it has this status; stopped: once none of its replicas is left, that may be called back."""
        seen: dict[str, Any] = {}

        def reached() -> bool:
            seen.clear()
            seen.update(self.service(namespace, name))
            return seen["status"] == status and (status != "stopped" or _asleep(seen))

        try:
            eventually(reached, seconds, f"{namespace}/{name} is {status}")
        except AssertionError as error:
            raise AssertionError(f"{error}; last: {seen}") from None
        return dict(seen)


def _role(command: str) -> str:
    if "valkey-server" in command or "redis-server" in command:
        return "valkey-server"
    return command.partition("-m wakegate ")[2] or command


def _git(path: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "safe.directory=*"]
    done = subprocess.run(["git", *settings, *arguments], cwd=path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _asleep(service: Mapping[str, Any]) -> bool:
    return service["status"] == "stopped" and not any(service["replicas"].values())


def _exchange(
    port: int, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout: float
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()
