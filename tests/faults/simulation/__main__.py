"""Live through one seed, or through many.

python -m tests.faults.simulation --seed 1234          one, telling what happens
python -m tests.faults.simulation --minutes 60         as many as there is time for
python -m tests.faults.simulation --count 1000 --first 0
"""

import argparse
import sys
import time
from collections import Counter

from . import simulate


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep-going", action="store_true", help="after a seed that fails")
    args = parser.parse_args()
    if args.seed is not None:
        print(simulate(args.seed, note=print))
        return 0
    return _many(args.first, count=args.count, minutes=args.minutes, keep_going=args.keep_going)


def _many(first: int, *, count: int | None, minutes: float | None, keep_going: bool) -> int:
    started, failed = time.monotonic(), 0
    totals: Counter[str] = Counter()
    seed = first
    while (count is None or seed < first + count) and (minutes is None or time.monotonic() < started + 60 * minutes):
        try:
            figures = simulate(seed)
        except AssertionError as error:
            failed += 1
            print(f"seed {seed}: {error}\n  python -m tests.faults.simulation --seed {seed}", flush=True)
            if not keep_going:
                return 1
        else:
            totals.update(
                requests=figures.requests,
                runs=figures.runs,
                lost=figures.lost,
                virtual_s=int(figures.seconds),
                aged=figures.aged,
                moved=figures.moved,
                batches=figures.batches,
            )
            totals.update(figures.blows)
        seed += 1
    seconds = time.monotonic() - started
    print(f"{seed - first} seeds in {seconds:.0f} s, {failed} failed; {dict(totals)}")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
