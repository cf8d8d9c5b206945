"""References to code: repositories, branches (git-check-ref-format) and container images (distribution/reference)."""

from __future__ import annotations

import re
from typing import Final

_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+")
REPO_PATTERN: Final = r"^(?!\.{1,2}/)[A-Za-z0-9._-]+/(?!\.{1,2}$)[A-Za-z0-9._-]+$"  # as JSON Schema writes it
REPO_LENGTH: Final = 255
BRANCH_LENGTH: Final = 1024
_IMAGE_LENGTH: Final = 255  # of the name, without tag and digest

_FORBIDDEN_IN_REF: Final = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")

_PATH_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST_COMPONENT: Final = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_REGISTRY: Final = rf"(?:{_HOST_COMPONENT}(?:\.{_HOST_COMPONENT})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_IMAGE: Final = re.compile(
    rf"(?P<name>(?:{_REGISTRY}/)?{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*)"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"
)


def repo_error(repo: str) -> str | None:
    """Why this can't be a repository's full name, or None."""
    segments = repo.split("/")
    if len(segments) != 2 or len(repo) > REPO_LENGTH:
        return "must be the repository's full name, namespace/repo"
    if not all(_SEGMENT.fullmatch(s) and s not in {".", ".."} for s in segments):
        return "must be two names of A-Z, a-z, 0-9, ., _ and -, neither of them . or .."
    return None


def branch_error(branch: str) -> str | None:
    """Why git would not take this as a branch (`git check-ref-format --branch`), or None."""
    if not branch or len(branch) > BRANCH_LENGTH:
        return f"must be 1-{BRANCH_LENGTH} characters"
    if branch.startswith("-") or branch in {"@", "HEAD"}:
        return "must not start with -, nor be @ or HEAD"
    if _FORBIDDEN_IN_REF.search(branch):
        return "must not contain spaces, control characters, any of ~^:?*[\\, nor .., @{ or //"
    if branch[0] == "/" or branch[-1] in "/.":
        return "must not start with / nor end with / or ."
    if any(part.startswith(".") or part.endswith(".lock") for part in branch.split("/")):
        return "no part of it may start with . or end with .lock"
    return None


def image_error(image: str) -> str | None:
    """Why this is no reference to an image (`[registry/]path[:tag][@digest]`), or None."""
    match = _IMAGE.fullmatch(image) if len(image) <= 4 * _IMAGE_LENGTH else None
    if match is None or len(match["name"]) > _IMAGE_LENGTH:
        return "must be an image reference such as registry.example.com/team/app:1.2"
    return None
