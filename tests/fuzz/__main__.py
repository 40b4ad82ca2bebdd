"""`make fuzz`: the machine at length, on every core, and its account. Ends with 1 where a promise did not hold."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from tests.fuzz.machine import attempt


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--mutations", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=None, help="the first worker's; each one has its own")
    parser.add_argument("--only", type=int, default=None, help="the number of one exchange to repeat")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    workers = 1 if options.only is not None else options.workers
    first = options.seed if options.seed is not None else secrets.randbelow(2**31)
    print(f"seeds {first} to {first + workers - 1}", flush=True)
    share = -(-options.mutations // workers)
    failed = False
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        works = [pool.submit(attempt, first + worker, share, options.only) for worker in range(workers)]
        for work in as_completed(works):
            found = work.result()
            failed = failed or isinstance(found, str)
            print(found, flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
