"""What an engine's refusal means to a user: one clear sentence for anybody, the engine's own words for the owner.

Engines tell kinds of failure apart only by text, and each release and registry has its own. What is not recognized is
said in general, with the text as the detail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from activator.drivers import BuildFailed, StartFailed

from .engine import EngineError

_FULL = ("no space left", "disk quota exceeded")
_DENIED = ("unauthorized", "denied", "authentication required", "forbidden", "no basic auth", "invalid username")
_ABSENT = ("manifest unknown", "name unknown", "not found", "no such image", "does not exist", "invalid repository")
_PLATFORM = ("no matching manifest", "no image found in manifest list", "no image found in image index")
_UNREACHED = (
    *("no such host", "connection refused", "i/o timeout", "dial tcp", "tls handshake", "timeout exceeded"),
    *("name resolution", "network is unreachable", "no route to host", "certificate", "context deadline", "eof"),
    *("server misbehaving", "client.timeout", "connection reset", "server gave http response"),
)
_UNREACHABLE = "can't be reached from the node"
_COMMAND = ("executable file not found", "exec format error", "no such file or directory", "permission denied")
_NO_COMMAND = ("no command or entrypoint", "no command specified")
_ADDRESSES = ("address pools have been fully subnetted", "could not find an available", "no available subnet")
_INIT = ("container-init", "docker-init", "catatonit")
_PORT = ("port is already allocated", "address already in use")


def pull_failed(reference: str, error: EngineError) -> BuildFailed:
    """Why an image could not be had.

    How a place can't be reached is told to nobody: by it a tenant could learn what else listens in the node's network.
    """
    text = error.message.lower()
    if not error.status and "container engine" in text:
        return BuildFailed("the container engine of the node does not answer", error.message)
    sentence = _pull_sentence(reference, text)
    return BuildFailed(sentence, None if sentence.endswith(_UNREACHABLE) else error.message)


def _pull_sentence(reference: str, text: str) -> str:
    if _says(text, _FULL):
        return "the node's disk is full"
    if _says(text, _PLATFORM):
        return f"image '{reference}' is not made for this node's kind of machine"
    if _says(text, _DENIED) and _says(text, ("does not exist",)):
        return f"image '{reference}' does not exist, or its registry wants credentials that the node does not have"
    if _says(text, ("manifest unknown",)):
        return f"image '{reference}' does not exist"
    if _says(text, _DENIED):
        return f"the registry of image '{reference}' refused it: the node has no credentials for it, or wrong ones"
    if _says(text, _UNREACHED):
        return f"the registry of image '{reference}' {_UNREACHABLE}"
    if _says(text, _ABSENT):
        return f"image '{reference}' does not exist"
    return f"image '{reference}' can't be pulled"


def build_failed(error: EngineError, tail: Sequence[str]) -> BuildFailed:
    """Why a Dockerfile did not become an image; `tail` are the last lines of its log."""
    text = error.message.lower()
    if _says(text, _FULL) or any(_says(line.lower(), _FULL) for line in tail):
        return BuildFailed("the node's disk is full", error.message)
    if not error.status and "container engine" in text:
        return BuildFailed("the container engine of the node does not answer", error.message)
    if _says(text, _PLATFORM):
        return BuildFailed(
            "an image that its Dockerfile starts from is not made for this kind of machine", error.message
        )
    return BuildFailed("building its Dockerfile failed", error.message)


def start_failed(error: EngineError, env: Mapping[str, str]) -> StartFailed:
    """Why a container was not created or did not start."""
    text = error.message.lower()
    detail = without_secrets(error.message, env)
    if _says(text, _FULL):
        return StartFailed("the node's disk is full", detail)
    if not error.status:
        return StartFailed("the container engine of the node does not answer", detail)
    if _says(text, _NO_COMMAND):
        return StartFailed("its image says no command to run: add CMD or ENTRYPOINT to it", detail)
    if _says(text, _INIT):
        return StartFailed("the node has no init process for containers", f"install catatonit or docker-init: {detail}")
    if _says(text, _ADDRESSES):
        fix = "widen default-address-pools (Docker) or default_subnet_pools (Podman)"
        return StartFailed("the node's container engine has no network left for another namespace", f"{fix}: {detail}")
    if _says(text, _PORT):
        return StartFailed("another process took its port", detail)
    if _says(text, _COMMAND):
        return StartFailed("the command of its image can't be started", detail)
    return StartFailed("the node could not start it", detail)


def without_secrets(message: str, env: Mapping[str, str]) -> str:
    """The engine's words, unless they repeat a value of the service's environment."""
    if any(len(value) > 3 and value in message for value in env.values()):
        return "the engine's message repeats the environment and is left out"
    return message


def _says(text: str, signs: Sequence[str]) -> bool:
    return any(sign in text for sign in signs)
