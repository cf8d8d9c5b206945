"""`make soak`: see `soak.py`."""

from __future__ import annotations

import argparse
import sys

from tests.soak.soak import soaked


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description="Mixed load on a real node, and what is left of it.")
    parser.add_argument("--seconds", type=float, default=3600, help="how long (default: an hour)")
    parser.add_argument("--kills", action="store_true", help="also kill -9 workers while warming up")
    given = parser.parse_args()
    last = ""
    for last in soaked(given.seconds, given.kills):
        print(last, flush=True)
    return 0 if last == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
