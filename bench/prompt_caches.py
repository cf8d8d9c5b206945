"""`python -m bench.prompt_caches`: how much of the prompts the caches of replicas have, by how requests are balanced.

A simulation with the product's own code for the choice (`gateway/balance.py`, `gateway/rendezvous.py`) and for the key
(`gateway/prompts.py`), and a plain model of everything else: conversations of several turns, of applications with
instructions of their own, at replicas that keep the newest so many tokens and take time for tokens that they don't have
(prefill) and for those that they make. Each worker sees its own requests only, as in the product. Seconds and tokens.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import statistics
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from gateway.balance import DICE, pick
from gateway.prompts import key
from gateway.rendezvous import bound, prefer, seed
from gateway.replica import Replica

PREFILL: Final = 8000.0  # tokens a second
DECODE: Final = 60.0
CHOICES: Final = ("two choices", "prefix")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated. `rate`: conversations that begin each second; `cache`: tokens that a replica keeps."""

    replicas: int = 6
    workers: int = 2
    rate: float = 1.5
    seconds: float = 1800.0
    applications: int = 12
    cache: int = 400_000
    seed: int = 1


@dataclass(slots=True)
class Outcome:
    """`share`: of prompt tokens, how many were in the cache. `first_token`: (p50, p95) in seconds."""

    requests: int
    share: float
    first_token: tuple[float, float]
    busiest: float  # parts of the mean of a replica's requests


@dataclass(slots=True)
class _Turn:
    """The next request of a conversation: its history of `history` tokens, and what is new."""

    name: int
    application: int
    instructions: int
    history: int
    left: int  # turns after this one
    key: int


@dataclass(slots=True)
class _Cache:
    """The newest prompts, by what they begin with."""

    limit: int
    kept: OrderedDict[tuple[str, int], int] = field(default_factory=OrderedDict)
    size: int = 0

    def take(self, turn: _Turn, tokens: int) -> int:
        """How many of `tokens` it has; afterwards it has all."""
        had = max(
            self.kept.get(("conversation", turn.name), 0),
            self.kept.get(("application", turn.application), 0),
        )
        self._keep(("application", turn.application), turn.instructions)
        self._keep(("conversation", turn.name), tokens)
        while self.size > self.limit:
            self.size -= self.kept.popitem(last=False)[1]
        return min(had, tokens)

    def _keep(self, what: tuple[str, int], tokens: int) -> None:
        self.size += tokens - self.kept.pop(what, 0)
        self.kept[what] = tokens


def simulate(plan: Plan, choice: str) -> Outcome:
    """The same conversations for each `choice` (of `CHOICES`)."""
    dice = random.Random(plan.seed)
    workers = [_replicas(plan.replicas) for _ in range(plan.workers)]
    caches = {replica.id: _Cache(plan.cache) for replica in workers[0]}
    numbers = itertools.count()
    events: list[tuple[float, int, _Turn | Replica]] = []
    for at, turn in _conversations(plan, dice):
        heapq.heappush(events, (at, next(numbers), turn))
    asked = had = 0
    firsts: list[float] = []
    sent = dict.fromkeys(caches, 0)
    while events:
        now, _, event = heapq.heappop(events)
        if isinstance(event, Replica):
            event.in_flight -= 1
            continue
        replicas = dice.choice(workers)
        replica = _chosen(replicas, event, choice, dice)
        new, made = dice.randint(20, 600), dice.randint(50, 600)
        tokens = event.instructions + event.history + new
        found = caches[replica.id].take(event, tokens)
        busy = sum(worker[replicas.index(replica)].in_flight for worker in workers)
        first = (tokens - found) / PREFILL * (1 + busy / 8)
        asked, had = asked + tokens, had + found
        firsts.append(first)
        sent[replica.id] += 1
        replica.in_flight += 1
        done = now + first + made / DECODE * (1 + busy / 32)
        heapq.heappush(events, (done, next(numbers), replica))
        if event.left:
            event.history += new + made
            event.left -= 1
            heapq.heappush(events, (done + dice.expovariate(1 / 20), next(numbers), event))
    mean = sum(sent.values()) / len(sent)
    steps = statistics.quantiles(firsts, n=20)
    return Outcome(len(firsts), had / asked, (steps[9], steps[18]), max(sent.values()) / mean)


def _replicas(count: int) -> list[Replica]:
    made = [Replica(f"replica-{at}", "127.0.0.1", 1) for at in range(count)]
    for replica in made:
        replica.seed = seed(replica.id)
    return made


def _conversations(plan: Plan, dice: random.Random) -> Iterator[tuple[float, _Turn]]:
    instructions = [dice.randint(200, 3000) for _ in range(plan.applications)]
    now = 0.0
    for name in itertools.count():
        now += dice.expovariate(plan.rate)
        if now > plan.seconds:
            return
        application = min(int(dice.paretovariate(1.0)), plan.applications) - 1  # a few have most of the traffic
        messages = [{"role": "system", "content": f"{application}"}, {"role": "user", "content": f"{name}"}]
        of = key(json.dumps({"messages": messages}).encode(), True)
        yield now, _Turn(name, application, instructions[application], 0, int(dice.expovariate(1 / 6)), of)


def _chosen(replicas: list[Replica], turn: _Turn, choice: str, dice: random.Random) -> Replica:
    found = prefer(replicas, turn.key) if choice == "prefix" else None
    found = found or pick(replicas, 0.0, dice.getrandbits(DICE))
    assert found is not None
    if choice == "prefix":
        assert found.in_flight < bound(sum(one.in_flight for one in replicas), len(replicas))
    return found


def table(plans: dict[str, Plan]) -> str:
    """Markdown."""
    lines = [
        "| | balanced by | requests | prompt tokens from caches | first token p50, p95 | busiest replica |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, plan in plans.items():
        for choice in CHOICES:
            out = simulate(plan, choice)
            p50, p95 = out.first_token
            lines.append(
                f"| {name} | {choice} | {out.requests:,} | {out.share:.0%} | {p50 * 1000:.0f}, {p95 * 1000:.0f} ms "
                f"| {out.busiest:.0%} of the mean |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(
        table(
            {
                "6 replicas, 1 worker": Plan(workers=1),
                "6 replicas, 4 workers": Plan(workers=4),
                "6 replicas, 4 workers, small caches": Plan(workers=4, cache=100_000),
                "20 replicas, 8 workers": Plan(replicas=20, workers=8, rate=5.0, seconds=900.0),
            }
        )
    )
