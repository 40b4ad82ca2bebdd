"""`make crash`: the machine at length, and its account. Ends with 1 where the lists do not agree."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.crash.machine import kill_at_random


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=9.0, help="stop killing after this time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        run = kill_at_random(Path(directory), kills=options.kills, seed=options.seed, bound_s=options.minutes * 60)
        found = asyncio.run(run)
    print(found)
    sys.exit(0 if found.is_balanced else 1)


if __name__ == "__main__":
    main()
