"""What is explored: small worlds, each with the trouble that its name says. Docs: `docs/scale-to-zero.md`."""

from __future__ import annotations

from typing import Final

from sleep_parts import Scenario


def _may(*what: str) -> frozenset[str]:
    return frozenset(what)


CALM: Final = Scenario("one worker, wakes at any moment", names=1, may=_may("wake", "late wake"))
REPORTS_LATE: Final = Scenario("reports are late, every wake is lost", slow=_may("report"))
OVERTAKING: Final = Scenario("reports overtake each other", names=1, slow=_may("reports"))
MIRROR_BEHIND: Final = Scenario("control's mirror is behind, commits are slow", slow=_may("mirror", "commit"))
COMING_AND_GOING: Final = Scenario(
    "workers are killed and started",
    workers=2,
    names=1,
    slow=_may("roster"),
    counted=(("worker comes", 1), ("worker dies", 1)),
)
RELOADING: Final = Scenario(
    "a worker drains while another begins",
    workers=2,
    names=1,
    counted=(("worker comes", 1), ("worker drains", 1)),
)
STOPPED_WORKER: Final = Scenario("two workers, either is stopped", workers=2, alive=2, apart=True)
DYING_CONTROL: Final = Scenario(
    "control dies at any line, its last write comes late",
    names=1,
    slow=_may("commit", "process"),
    may=_may("control dies"),
)
CRASHING: Final = Scenario(
    "replicas crash, starts fail, clients leave",
    names=1,
    may=_may("replica crashes", "start fails", "client leaves"),
)
AILING: Final = Scenario(
    "replicas turn ill, their ports are taken",
    names=1,
    counted=(("replica ails", 2), ("port is taken", 1)),
)
OWNER: Final = Scenario(
    "its owner puts it to sleep and deletes it",
    names=1,
    may=_may("owner sleeps"),
    counted=(("owner deletes", 1), ("owner deletes by force", 1)),
)
FALLEN_STORE: Final = Scenario(
    "the store falls back to any earlier moment",
    names=1,
    slow=_may("mirror", "process"),
    counted=(("restart", 1),),
)
FALLEN_REGISTRATION: Final = Scenario(
    "the store falls back behind a registration",
    alive=0,
    names=1,
    counted=(("restart", 1), ("worker comes", 1), ("late wake", 1)),
)
FALLEN_WITH_CONTROL: Final = Scenario(
    "the store falls back and control dies",
    names=1,
    slow=_may("process"),
    counted=(("restart", 1), ("control dies", 1)),
)
TWO_REPLICAS: Final = Scenario("two replicas, two requests", max_replicas=2, requests=2)

ALL: Final = (
    CALM,
    REPORTS_LATE,
    OVERTAKING,
    MIRROR_BEHIND,
    COMING_AND_GOING,
    RELOADING,
    STOPPED_WORKER,
    DYING_CONTROL,
    CRASHING,
    AILING,
    OWNER,
    FALLEN_STORE,
    FALLEN_REGISTRATION,
    FALLEN_WITH_CONTROL,
    TWO_REPLICAS,
)
