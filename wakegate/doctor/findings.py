"""What was found, and how it is told."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from wakegate.terminal import visible


class State(enum.StrEnum):
    """`note`: right for some, wrong for others; only the operator knows."""

    OK = "ok"
    NOTE = "note"
    FIX = "fix"


@dataclass(frozen=True, slots=True)
class Finding:
    """`subject`: one word, what was looked at; `text`: what was found; `fix`: what to do, of a note or a fix."""

    state: State
    subject: str
    text: str
    fix: str | None = None

    def line(self) -> str:
        """One line, whatever others wrote into it."""
        told = self.text if self.fix is None else f"{self.text}: {self.fix}"
        return visible(f"{self.state:<4}  {self.subject:<8}  {told}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def ok(subject: str, text: str) -> Finding:
    return Finding(State.OK, subject, text)


def note(subject: str, text: str, fix: str) -> Finding:
    return Finding(State.NOTE, subject, text, fix)


def fix(subject: str, text: str, what_to_do: str) -> Finding:
    return Finding(State.FIX, subject, text, what_to_do)


def healthy(findings: Iterable[Finding]) -> bool:
    return all(finding.state is not State.FIX for finding in findings)
