"""Credentials of `--git-url`: they reach the forge, and nobody else on the machine. Real git, a real HTTP server."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_under_test import World
from private_forge import TOKEN, WRITTEN, PrivateForge, serving

from activator.drivers import BuildFailed, BuildJob
from activator.drivers.container.source import Sources
from activator.drivers.process import Limits, UsersError
from activator.drivers.process.forge import Forge
from activator.drivers.process.users import Identity
from activator.remotes import Remotes, Unreachable

SECRETS = tuple(text.encode() for text in (TOKEN, WRITTEN, WRITTEN.split(":")[1]))
GIT_UID = 61_999
TENANT = Identity(61_900)


class Watch:
    """Looks at every process of the machine all the time, and at each request while git waits for the answer."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.leaks: set[str] = set()
        self.uids: set[int] = set()
        self.readable: set[str] = set()
        self.requests = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.002):
            self.look()

    def look(self) -> None:
        for proc in Path("/proc").iterdir():
            if not proc.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                command = (proc / "cmdline").read_bytes()
                if b"remote-http" in command and str(self.data_dir).encode() in (proc / "environ").read_bytes():
                    self.uids.add(proc.stat().st_uid)
                if any(
                    secret in content for secret in SECRETS for content in (command, (proc / "environ").read_bytes())
                ):
                    self.leaks.add(command.decode(errors="replace"))

    def request(self) -> None:
        self.requests += 1
        self.look()
        if os.geteuid() == 0:
            self.readable |= readable_by(TENANT, self.data_dir)


def readable_by(who: Identity, below: Path) -> set[str]:
    """The names of the files and directories that this uid can open."""
    script = 'for file; do test -r "$file" && echo "${file##*/}"; done; true'
    paths = [str(path) for path in (below, *below.rglob("*"))]
    argv = [*who.prefix, "/bin/sh", "-c", script, "sh", *paths]
    return set(subprocess.run(argv, env={}, check=True, capture_output=True, text=True).stdout.split())


@pytest.fixture
def watch(place: Path) -> Iterator[Watch]:
    (place / "data").mkdir()
    with Watch(place / "data") as made:
        yield made


@pytest.fixture
def forge(place: Path, watch: Watch) -> Iterator[PrivateForge]:
    with serving(PrivateForge(place / "git", watch.request)) as made:
        yield made


@contextlib.asynccontextmanager
async def opened(place: Path, git_url: str):
    world = World(place, git_url=git_url)
    await world.open()
    try:
        yield world
    finally:
        await world.close()


async def test_a_private_repository_is_built_and_its_credentials_are_seen_by_nobody(place, forge, watch) -> None:
    (place / "data").chmod(0o711)
    async with opened(place, forge.url()) as world:
        repository = world.repository()
        theirs = place / "theirs"
        theirs.write_text("")
        owner = theirs.stat().st_uid
        (repository.path / "link").symlink_to(theirs)
        old = repository.commit({"Procfile": "web: cat deep/er/file; id -u\n", "deep/er/file": "old\n"})
        new = repository.commit({"deep/er/file": "new\n"})
        for commit in (None, old):
            artifact = await world.build(commit=commit)
            assert artifact.commit == (commit or new)
            replica, _ = await world.start(artifact)
            assert (await world.exit(replica)).code == 0
            uid = world.driver._builder.identity("acme").uid
            assert world.lines(replica=replica) == ["old" if commit else "new", str(uid or os.getuid())]
        assert watch.requests >= 4
        assert forge.refused  # git asks without them first
        assert watch.leaks == set()
        source = world.driver._layout.checkout("acme", "svc", new) / "source"
        for path in (source, *source.rglob("*")):
            assert path.lstat().st_uid == (os.getuid() if uid is None else uid)
            assert not (path.is_file() and any(secret in path.read_bytes() for secret in SECRETS)), path
        assert (source / "link").is_symlink()
        assert theirs.stat().st_uid == owner
        assert watch.uids == {GIT_UID if uid else os.getuid()}
        assert list(world.data_dir.glob("process/clones/tmp*")) == []


async def test_a_wrong_password_is_told_without_it_and_the_right_one_survives_a_refusal(place, forge, watch) -> None:
    async with opened(place, forge.url("bot:wr0ng")) as world:
        world.repository().commit({"Procfile": "web: x\n"})
        with pytest.raises(BuildFailed) as caught:
            await world.build()
        assert str(caught.value.reason) == (
            f"repository 'acme/app' does not exist or can't be read; {forge.url('').replace('@', '')}"
        ).replace("{repo}", "acme/app")
        kept = next(world.data_dir.glob("process/**/git.credentials"))
        assert "wr0ng" in kept.read_text()  # git would have erased them
        assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.root
