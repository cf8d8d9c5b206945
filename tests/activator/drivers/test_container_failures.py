"""An engine's words as one clear sentence; and never the environment."""

from __future__ import annotations

import pytest

from activator.drivers.container.engine import EngineError
from activator.drivers.container.failures import build_failed, pull_failed, start_failed

PULLS = [
    ("manifest for app:2 not found: manifest unknown: manifest unknown", "image 'app:2' does not exist"),
    (
        "pull access denied for app, repository does not exist or may require 'docker login': denied",
        "image 'app:2' does not exist, or its registry wants credentials that the node does not have",
    ),
    (
        "unable to retrieve auth token: invalid username/password: unauthorized: authentication required",
        "the registry of image 'app:2' refused it: the node has no credentials for it, or wrong ones",
    ),
    ('Get "https://ghcr.io/v2/": dial tcp: lookup ghcr.io: no such host', "the registry of image 'app:2' can't be re"),
    ("pinging container registry x: connect: connection refused", "the registry of image 'app:2' can't be reached"),
    ("write /var/lib/docker/tmp/x: no space left on device", "the node's disk is full"),
    ("no matching manifest for linux/arm64/v8 in the manifest list", "image 'app:2' is not made for this node's kind"),
    ("something that nobody has seen before", "image 'app:2' can't be pulled"),
]


@pytest.mark.parametrize(("message", "sentence"), PULLS)
def test_a_failed_pull(message: str, sentence: str) -> None:
    failure = pull_failed("app:2", EngineError(500, message))
    assert failure.reason.public.startswith(sentence)
    reached = not sentence.startswith("the registry of image 'app:2' can't be re")
    assert failure.reason.detail == (message if reached else None)


def test_an_engine_that_is_gone_is_no_fault_of_the_registry() -> None:
    gone = EngineError(0, "the container engine did not answer: connection refused")
    assert pull_failed("app", gone).reason.public == "the container engine of the node does not answer"
    assert build_failed(gone, []).reason.public == "the container engine of the node does not answer"
    assert start_failed(gone, {}).reason.public == "the container engine of the node does not answer"


def test_a_failed_build() -> None:
    failure = build_failed(EngineError(-1, "RUN make: exit status 2"), ["cc: error"])
    assert failure.reason.public == "building its Dockerfile failed"
    assert failure.reason.detail == "RUN make: exit status 2"
    full = build_failed(EngineError(-1, "exit status 1"), ["cp: write error: No space left on device"])
    assert full.reason.public == "the node's disk is full"


STARTS = [
    ("No command or entrypoint provided, and no CMD or ENTRYPOINT from image", "its image says no command to run"),
    ('exec: "nope": executable file not found in $PATH', "the command of its image can't be started"),
    ("container-init binary not found on the host: stat /usr/libexec/podman/catatonit", "the node has no init process"),
    ("all predefined address pools have been fully subnetted", "the node's container engine has no network left"),
    ("Bind for 127.0.0.1:20001 failed: port is already allocated", "another process took its port"),
    ("mkdir /var/lib/docker: no space left on device", "the node's disk is full"),
    ("cgroups: cannot set", "the node could not start it"),
]


@pytest.mark.parametrize(("message", "sentence"), STARTS)
def test_a_failed_start(message: str, sentence: str) -> None:
    failure = start_failed(EngineError(500, message), {})
    assert failure.reason.public.startswith(sentence)
    assert message in str(failure.reason.detail)


def test_what_repeats_the_environment_is_left_out() -> None:
    failure = start_failed(EngineError(500, "invalid: TOKEN=hunter2!"), {"TOKEN": "hunter2!", "X": "1"})
    assert "hunter2" not in str(failure)
    assert "hunter2" not in str(failure.reason)
