"""Images: pulled from a registry, built from a Dockerfile; and what is said when that fails."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import socket
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from container_world import ContainerWorld

from activator.drivers import BuildFailed
from activator.drivers.container.source import NEEDED, pack, read_dockerfile
from activator.drivers.process import Limits
from activator.drivers.process.procfs import living, uid_of
from tests.podman import Engines, image_files

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("podman")]

DOCKERFILE = """\
FROM scratch
COPY --chmod=0755 bin /bin
COPY www /www
ENV PATH=/bin
RUN ["/bin/busybox", "echo", "a line of the build"]
CMD ["/bin/busybox", "sh", "-c", "exec busybox httpd -f -p $PORT -h /www"]
"""
FILES: dict[str, str | bytes] = {
    "bin/busybox": image_files()["bin/busybox"],
    "www/index.html": "from a Dockerfile\n",
    "Dockerfile": DOCKERFILE,
}


@pytest.fixture
async def world(engines: Engines) -> AsyncIterator[ContainerWorld]:
    made = ContainerWorld(engines)
    await made.open()
    yield made
    await made.close()
    made.remove()


async def failure(world: ContainerWorld, **job: str) -> BuildFailed:
    with pytest.raises(BuildFailed) as caught:
        await world.build(**job)
    return caught.value


async def test_an_image_is_pulled_with_its_progress_and_its_digest(world: ContainerWorld) -> None:
    digest = world.engines.registry.push("acme/web", "1", image_files("one\n"))
    image = f"{world.engines.registry.host}/acme/web:1"
    artifact = await world.build(image=image)
    assert artifact.commit == digest
    assert world.built[0] == f"pulling {image}"
    assert any("Download complete" in line for line in world.built)
    assert world.built[-1] == f"digest {digest}"
    _, started = await world.start(artifact)
    assert await world.get(started) == (200, b"one\n")


async def test_each_deployment_pulls_again_and_a_pinned_one_finds_what_it_had(world: ContainerWorld) -> None:
    registry = world.engines.registry
    first = registry.push("acme/moves", "1", image_files("one\n"))
    image = f"{registry.host}/acme/moves:1"
    old = await world.build(image=image)
    second = registry.push("acme/moves", "1", image_files("two\n"))
    new = await world.build(image=image)
    assert (old.commit, new.commit) == (first, second)
    assert old.ref != new.ref
    asked = len(registry.asked)
    assert await world.build(image=image, commit=first) == old
    assert len(registry.asked) == asked  # one look-up on the node
    await world.driver.prune(lambda service: {new.ref})
    again = await world.build(image=image, commit=first)
    assert again == old
    _, started = await world.start(again)
    assert await world.get(started) == (200, b"one\n")


async def test_what_nothing_needs_is_pruned_and_nobody_else_s(world: ContainerWorld) -> None:
    podman = world.engines.podman
    kept = await world.pulled("acme/kept")
    loose = await world.build(service="other", image=world.engines.image("acme/loose", text="loose\n"))
    used = await world.build(service="used", image=world.engines.image("acme/used", text="used\n"))
    replica, _ = await world.start(used, service_id="used", namespace="third")
    podman.call("POST", f"/images/{kept.ref}/tag?repo=localhost/somebody&tag=1", parse=False)
    await world.driver.prune(lambda service: {kept.ref} if service == "svc" else set())
    names = set(podman.images())
    assert {kept.ref, used.ref, "localhost/somebody:1"} <= names
    assert loose.ref not in names
    assert not any(name.startswith(f"{world.engines.registry.host}/acme/loose") for name in names)
    networks = {network["Name"] for network in podman.call("GET", "/networks")}
    assert f"wakegate-{world.node}-third" in networks
    await world.driver.stop(replica, 0)
    await world.driver.forget(replica)
    await world.driver.prune(lambda service: None if service == "svc" else set())
    networks = {network["Name"] for network in podman.call("GET", "/networks")}
    assert not any(world.node in name for name in networks)
    assert kept.ref in podman.images()
    podman.call("DELETE", "/images/localhost/somebody:1", parse=False)


async def test_a_failed_pull_says_which_image_and_why(world: ContainerWorld) -> None:
    host = world.engines.registry.host
    missing = await failure(world, image=f"{host}/acme/missing:9")
    assert missing.reason.public == f"image '{host}/acme/missing:9' does not exist"
    assert world.built[-1].startswith(missing.reason.public)
    refused = await failure(world, image=world.engines.image("private/app"))
    assert refused.reason.public.startswith(f"the registry of image '{world.engines.private.host}/private/app:latest' ")
    away = await failure(world, image="127.0.0.1:9/app:1")
    assert away.reason.public == "the registry of image '127.0.0.1:9/app:1' can't be reached from the node"
    assert away.reason.detail is None
    local = await failure(world, image="localhost/never-built:1")
    assert "is not on this node" in local.reason.public


async def test_a_private_image_is_pulled_with_the_node_s_login(world: ContainerWorld) -> None:
    image = world.engines.image("private/app")
    auth = base64.b64encode(b"user:secret").decode()
    (world.place / "auth.json").write_text(json.dumps({"auths": {world.engines.private.host: {"auth": auth}}}))
    artifact = await world.build(image=image)
    assert artifact.commit.startswith("sha256:")
    assert "secret" not in "\n".join(world.built)


async def test_a_repository_is_built_from_its_dockerfile(world: ContainerWorld) -> None:
    repository = world.repository()
    commit = repository.commit(FILES)
    artifact = await world.build(env={"SECRET": "hunter2"})
    assert artifact.commit == commit
    assert world.built[0] == f"cloning acme/app, branch main, commit {commit}"
    assert "a line of the build" in world.built
    assert world.built[-1] == "built"
    assert "hunter2" not in "\n".join(world.built)
    _, started = await world.start(artifact)
    assert await world.get(started) == (200, b"from a Dockerfile\n")
    world.built.clear()
    assert await world.build() == artifact == await world.build(commit=commit)
    assert world.built == [f"commit {commit} is built already"] * 2
    repository.commit({"www/index.html": "changed\n"})
    assert (await world.build()).commit != commit
    assert await world.build(commit=commit) == artifact
    assert list((world.data_dir / "container" / "clones").glob("*/")) == []
    assert not [stat.pid for stat in living() if uid_of(stat.pid) == 61_999]  # git's own uid


async def test_a_failed_build_says_what_to_do(world: ContainerWorld) -> None:
    repository = world.repository()
    commit = repository.commit({"Procfile": "web: x\n"})
    needed = await failure(world)
    assert needed.reason.public == f"this node runs containers and builds no Procfile: {NEEDED}"
    assert needed.commit == commit
    repository.commit({**FILES, "Dockerfile": DOCKERFILE.replace('"echo", "a line of the build"', '"false"')})
    broken = await failure(world)
    assert broken.reason.public == "building its Dockerfile failed"
    assert "exit status 1" in str(broken.reason.detail)
    nowhere = await failure(world, branch="nowhere")
    assert nowhere.reason.public == "repository 'acme/app' has no branch 'nowhere'"
    assert "does not exist" in (await failure(world, repo="acme/none")).reason.public


PROBE = """\
FROM scratch
COPY --chmod=0755 bin /bin
ENV PATH=/bin
RUN ["/bin/busybox", "sh", "-c", "busybox ip -o addr; busybox grep CapEff /proc/self/status; {}"]
CMD ["/bin/busybox", "true"]
"""


async def test_a_build_is_in_the_network_of_its_namespace_with_few_capabilities(world: ContainerWorld) -> None:
    with socket.create_server(("127.0.0.1", 0)) as secret:
        port = secret.getsockname()[1]
        probe = PROBE.format(f"busybox nc -z -w 3 127.0.0.1 {port} && echo reached || echo not reached")
        world.repository().commit({**FILES, "Dockerfile": probe})
        await world.build()
    said = "\n".join(world.built)
    assert "not reached" in said
    own = {line.split()[1] for line in world.built if " inet " in f" {line} " and line[:1].isdigit()}
    assert own == {"lo", "eth0"}
    effective = int(next(line for line in world.built if line.startswith("CapEff")).split()[1], 16)
    assert not effective & (1 << 13 | 1 << 27 | 1 << 29)  # CAP_NET_RAW, CAP_MKNOD, CAP_AUDIT_WRITE


async def test_a_build_takes_nothing_of_another_s(world: ContainerWorld) -> None:
    world.repository().commit({**FILES, "www/index.html": "secret of acme\n"})
    theirs = await world.build()
    image = world.engines.podman.call("GET", f"/images/{theirs.ref}/json")["Id"].removeprefix("sha256:")
    thief = world.repository("app", "evil")
    for name in (image[:2], image[:12], image, theirs.ref, theirs.ref.removeprefix("localhost/")):
        for text in (f"FROM {name}\n", f"FROM scratch\nCOPY --from={name} /www /www\n"):
            thief.commit({**FILES, "Dockerfile": text})
            refused = await failure(world, repo="evil/app", namespace="evil", service="thief")
            assert refused.reason.public == "its Dockerfile is not built"
            assert "of the Dockerfile: image" in str(refused.reason.detail)
        taken = await failure(world, image=name, namespace="evil", service="thief")
        assert "could be the id" in taken.reason.public or "belongs to a service" in taken.reason.public


async def test_caches_of_builds_are_not_shared_between_namespaces(world: ContainerWorld) -> None:
    step = 'RUN --mount=type=cache,target=/cache ["/bin/busybox", "sh", "-c", "busybox {}"]'
    probe = DOCKERFILE.replace('RUN ["/bin/busybox", "echo", "a line of the build"]', step)
    assert probe != DOCKERFILE
    world.repository("app", "evil").commit({**FILES, "Dockerfile": probe.format("touch /cache/poison")})
    await world.build(repo="evil/app", namespace="evil", service="poisoner")
    for repo, namespace, sees in (("other", "evil", True), ("app", "acme", False)):
        world.built.clear()
        world.repository(repo, namespace).commit({**FILES, "Dockerfile": probe.format("ls /cache")})
        await world.build(repo=f"{namespace}/{repo}", namespace=namespace, service=f"looks-{namespace}")
        assert ("poison" in world.built) is sees


async def test_an_image_s_trigger_does_no_more_than_a_dockerfile_may(world: ContainerWorld) -> None:
    base = world.engines.image("acme/base", text="base\n", OnBuild=["ADD http://127.0.0.1:1/metrics /m"])
    world.repository().commit({**FILES, "Dockerfile": f"FROM {base}\n"})
    refused = await failure(world)
    assert "ONBUILD ADD http://127.0.0.1:1/metrics /m" in str(refused.reason.detail)


def sleeping(seconds: str) -> bool:
    """Whether a step of a build sleeps so long, anywhere on the machine."""
    for stat in living():
        try:
            command = Path(f"/proc/{stat.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if command[0] == b"/bin/busybox" and seconds.encode() in command:
            return True
    return False


async def test_a_build_that_is_cancelled_is_ended(world: ContainerWorld) -> None:
    seconds = str(random.randrange(100_000, 900_000))
    slow = DOCKERFILE.replace('"echo", "a line of the build"', f'"sleep", "{seconds}"')
    world.repository().commit({**FILES, "Dockerfile": slow})
    building = asyncio.get_running_loop().create_task(world.build())
    await world.until(lambda: sleeping(seconds))
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    await world.until(lambda: not sleeping(seconds))


async def test_what_takes_too_long_is_ended(world: ContainerWorld) -> None:
    await world.close()
    world.limits = Limits(build=1.0)
    await world.open()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        late = await failure(world, image=f"127.0.0.1:{silent.getsockname()[1]}/app:1")
    assert late.reason.public.endswith("took longer than 1 s to pull")


def test_the_context_is_all_but_git_s_own(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / ".git").mkdir(parents=True)
    (source / ".git" / "config").write_text("x")
    (source / "src").mkdir()
    (source / "src" / ".gitignore").write_text("x")
    (source / "link").symlink_to("/etc/passwd")
    with pytest.raises(BuildFailed, match="add a Dockerfile"):
        read_dockerfile(source)
    (source / "Dockerfile").symlink_to("/etc/passwd")
    with pytest.raises(BuildFailed, match="add a Dockerfile"):
        read_dockerfile(source)
    (source / "Dockerfile").unlink()
    (source / "Dockerfile").write_bytes(b"FROM scratch\xff\n")
    with pytest.raises(BuildFailed, match="byte 12 of its Dockerfile is not UTF-8"):
        read_dockerfile(source)
    (source / "Dockerfile").write_text("FROM scratch\n")
    with tarfile.open(pack(source, tmp_path / "context.tar", read_dockerfile(source))) as archive:
        members = {member.name: member for member in archive.getmembers()}
    assert set(members) == {"Dockerfile", "link", "src", "src/.gitignore"}
    assert members["link"].issym()
    (source / ".dockerignore").write_text("*\n!src\n")
    with tarfile.open(pack(source, tmp_path / "less.tar", "FROM scratch\n")) as archive:
        assert set(archive.getnames()) == {"Dockerfile", "src", "src/.gitignore"}
    assert {(member.uid, member.uname) for member in members.values()} == {(0, "")}
