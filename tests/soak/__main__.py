"""`make soak`: see `soak.py`."""

from __future__ import annotations

import argparse
import random
import sys

from tests.soak.chaos import struck
from tests.soak.sleepers import slept
from tests.soak.soak import soaked


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description="Mixed load on a real node, and what is left of it.")
    parser.add_argument("--seconds", type=float, default=3600, help="how long (default: an hour)")
    parser.add_argument("--kills", action="store_true", help="also kill -9 workers while warming up")
    parser.add_argument("--chaos", action="store_true", help="kill and stop anything instead, see `chaos.py`")
    parser.add_argument("--seed", type=int, default=None, help="of the chaos (default: another each time)")
    parser.add_argument("--services", type=int, default=0, help="so many services that sleep and wake instead")
    given = parser.parse_args()
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    if given.services:
        lines = slept(given.services, given.seconds)
    elif given.chaos:
        lines = struck(given.seconds, seed)
    else:
        lines = soaked(given.seconds, given.kills)
    last = ""
    for last in lines:
        print(last, flush=True)
    return 0 if last == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
