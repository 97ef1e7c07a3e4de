"""Run cases, one after another: one line of output and one folder for each."""

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path

from . import __doc__ as about
from .cases import CASES, PROMPTS
from .lab import lab
from .network import why_not


def main() -> int:
    """See the package."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; by default all")
    parser.add_argument("--out", type=Path, help="where logs and figures go; by default a new folder")
    parser.add_argument("--prompts", type=int, help="by default a minute's or three minutes' worth")
    args = parser.parse_args()
    if unknown := [case for case in args.case if case not in CASES]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(CASES)}")
    if (reason := why_not()) is not None:
        parser.error(reason)
    for number in (signal.SIGINT, signal.SIGTERM):  # either leaves nothing behind, in a shell's background too
        signal.signal(number, signal.default_int_handler)
    out = args.out or Path(tempfile.mkdtemp(prefix="hosts-"))
    print(f"logs and figures: {out}", file=sys.stderr)
    failed = 0
    for case in args.case or CASES:
        folder = _fresh(out, case)
        with lab(case, prompts=args.prompts or PROMPTS.get(case, 7200), folder=folder) as bench:
            CASES[case](bench)
            figures = bench.figures()
        failed += bool(figures.faults)
        print(figures.line(), flush=True)
        with (out / "figures.jsonl").open("a") as file:
            file.write(json.dumps(figures.as_json()) + "\n")
    return min(failed, 1)


def _fresh(out: Path, case: str) -> Path:
    """A folder that no earlier run of the case has used."""
    return next(folder for n in range(1, 1000) if not (folder := out / f"{case}-{n}").exists())


if __name__ == "__main__":
    sys.exit(main())
