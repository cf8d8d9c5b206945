"""`wakegate demo`: the main job on an example service, watched from outside through the API and the gateway.

A real `wakegate serve` on free ports in a temporary directory deploys `examples/hello` from a git repository made on
the spot. It starts, serves, falls asleep, and wakes under requests that are held meanwhile. Nothing stays behind.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import wakegate
from wakegate.children import child_environment
from wakegate.client import Client, ClientError, Failed
from wakegate.commands.naming import Target
from wakegate.commands.progress import follow_deployment, newest
from wakegate.terminal import visible

_IDLE = 2  # s until the service sleeps
_HELD = 20  # requests sent at once to the sleeping service
_START_DELAY = "0.5"  # s that the example takes to start, as a real program would
_PATIENCE = 60.0  # s for any one step
_POLL = 0.1  # s


class DemoError(Exception):
    """A step did not work."""


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    text: str
    wake: str  # Server-Timing
    seconds: float


def demo() -> int:
    """Run it; the exit status is 0 only if every step worked."""
    console = Console(highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _temporary_directory() as directory:
            log = directory / "serve.log"
            try:
                with _node(directory, log, console) as (client, port):
                    _play(console, client, port)
            except (DemoError, ClientError, Failed) as error:
                _complain(console, error, log)
                return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    console.print("[bold green]That is Wakegate.[/] Now yours: [bold]wakegate serve[/]")
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _complain(console: Console, error: Exception, log: Path) -> None:
    lines = error.lines() if isinstance(error, Failed) else [str(error)]
    console.print("[bold red]The demo failed:[/]")
    for line in lines:
        console.print("  " + visible(line), markup=False)
    with contextlib.suppress(OSError):
        said = log.read_text("utf-8", "replace").splitlines()[-30:]
        console.print("What the node said last:", *map(visible, said), sep="\n  ", markup=False)


# The node


@contextlib.contextmanager
def _temporary_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="wakegate-demo-"))
    directory.chmod(0o755)  # as root, replicas have uids of their own and must get in
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _node(directory: Path, log: Path, console: Console) -> Iterator[tuple[Client, int]]:
    """A `wakegate serve` of our own; the client of its API and the port of its gateway."""
    repositories, data = directory / "git", directory / "data"
    _make_repository(_example(), repositories / "demo" / "hello")
    command = [sys.executable, "-P", "-m", "wakegate", "serve", "--data-dir", str(data)]
    command += ["--http", "127.0.0.1:0", "--https", "off", "--api", "127.0.0.1:0"]
    command += ["--git-url", f"file://{repositories}/{{repo}}"]
    environment = {key: value for key, value in child_environment().items() if not key.startswith("WAKEGATE_")}
    with log.open("wb") as output:
        serve = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
        )
    try:
        with _step(console, "starting a node: store, control, one gateway worker per CPU"):
            addresses = _wait_ready(serve, log)
        for line in addresses:
            console.print(f"   {line}")
        key = (data / "admin.key").read_text().strip()
        yield Client("http" + addresses[-1].partition("http")[2], key), int(addresses[0].rpartition(":")[2])
    finally:
        _end(serve)


def _wait_ready(serve: subprocess.Popen[bytes], log: Path) -> list[str]:
    """Its addresses, `http  http://…` and `api   http://…`, once it is ready."""
    deadline = time.monotonic() + _PATIENCE
    while "ready" not in (lines := log.read_text("utf-8", "replace").splitlines()):
        if serve.poll() is not None:
            raise DemoError(f"`wakegate serve` exited with status {serve.returncode}")
        if time.monotonic() > deadline:
            raise DemoError("`wakegate serve` did not become ready")
        time.sleep(_POLL)
    return [line for line in lines if line.startswith(("http ", "api "))]


def _end(serve: subprocess.Popen[bytes]) -> None:
    serve.terminate()
    try:
        serve.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        serve.kill()
        serve.wait()


def _example() -> Path:
    """The example service: beside the packages in a checkout, under `share` when installed."""
    places = [Path(wakegate.__file__).parents[1], Path(sysconfig.get_path("data")) / "share" / "wakegate"]
    for place in places:
        if (place / "examples" / "hello" / "Procfile").is_file():
            return place / "examples" / "hello"
    raise DemoError(f"the example service is missing in {' and '.join(map(str, places))}: was it installed completely?")


def _make_repository(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    identity = ["-c", "user.name=Wakegate demo", "-c", "user.email=demo@localhost"]
    clean = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for command in (["init", "-q", "-b", "main"], ["add", "."], [*identity, "commit", "-q", "-m", "Hello"]):
        try:
            done = subprocess.run(["git", *command], cwd=target, env=clean, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise DemoError("git is not installed: apt-get install git") from None
        if done.returncode != 0:
            raise DemoError(f"git {command[0]}: {done.stderr.strip()}")


# The play


def _play(console: Console, client: Client, port: int) -> None:
    service = _deploy(console, client)
    host = service["endpoint"].partition("://")[2].rpartition(":")[0]
    address = f"http://{host}:{port}/"

    _show(console, f"a first request to {address}", _get(port, host))
    warm = _get(port, host)
    _show(console, "a warm one", warm)

    with _step(console, f"waiting: nobody asks, after {_IDLE} s it sleeps"):
        _until_asleep(client)
    console.print("   asleep: no process of the service runs")

    with _step(console, f"{_HELD} requests at once, held while it wakes"), ThreadPoolExecutor(_HELD) as pool:
        replies = list(pool.map(lambda _: _get(port, host), range(_HELD)))
    awake = {reply.text.partition(",")[0] for reply in replies}
    slowest = max(reply.seconds for reply in replies)
    console.print(f"   {_HELD} answers of 200 from {len(awake)} process, the slowest after {slowest * 1000:.0f} ms")
    if len(awake) != 1:
        raise DemoError(f"one start was to answer them all, but it was {', '.join(sorted(awake))}")
    for line in _cold_starts(client)[-1:]:
        _tell(console, f"{line} (ms)")
    again = _get(port, host)
    _show(console, "and warm again", again)
    console.print(f"   cold {slowest * 1000:.0f} ms, warm {min(warm.seconds, again.seconds) * 1000:.1f} ms")


def _deploy(console: Console, client: Client) -> dict[str, Any]:
    body = {
        "name": "hello",
        "repo": "demo/hello",
        "gpu": "none",
        "min_replicas": 0,
        "max_replicas": 1,
        "env": {"START_DELAY": _START_DELAY},
        "scaling": {"idle_timeout": _IDLE},
    }
    with _step(console, "deploying examples/hello: clone, build, start, wait until it is healthy"):
        made = client.call("POST", "auth", "v1", "seed", "demo", "services", body=body).body
        target, show = Target(client, "demo", "hello"), lambda line: _tell(console, line)
        service, failed = follow_deployment(target, newest(made)["id"], show, _PATIENCE)
    if failed:
        raise DemoError(f"the deployment failed: {failed}")
    return dict(service)


def _until_asleep(client: Client) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        service = client.call("GET", "demo", "service", "hello").body
        if service["status"] == "stopped" and not any(service["replicas"].values()):
            return
        if time.monotonic() > deadline:
            raise DemoError(f"the service does not fall asleep: it is {service['status']}")
        time.sleep(_POLL)


def _cold_starts(client: Client) -> list[str]:
    """What the events say of cold starts: the total, and how it splits into phases."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        events = client.call("GET", "demo", "service", "hello", "events").body["items"]
        told = [event["reason"] for event in events if event["reason"].startswith("cold start")]
        if told:
            return told
        if time.monotonic() > deadline:
            raise DemoError("no event tells of the cold start")
        time.sleep(_POLL)


def _get(port: int, host: str) -> _Reply:
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/", headers={"Host": host})
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace").strip()
        timing = response.headers.get("Server-Timing", "")
    except (OSError, http.client.HTTPException) as error:
        raise DemoError(f"the gateway did not answer: {error}") from None
    finally:
        connection.close()
    if response.status != 200:
        raise DemoError(f"the gateway answered {response.status}: {text}")
    return _Reply(response.status, text, timing, time.monotonic() - began)


def _show(console: Console, what: str, reply: _Reply) -> None:
    timing = f", {visible(reply.wake)}" if reply.wake else ""
    console.print(f"[bold]·[/] {what}: {reply.status} after {reply.seconds * 1000:.1f} ms{timing}")
    _tell(console, reply.text)


def _tell(console: Console, text: str) -> None:
    """A line with words of the node, the service or git."""
    console.print(f"   {visible(text)}", markup=False)


@contextlib.contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    """One step with a spinner on a terminal; its duration either way."""
    began = time.monotonic()
    console.print(f"[bold]·[/] {what} …")
    with console.status(what) if console.is_terminal else contextlib.nullcontext():
        yield
    console.print(f"   {time.monotonic() - began:.1f} s")
