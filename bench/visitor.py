"""`python -m bench.visitor PORT HOST`: a client of a warm service, who notes how long each of his requests takes.

One request every 5 ms over one connection, until standard input ends; then a line of JSON: when each began and how long
it took, in seconds (CLOCK_MONOTONIC). A process of its own, so that nothing of the load's interpreter is measured.
"""

import json
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.connections import answer, connect, request

PERIOD = 0.005  # seconds


@dataclass(frozen=True, slots=True)
class Visits:
    """`count` requests; times in milliseconds."""

    count: int
    p50: float
    p99: float
    longest: float


def summary(visits: Sequence[Sequence[float]], since: float, until: float) -> Visits:
    """Of those of `visits`, when and for how long, that began between these times; one at least did."""
    ordered = sorted(took for began, took in visits if since <= began < until)
    p50, p99, longest = (ordered[round(part * (len(ordered) - 1))] * 1000 for part in (0.5, 0.99, 1.0))
    return Visits(len(ordered), round(p50, 2), round(p99, 2), round(longest, 2))


def visit(port: int, host: str) -> list[tuple[float, float]]:
    """Until standard input ends."""
    connection = connect(port)
    times: list[tuple[float, float]] = []
    while not select.select([sys.stdin], [], [], PERIOD)[0]:
        began = time.monotonic()
        connection.sendall(request(host, "/"))
        if answer(connection) != 200:
            raise SystemExit("a visit was not answered with 200")
        times.append((began, time.monotonic() - began))
    return times


if __name__ == "__main__":
    print(json.dumps(visit(int(sys.argv[1]), sys.argv[2])))
