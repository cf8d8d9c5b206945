"""What a webhook delivery means for a service: the push that it tells of, and what is to be done. Pure (law 5).

The body of a push may have 25 MiB (one entry per commit), while all that matters is near its beginning. So only its
beginning is kept (`HEAD`), and read member by member as far as it goes: what was cut off is never needed whole.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from control.pushes.signatures import Origin
from state.models import Deployment, Service

HEAD: Final = 128 * 1024  # bytes of a body that are looked at
_FORM: Final = b"payload="
_MOST: Final = 100  # members that are looked at; pushes have 25 at most
_MEMBERS: Final = frozenset({"ref", "after", "repository", "project"})
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_BRANCH: Final = "refs/heads/"
_NOTHING: Final = re.compile(r"0+")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_DECODER: Final = json.JSONDecoder()

_PUSHES: Final = frozenset({"push", "push hook"})
_PINGS: Final = frozenset({"ping"})


class NotAPush(Exception):
    """The body is not what a forge sends for a push; the text says why."""


@dataclass(frozen=True, slots=True)
class Push:
    """A ref and the commit that it is at now; `repository` is its name at the forge, if that was told."""

    ref: str
    after: str
    repository: str | None = None

    @property
    def branch(self) -> str | None:
        return self.ref.removeprefix(_BRANCH) if self.ref.startswith(_BRANCH) else None

    @property
    def deletes(self) -> bool:
        return _NOTHING.fullmatch(self.after) is not None


class Action(enum.StrEnum):
    NOTHING = "none"
    REDEPLOY = "redeploy"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do and why. `hooked`: it is about the service's branch, of whose pushes the forge tells, then.

    `commit`: what is to be deployed.
    """

    action: Action
    reason: str
    hooked: bool = False
    commit: str | None = None


def is_push(origin: Origin) -> bool:
    return origin.event.lower() in _PUSHES


def read_push(head: bytes) -> Push:
    """The push in the beginning of a body, as JSON or as a form's `payload`. Raises NotAPush."""
    if head.startswith(_FORM):
        head = unquote_to_bytes(head.removeprefix(_FORM).partition(b"&")[0].replace(b"+", b" "))
    found = leading_members(head.decode("utf-8", "replace"), _MEMBERS)
    ref, after = found.get("ref"), found.get("after")
    if not isinstance(ref, str) or not isinstance(after, str):
        raise NotAPush("a push has a `ref` and the commit `after` it, as JSON or as a form's `payload`")
    if not _COMMIT.fullmatch(after):
        raise NotAPush("`after` is not a commit")
    return Push(ref, after, _repository(found))


def leading_members(text: str, wanted: Collection[str]) -> dict[str, Any]:
    """Those of the `wanted` members of a JSON object that come whole before its end, or before it is cut off.

    Among the first _MOST members.
    """
    found: dict[str, Any] = {}
    try:
        at = _expect(text, 0, "{")
        for _ in range(_MOST):
            name, at = _DECODER.raw_decode(text, _skip(text, at))
            value, at = _DECODER.raw_decode(text, _skip(text, _expect(text, at, ":")))
            last = text.startswith("}", _skip(text, at))
            at = at if last else _expect(text, at, ",")  # of a number that was cut off, what is left looks whole
            if name in wanted:
                found[name] = value
            if last or len(found) == len(wanted):
                break
    except (ValueError, TypeError, RecursionError):
        pass  # its end, or where it was cut off: what was found counts
    return found


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return at if space is None else space.end()


def _expect(text: str, at: int, sign: str) -> int:
    """The place behind this sign. Raises ValueError."""
    at = _skip(text, at)
    if text[at : at + 1] != sign:
        raise ValueError(f"no {sign}")
    return at + 1


def _repository(found: Mapping[str, Any]) -> str | None:
    """GitHub and Gitea say `repository.full_name`, GitLab `project.path_with_namespace`."""
    for member, field in (("repository", "full_name"), ("project", "path_with_namespace")):
        place = found.get(member)
        name = place.get(field) if isinstance(place, dict) else None
        if isinstance(name, str):
            return name
    return None


def judge(
    origin: Origin, push: Push | None, service: Service, latest: Deployment | None, active: Deployment | None
) -> Verdict:
    """What a delivery, whose proof holds, means for a service. `push` is there for events that are pushes.

    What counts is the deployment in progress, else the one that serves: a commit is pushed again to try it again.
    """
    branch = service.run.branch or ""
    if origin.event.lower() in _PINGS:
        return _ignored(f"pong: pushes to {branch} will redeploy {service.name}")
    if push is None:
        return _ignored(f"{origin.event[:60] or 'an event without a name'} is not a push")
    if push.repository is not None and not _same(push.repository, service.run.repo or ""):
        return _ignored(f"{push.repository[:200]} is not {service.run.repo}, the repository of {service.name}")
    if push.branch is None:
        return _ignored(f"{push.ref[:200]} is not a branch")
    if push.branch != branch:
        return _ignored(f"{push.branch[:200]} is not {branch}, the branch of {service.name}")
    if push.deletes:
        return _ignored(f"{branch} was deleted", hooked=True)
    current = latest if latest is not None and latest.state.in_progress else active
    if current is not None and current.commit == push.after:
        return _ignored(no_news(push.after), hooked=True)
    told = f"{origin.forge} tells that {branch} is at {push.after} now"
    return Verdict(Action.REDEPLOY, told, hooked=True, commit=push.after)


def no_news(commit: str | None) -> str:
    return f"{commit} is deployed already, or on its way"


def _ignored(reason: str, *, hooked: bool = False) -> Verdict:
    return Verdict(Action.NOTHING, reason, hooked)


def _same(name: str, repo: str) -> bool:
    """The same repository. GitLab's groups nest, and `--git-url` may name the outer ones; forges fold case."""
    name, repo = name.lower(), repo.lower()
    return name == repo or name.endswith(f"/{repo}")