async def test_a_namespace_can_read_neither_the_credentials_nor_what_another_fetches(place, forge, watch) -> None:
    async with opened(place, forge.url()) as world:
        world.repository().commit({"Procfile": "web: x\n", "large": "secret of acme\n" * 10_000})
        await world.build()
        assert watch.requests
        assert watch.readable <= {"gitconfig"}
        assert readable_by(TENANT, world.data_dir) <= {"gitconfig"}
        assert next(world.data_dir.glob("process/clones/git.credentials")).stat().st_uid == GIT_UID


@pytest.mark.root
async def test_no_namespace_has_the_uid_of_git(place) -> None:
    async with opened(place, "http://a:b@127.0.0.1:1/{repo}") as world:
        assert world.driver._users is not None
        assert GIT_UID not in world.driver._users._uids
    (place / "data" / "process" / "uids.json").write_text(f'{{"acme": {GIT_UID}}}')
    with pytest.raises(UsersError, match=f"uid {GIT_UID}, git's own, is a namespace's already: widen --process-uids"):
        async with opened(place, "http://a:b@127.0.0.1:1/{repo}"):
            pass


async def test_a_look_at_a_private_repository_s_branches(place, forge, watch) -> None:
    (place / "data").chmod(0o711)
    commit = World(place).repository().commit({})
    remotes = Remotes(place / "data", forge.url(), uid=GIT_UID)
    assert await remotes.heads("acme/app", ["main", "none"]) == {"main": commit}
    assert watch.requests
    assert watch.leaks == set()
    assert watch.readable <= {"git.config"}
    assert watch.uids == {GIT_UID if os.geteuid() == 0 else os.getuid()}
    with pytest.raises(Unreachable) as caught:
        await Remotes(place / "data", forge.url("bot:wr0ng")).heads("acme/app", ["main"])
    assert "wr0ng" not in str(caught.value)


async def test_the_context_of_a_container_s_build_from_a_private_repository(place, forge, watch) -> None:
    (place / "data").chmod(0o711)
    commit = World(place).repository().commit({"Dockerfile": "FROM scratch\n"})
    sources = Sources(
        place / "data" / "clones", Forge.of(forge.url()), GIT_UID if os.geteuid() == 0 else None, Limits()
    )
    await sources.open()
    job = BuildJob(service_id="svc", deployment_id="dep", namespace="acme", repo="acme/app", branch="main")
    async with sources.cloning(job) as cloning:
        assert await sources.head(cloning) == commit
        context = await sources.context(cloning, commit)
        assert context is not None
        with tarfile.open(context) as archive:
            assert archive.getnames() == ["Dockerfile"]
    assert watch.leaks == set()
    assert watch.readable <= {"gitconfig"}


@pytest.mark.parametrize(
    ("git_url", "template", "credentials"),
    [
        ("https://github.com/{repo}.git", "https://github.com/{repo}.git", None),
        ("HTTPS://u:p@h:8443/x/{repo}", "HTTPS://h:8443/x/{repo}", "https://u:p@h:8443\n"),
        ("https://token@h/{repo}", "https://h/{repo}", "https://token:@h\n"),
        ("https://u:p@ss:w%2F\n@h/{repo}", "https://h/{repo}", "https://u:p%40ss%3Aw%2F%0A@h\n"),
        ("https://h/{repo}?x=a@b", "https://h/{repo}?x=a@b", None),
        ("ssh://git@h/{repo}", "ssh://git@h/{repo}", None),
        ("file:///srv/git/{repo}", "file:///srv/git/{repo}", None),
    ],
)
def test_an_address_and_its_credentials(git_url: str, template: str, credentials: str | None) -> None:
    forge = Forge.of(git_url)
    assert (forge.template, forge.credentials) == (template, credentials)
    assert "p@ss" not in repr(forge)


def test_the_configuration_names_the_file_whatever_the_path_is_called(tmp_path: Path) -> None:
    place = tmp_path / "a \"b\" 'c' \\d $HOME"
    place.mkdir()
    Forge.of("https://u:p@h/{repo}").configure(place / "gitconfig", None)
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": str(place / "gitconfig")}
    env["GIT_TERMINAL_PROMPT"] = "0"

    def ask(host: str) -> subprocess.CompletedProcess[str]:
        asked = f"protocol=https\nhost={host}\n\n"
        return subprocess.run(["git", "credential", "fill"], env=env, input=asked, capture_output=True, text=True)

    assert "password=p\n" in ask("h").stdout
    assert ask("other").returncode != 0
    Forge.of("https://h/{repo}").configure(place / "gitconfig", None)
    assert [path.name for path in place.iterdir()] == ["gitconfig"]
