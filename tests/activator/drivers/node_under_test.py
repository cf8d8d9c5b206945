"""A driver on a data directory that other uids can reach, real git repositories, and replicas in shell or Python."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from activator.drivers import Artifact, BuildJob, Exit, Launch, Started
from activator.drivers.process import Limits, ProcessDriver
from activator.drivers.process.procfs import read_stat
from activator.logs import Collector, LogStore
from activator.logs.reader import Query
from state.ids import new_id


def running(pid: int) -> bool:
    """Whether there is such a process that is no zombie."""
    stat = read_stat(pid)
    return stat is not None and stat.alive


class Repository:
    """A git repository `acme/<name>` with one commit after another on `main`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self._git("init", "-q", "-b", "main")

    def commit(self, files: dict[str, str | bytes]) -> str:
        for name, content in files.items():
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        self._git("add", "-A")
        self._git("commit", "-q", "--allow-empty", "-m", "change")
        return self._git("rev-parse", "HEAD").strip()

    def commit_deep(self, levels: int) -> str:
        """Add an empty file below that many directories, by git alone."""
        empty = self._git("hash-object", "-w", "/dev/null").strip()
        self._git("update-index", "--add", "--cacheinfo", f"100644,{empty},{'d/' * levels}file")
        self._git("commit", "-q", "-m", "deep")
        return self._git("rev-parse", "HEAD").strip()

    def _git(self, *words: str) -> str:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
        env = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
        done = subprocess.run(["git", *who, *words], cwd=self.path, env=env, check=True, capture_output=True, text=True)
        return done.stdout


@dataclass
class World:
    """A node: its driver, its collector, and what they told."""

    place: Path
    limits: Limits = field(default_factory=Limits)
    git_url: str = ""
    gpus: Mapping[str, int] = field(default_factory=dict)
    exits: dict[str, Exit] = field(default_factory=dict)
    built: list[str] = field(default_factory=list)
    failed_commit: str | None = None

    def __post_init__(self) -> None:
        self.changed = asyncio.Event()
        self.data_dir = self.place / "data"
        self.store = LogStore(self.data_dir / "logs")

    def repository(self, name: str = "app", owner: str = "acme") -> Repository:
        return Repository(self.place / "git" / owner / name)

    async def open(self) -> None:
        self.data_dir.mkdir(exist_ok=True)
        self.collector = Collector(self.store)
        self.collecting = asyncio.get_running_loop().create_task(self.collector.run())
        git_url = self.git_url or f"file://{self.place}/git/{{repo}}"
        self.driver = ProcessDriver(
            self.data_dir, git_url=git_url, logs=self.collector, limits=self.limits, gpus=self.gpus
        )
        await self.driver.open(self._exited)

    async def close(self, *, keep: bool = False) -> None:
        await self.driver.close(keep=keep)
        self.collecting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.collecting
        await self.collector.close()

    def _exited(self, replica: str, how: Exit) -> None:
        assert replica not in self.exits
        self.exits[replica] = how
        self.changed.set()

    async def exit(self, replica: str) -> Exit:
        await self.until(lambda: replica in self.exits)
        return self.exits[replica]

    async def until(self, condition: Callable[[], object], timeout: float = 40.0) -> None:
        """Wait for something outside this process."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, "it did not come"
            await asyncio.sleep(0.01)

    def job(self, service: str = "svc", namespace: str = "acme", repo: str = "acme/app", **more: object) -> BuildJob:
        values = {"branch": "main", "deployment_id": "dep", **more}
        return BuildJob(service_id=service, namespace=namespace, repo=repo, **values)  # type: ignore[arg-type]

    async def build(self, **job: object) -> Artifact:
        return await self.driver.build(self.job(**job), self.built.extend)  # type: ignore[arg-type]

    async def start(
        self,
        artifact: Artifact,
        service: str = "svc",
        namespace: str = "acme",
        env: dict[str, str] | None = None,
        gpu: str = "none",
        gpu_count: int = 1,
    ) -> tuple[str, Started]:
        launch = Launch(
            replica_id=new_id(),
            service_id=service,
            namespace=namespace,
            deployment_id="dep",
            artifact=artifact.ref,
            port=self.driver.allocate(()),
            env=env or {},
            gpu=gpu,
            gpu_count=gpu_count,
        )
        return launch.replica_id, await self.driver.start(launch)

    async def run(self, web: str, **start: object) -> tuple[str, Started]:
        """Commit, build and start a service whose Procfile has this `web:` line."""
        namespace = str(start.get("namespace", "acme"))
        name = f"r{len(list(self.place.glob('git/*/*')))}"
        self.repository(name, namespace).commit({"Procfile": f"web: {web}\n"})
        service = str(start.get("service", "svc"))
        artifact = await self.build(service=service, namespace=namespace, repo=f"{namespace}/{name}")
        return await self.start(artifact, **start)  # type: ignore[arg-type]

    def lines(self, service: str = "svc", replica: str | None = None) -> list[str]:
        return [item.line for item in self.store.read_now(service, Query(limit=10_000, replica=replica)).items]

    async def said(self, text: str, service: str = "svc") -> None:
        await self.until(lambda: text in self.lines(service))
