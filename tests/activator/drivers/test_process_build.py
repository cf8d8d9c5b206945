"""Builds of the process driver: real repositories, real git, real pip."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import shutil
import zipfile

import pytest
from node_under_test import World, running

from activator.drivers import BuildFailed
from activator.drivers.process import Limits


async def failure(world: World, **job: object) -> str:
    with pytest.raises(BuildFailed) as caught:
        await world.build(**job)
    world.failed_commit = caught.value.commit
    return str(caught.value.reason)


async def test_an_image_is_not_for_this_driver(world: World) -> None:
    with pytest.raises(BuildFailed, match="can't run images"):
        await world.build(image="nginx:1")


async def test_the_newest_commit_of_the_branch(world: World) -> None:
    repository = world.repository()
    repository.commit({"Procfile": "web: old\n"})
    commit = repository.commit({"Procfile": "web: new\n"})
    artifact = await world.build()
    assert artifact.commit == commit
    checkout = world.driver._builder.find("acme", "svc", artifact.ref)
    assert checkout is not None
    assert checkout.web == "new"
    assert world.built == [f"cloning acme/app, branch main, commit {commit}", "built"]


async def test_an_older_commit_can_be_built_again(world: World) -> None:
    repository = world.repository()
    old = repository.commit({"Procfile": "web: old\n"})
    repository.commit({"Procfile": "web: new\n"})
    assert (await world.build(commit=old)).commit == old
    gone = "0123456789" * 4
    assert (await failure(world, commit=gone)).startswith(f"commit {gone} can't be had from 'acme/app' any more")
    assert await failure(world, commit="--upload-pack=x") == "'--upload-pack=x' is not a commit"


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        ({"branch": "nope"}, "repository 'acme/app' has no branch 'nope'"),
        ({"branch": "--upload-pack=touch /tmp/x"}, "has no branch '--upload-pack=touch /tmp/x'"),
        ({"branch": "*"}, "repository 'acme/app' has no branch '*'"),
        ({"repo": "acme/nope"}, "repository 'acme/nope' does not exist or can't be read; file:///"),
        ({"repo": "../../etc"}, "'../../etc' is not a repository"),
        ({"repo": "acme/.."}, "'acme/..' is not a repository"),
        ({"repo": "ext::sh/x"}, "'ext::sh/x' is not a repository"),
    ],
)
async def test_nothing_to_clone(world: World, job: dict[str, object], reason: str) -> None:
    world.repository().commit({"Procfile": "web: x\n"})
    assert reason in await failure(world, **job)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"README": "hello"}, "add a Procfile with `web: …` listening on $PORT"),
        ({"Procfile": "worker: x\n"}, "add a Procfile with `web: …` listening on $PORT"),
        ({"Procfile": "web: x\noops\n"}, "line 2 of the Procfile is not `name: command`"),
        (
            {"Procfile": "web: x\nbuild: echo no compiler >&2; exit 3\n"},
            "the build failed (exit code 3); last line of its log: no compiler",
        ),
        ({"Procfile": "web: x\nbuild: kill -9 $$\n"}, "the build failed (ended by signal 9)"),
        ({"Procfile": "web: x\n", "requirements.txt": "./nope.whl\n"}, "installing requirements.txt failed"),
    ],
)
async def test_a_repository_that_can_not_be_built(world: World, files: dict[str, str], reason: str) -> None:
    world.repository().commit(files)
    assert reason in await failure(world)
    assert any(reason in line for line in world.built)
    assert list(world.driver._layout.built()) == []


async def test_a_procfile_that_is_a_link_is_not_followed(world: World) -> None:
    repository = world.repository()
    (repository.path / "Procfile").symlink_to("/etc/shadow")
    repository.commit({})
    assert await failure(world) == "the Procfile must be a regular file"


async def test_a_procfile_that_is_a_directory_is_the_owner_s_affair(world: World) -> None:
    world.repository().commit({"Procfile/README": "hello"})
    assert await failure(world) == "the Procfile must be a regular file"


async def test_a_failure_tells_the_commit_as_soon_as_it_is_known(world: World) -> None:
    commit = world.repository().commit({"Procfile": "web: x\nbuild: exit 1\n"})
    await failure(world)
    assert world.failed_commit == commit
    await failure(world, branch="nope")
    assert world.failed_commit is None


async def test_what_anybody_may_read_has_nothing_of_logs_addresses_or_paths(world: World) -> None:
    secret = "DB=postgres://u:p@db"
    repository = world.repository()
    repository.commit({"Procfile": f"web: x\nbuild: echo {secret}; exit 7\n"})
    broken = world.repository("broken")
    broken.commit({"Procfile": "web: x\n"})
    head = broken.path / ".git" / "refs" / "heads" / "main"
    head.write_text("0123456789" * 4 + "\n")
    cases = {
        "acme/app": ("the build failed (exit code 7)", f"last line of its log: {secret}"),
        "acme/nope": ("repository 'acme/nope' does not exist or can't be read", "file://"),
        "acme/broken": ("can't clone 'acme/broken'", "file://"),
    }
    for repo, (public, detail) in cases.items():
        with pytest.raises(BuildFailed) as caught:
            await world.build(repo=repo)
        reason = caught.value.reason
        assert reason.public == public
        assert reason.detail is not None
        assert detail in reason.detail
        assert str(reason) == f"{reason.public}; {reason.detail}"


async def test_a_checkout_that_was_spoilt_is_built_again(world: World) -> None:
    world.repository().commit({"Procfile": "web: x\n", "app.py": "1", "data/a": "a", ".gitignore": "x"})
    ref = (await world.build()).ref
    source = world.driver._layout.checkout("acme", "svc", ref) / "source"

    def overwrite() -> None:
        (source / "app.py").write_text("2")

    spoils = (overwrite, (source / "app.py").unlink, lambda: shutil.rmtree(source / "data"), lambda: source.chmod(0))
    for spoil in spoils:
        spoil()
        world.built.clear()
        assert (await world.build()).ref == ref
        assert world.built[-1] == "built"
        assert (source / "app.py").read_text() == "1"
    (source / "__pycache__").mkdir()
    (source / "new").write_text("an application may write beside itself")
    world.built.clear()
    await world.build()
    assert world.built == [f"commit {ref} is built already"]


async def test_a_checkout_is_not_taken_from_below_a_replica(world: World) -> None:
    world.repository().commit({"Procfile": "web: rm app.py; echo gone; sleep 67890\n", "app.py": "1"})
    artifact = await world.build()
    first, _ = await world.start(artifact)
    await world.said("gone")
    second, _ = await world.start(artifact)
    assert await world.driver.verify(second)
    assert (await world.build()) == artifact
    assert world.built[-1] == f"commit {artifact.ref} is built already"
    await world.driver.stop(second, 0)
    assert not await world.driver.verify(first)  # its own does not count: it did not come up
    assert world.driver._builder.find("acme", "svc", artifact.ref) is None
    assert await world.driver.verify("unknown")


async def test_build_runs_once_per_commit_with_the_service_s_environment(world: World) -> None:
    repository = world.repository()
    repository.commit({"Procfile": "web: x\nbuild: echo building with $COLOR; echo x >>$HOME/builds\n"})
    artifacts = await asyncio.gather(*(world.build(env={"COLOR": "red"}) for _ in range(3)))
    assert len(set(artifacts)) == 1
    assert await world.build(env={"COLOR": "red"}) == artifacts[0]
    assert (world.driver._layout.homes / "acme" / "svc" / "builds").read_text() == "x\n"
    assert world.built.count("building with red") == 1
    assert sum("is built already" in line for line in world.built) == 3


async def test_a_build_that_takes_too_long_is_ended_whole(world: World) -> None:
    world.driver._builder._limits = Limits(build=0.5)
    world.repository().commit({"Procfile": "web: x\nbuild: setsid sleep 67890 & echo $!; sleep 67891\n"})
    assert await failure(world) == "the build took longer than 0 s"
    assert not running(int(world.built[2]))


async def test_a_build_may_leave_nothing_running(world: World) -> None:
    world.repository().commit({"Procfile": "web: x\nbuild: setsid sleep 67890 & echo $!\n"})
    await world.build()
    assert not running(int(world.built[2]))


async def test_a_cancelled_build_is_ended(world: World) -> None:
    world.repository().commit({"Procfile": "web: x\nbuild: echo $$; sleep 67890\n"})
    building = asyncio.get_running_loop().create_task(world.build())
    await world.until(lambda: len(world.built) == 3)
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    assert not running(int(world.built[2]))


async def test_a_half_made_checkout_is_made_again(world: World) -> None:
    commit = world.repository().commit({"Procfile": "web: x\n"})
    checkout = world.driver._layout.checkout("acme", "svc", commit)
    (checkout / "source" / "Procfile").mkdir(parents=True)
    assert (await world.build()).commit == commit
    assert (checkout / "source" / "Procfile").is_file()


def wheel() -> bytes:
    """A package `greeting` without dependencies, so that pip needs no index."""
    info, files = "greeting-1.0.dist-info", {"greeting.py": b"WORD = 'hello from a requirement'\n"}
    files[f"{info}/METADATA"] = b"Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    digests = {
        name: base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=") for name, body in files.items()
    }
    record = "".join(f"{name},sha256={digests[name].decode()},{len(body)}\n" for name, body in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return packed.getvalue()


async def test_requirements_are_installed_and_first_on_the_path(world: World) -> None:
    world.repository().commit(
        {
            "Procfile": "web: python3 -c 'import greeting; print(greeting.WORD)'\n",
            "requirements.txt": "./greeting-1.0-py3-none-any.whl\n",
            "greeting-1.0-py3-none-any.whl": wheel(),
        }
    )
    replica, _ = await world.start(await world.build())
    assert (await world.exit(replica)).code == 0
    assert world.lines(replica=replica) == ["hello from a requirement"]


async def test_what_is_being_built_is_not_pruned(world: World) -> None:
    world.repository().commit({"Procfile": "web: x\nbuild: echo building; sleep 0.5\n"})
    building = asyncio.get_running_loop().create_task(world.build())
    await world.until(lambda: "building" in world.built)
    await world.driver.prune(lambda _: [])
    ref = (await building).ref
    assert [commit for _, _, commit in world.driver._layout.built()] == [ref]


async def test_what_nothing_needs_is_pruned(world: World) -> None:
    repository = world.repository()
    refs = []
    for number in range(3):
        repository.commit({"Procfile": f"web: sleep 6789{number}\n"})
        refs.append(await world.build())
    other = await world.build(service="other")
    await world.start(refs[0])
    await world.driver.prune(lambda _: None)
    assert len(list(world.driver._layout.built())) == 4
    await world.driver.prune({"svc": [refs[2].ref], "other": []}.get)
    left = {(service, commit) for _, service, commit in world.driver._layout.built()}
    assert left == {("svc", refs[0].ref), ("svc", refs[2].ref)}
    assert other.ref == refs[2].ref
    assert [path.name for path in world.driver._layout.homes.glob("*/*")] == ["svc"]


async def test_however_deep_a_tenant_nests_directories_they_are_told_of_and_removed(world: World) -> None:
    repository = world.repository()
    good = repository.commit({"Procfile": "web: x\n"})
    deep = "mkdir -p $HOME/$(yes d | head -n 1200 | tr '\\n' /)"
    repository.commit({"Procfile": f"web: x\nbuild: {deep}\n"})
    await world.build()
    repository.commit({"Procfile": "web: x\n"})
    repository.commit_deep(1200)
    assert await failure(world) == "its directories are nested too deep"
    assert (await world.build(commit=good)).commit == good  # and the node goes on
    await world.driver.prune(lambda service: set())
    assert list(world.driver._layout.built()) == []
    await world.driver.prune(lambda service: set())
    assert list(world.driver._layout.homes.glob("*/*")) == []
