"""The container image: built from the Dockerfile with Podman, run as it would be, a service deployed inside, stopped.

No image registry is needed: the base is made from Debian packages, and kept for the next run. The container has no
network but its own loopback, so that nothing of the host can help it.
"""

import os
import resource
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import missing

ROOT = Path(__file__).resolve().parents[2]
BASE = "localhost/wakegate-base"
IMAGE = "localhost/wakegate-test"
CERTIFICATES = "/etc/ssl/certs"

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(600), pytest.mark.xdist_group("image")]

# Runs inside, with the image's own Python: a repository, a service of it, a request that wakes it.
INSIDE = """
import json, subprocess, time, urllib.request
from pathlib import Path
repo = Path("/data/git/acme/hello")
repo.mkdir(parents=True)
(repo / "Procfile").write_text("web: exec python3 -m http.server --bind 127.0.0.1 $PORT\\n")
(repo / "index.html").write_text("hello from the image")
for args in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "first"]):
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *args], cwd=repo, check=True)
key = Path("/data/admin.key").read_text().strip()
def call(url, body=None, host=None):
    headers = {"Authorization": "API-Key " + key, "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers)
    if host:
        request.add_header("Host", host)
    return urllib.request.urlopen(request, timeout=60).read().decode()
call("http://127.0.0.1:8081/auth/v1/seed/acme/services",
     {"name": "hello", "repo": "acme/hello", "gpu": "none", "min_replicas": 0})
print(call("http://127.0.0.1:8080/", host="hello-acme.apps.localhost"))
"""


class Podman:
    """Podman with a configuration that also works inside a container of a machine without systemd."""

    def __init__(self, directory: Path) -> None:
        _soft, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        configuration = directory / "containers.conf"
        configuration.write_text(
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]\n'
        )
        self.env = {**os.environ, "CONTAINERS_CONF": str(configuration), "ENGINE": "podman"}

    def run(self, *command: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=ROOT, env={**self.env, **env}, capture_output=True, text=True, timeout=500, check=False
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("podman", *arguments, check=check)


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    for command in ("podman", "runc", "mmdebstrap"):
        if shutil.which(command) is None:
            missing(command)
    return Podman(tmp_path_factory.mktemp("podman"))


@pytest.fixture(scope="module")
def image(podman: Podman) -> str:
    if podman("image", "exists", BASE, check=False).returncode != 0:
        podman.run("packaging/base-image.sh", BASE)
    # The host's network and certificates: for the package index only.
    options = ["--network", "host", "--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
    podman.run("packaging/build-image.sh", *options, BASE=BASE, TAG=IMAGE)
    return IMAGE


@pytest.fixture
def container(podman: Podman, image: str) -> Iterator[str]:
    name = f"wakegate-{uuid.uuid4().hex[:12]}"
    podman(
        "run", "--detach", "--name", name, "--network", "none", image, "serve", "--git-url", "file:///data/git/{repo}"
    )
    yield name
    podman("rm", "--force", "--time", "0", "--volumes", name, check=False)


def until_ready(podman: Podman, name: str) -> None:
    deadline = time.monotonic() + 60
    while "ready" not in (said := podman("logs", name)).stdout.splitlines():
        assert time.monotonic() < deadline, said.stdout + said.stderr
        time.sleep(0.2)


def test_the_image_runs_a_service_as_nobody_special_and_stops_cleanly(podman: Podman, container: str) -> None:
    until_ready(podman, container)
    assert podman("exec", container, "id", "-u").stdout.strip() == "10001"
    assert podman("exec", container, "stat", "-c", "%U %a", "/data").stdout.strip() == "wakegate 700"
    assert "http://0.0.0.0:8080" in podman("logs", container).stdout
    podman("healthcheck", "run", container)
    assert "hello from the image" in podman("exec", container, "python3", "-c", INSIDE).stdout
    podman("stop", "--time", "60", container)
    assert podman("inspect", container, "--format", "{{.State.ExitCode}}").stdout.strip() == "0"


def test_the_image_holds_no_secrets_no_sources_and_no_compiler(podman: Podman, image: str) -> None:
    look = "command -v gcc; ls -A /data /src 2>/dev/null; find / -xdev -name 'admin.key' -o -xdev -name '.git' | head"
    found = podman("run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", look + "; true").stdout
    assert found.strip() in ("", "/data:")
    size = int(podman("image", "inspect", image, "--format", "{{.Size}}").stdout)
    assert size < 400e6
