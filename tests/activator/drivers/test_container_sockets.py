"""Which engine is talked to, with whose credentials; and what is said where there is none."""

from __future__ import annotations

import base64
import json
import socket
from pathlib import Path

import pytest

from activator.drivers.container import EngineMissing, find_socket
from activator.drivers.container.credentials import Credentials
from activator.drivers.container.sockets import usual_places


def listening(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return path


def test_the_first_that_is_there_is_used(place: Path) -> None:
    first, second = place / "a.sock", listening(place / "b.sock")
    assert find_socket(None, {}, [first, second]) == second
    assert find_socket(None, {}, [listening(first), second]) == first
    assert usual_places({"XDG_RUNTIME_DIR": "/run/user/1"})[-1] == Path("/run/user/1/podman/podman.sock")
    assert len(usual_places({})) == 2


def test_what_the_operator_says_goes_before_docker_host(place: Path) -> None:
    said, other = listening(place / "a.sock"), listening(place / "b.sock")
    environment = {"DOCKER_HOST": f"unix://{other}"}
    assert find_socket(said, environment, []) == said
    assert find_socket(None, environment, []) == other


@pytest.mark.parametrize(
    ("given", "environment", "says"),
    [
        (None, {}, "podman system service"),
        (Path("/nonexistent.sock"), {}, "--engine-socket: /nonexistent.sock is no socket"),
        (None, {"DOCKER_HOST": "tcp://10.0.0.1:2375"}, "only an engine of this machine"),
        (None, {"DOCKER_HOST": "unix:///nonexistent.sock"}, "DOCKER_HOST: /nonexistent.sock is no socket"),
    ],
)
def test_without_an_engine_the_fix_is_named(given: Path | None, environment: dict[str, str], says: str) -> None:
    with pytest.raises(EngineMissing, match=says):
        find_socket(given, environment, [])


def test_credentials_are_those_that_a_login_stored(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    encoded = base64.b64encode(b"user:pass:word").decode()
    file.write_text(json.dumps({"auths": {"ghcr.io": {"auth": encoded}, "https://index.docker.io/v1/": {"auth": ""}}}))
    credentials = Credentials((tmp_path / "absent", file))
    header = credentials.header("ghcr.io")
    assert header is not None
    assert json.loads(base64.urlsafe_b64decode(header)) == {
        "username": "user",
        "password": "pass:word",
        "serveraddress": "ghcr.io",
    }
    assert credentials.header("docker.io") is None
    assert credentials.header("quay.io") is None
    for broken in ("{", "[]", '{"auths": []}', '{"auths": {"ghcr.io": {"auth": "%%"}}}'):
        file.write_text(broken)
        assert credentials.header("ghcr.io") is None


def test_credentials_are_looked_for_where_logins_put_them() -> None:
    asked = {"HOME": "/home/x", "REGISTRY_AUTH_FILE": "/auth", "XDG_RUNTIME_DIR": "/run/user/1"}
    places = ("/auth", "/home/x/.docker/config.json", "/run/user/1/containers/auth.json")
    assert Credentials.of(asked)._files == tuple(map(Path, places))
