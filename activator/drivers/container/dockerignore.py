"""`.dockerignore`: which files of a repository don't go into a build (docs.docker.com, "dockerignore files").

Docker's command applies it to what it sends, so we do: its engine does not. Patterns are those of Go's filepath.Match
with `**` for any folders; the last line that matches wins, `!` takes a file back in, and a folder that is left out
takes along what is in it.

A tenant wrote it, so matching a path takes no more than lines times names (law 7): no regular expression is made of
more than one name, and `fnmatch` makes them without backtracking.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_MAX_LINES = 300
_ANY = None  # `**`: any number of folders


@dataclass(frozen=True, slots=True)
class _Rule:
    """The names of a pattern, from the top on, and whether it leaves out or takes back."""

    names: Sequence[re.Pattern[str] | None]
    leaves_out: bool

    def matches(self, path: Sequence[str]) -> bool:
        """Whether it is about the path, or a folder above it."""
        at = self._skipping({0})
        for name in path:
            at = self._skipping({after for index in at for after in self._steps(index, name)})
            if len(self.names) in at:
                return True
        return False

    def _steps(self, index: int, name: str) -> list[int]:
        pattern = self.names[index]
        if pattern is _ANY:
            return [index]
        return [index + 1] if pattern.fullmatch(name) else []

    def _skipping(self, at: set[int]) -> set[int]:
        """`**` may stand for no folder; at the end of a pattern it stands for something."""
        for index in sorted(at):
            following = index
            while following < len(self.names) and self.names[following] is _ANY:
                following += 1
                at.add(following)
        return at


def ignored(text: str) -> Callable[[str], bool]:
    """Whether a path (`/` between names, none in front) is left out by a file of this content."""
    rules = [rule for line in text.splitlines()[:_MAX_LINES] if (rule := _rule(line)) is not None]

    def is_ignored(path: str) -> bool:
        names = path.split("/")
        return next((rule.leaves_out for rule in reversed(rules) if rule.matches(names)), False)

    return is_ignored


def _rule(line: str) -> _Rule | None:
    line = line.strip()
    if not line or line.startswith("#"):
        return None
    names = [name for name in line.removeprefix("!").strip().split("/") if name not in ("", ".")]
    if not names or ".." in names:
        return None
    try:
        return _Rule([_ANY if name == "**" else _name(name) for name in names], not line.startswith("!"))
    except re.error:
        return None


def _name(name: str) -> re.Pattern[str]:
    """`*`, `?`, `[a-z]`, `[^a-z]`, and a backslash before any of them, as `fnmatch` writes them."""
    written = re.sub(r"\\(.)", lambda found: f"[{found[1]}]", name).replace("[^", "[!")
    return re.compile(fnmatch.translate(written))
