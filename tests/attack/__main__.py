"""Run the attack and print, for each area, what was tried and what survived; exit status 1 if something did not."""
import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.attack import damage, kills, rivals, surroundings
from tests.attack.world import Reference


def build_parser():
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of every draw (default 1)")
    parser.add_argument("--kills", type=int, default=21, metavar="N", help="trials with SIGKILL (default 21)")
    parser.add_argument("--damages", type=int, default=114, metavar="N", help="damaged files (default 114)")
    parser.add_argument("--rivals", type=int, default=6, metavar="N", help="pairs of processes (default 6)")
    parser.add_argument("--places", type=int, default=16, metavar="N",
                        help="full and read-only disks, locales, paths (default 16)")
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    begun, failures, rows = time.monotonic(), [], []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        reference = Reference(folder / "reference")
        areas = {"killed and run again": (kills.attack, args.kills), "damaged files": (damage.attack, args.damages),
                 "two at once": (rivals.attack, args.rivals), "odd places": (surroundings.attack, args.places)}
        for area, (attack, trials) in areas.items():
            results = list(attack(reference, folder, trials, args.seed))
            failures += [f"{area}: {what}: {why}" for what, why in results if why]
            rows.append((area, len(results), sum(not why for _, why in results)))
            print(f"{area}: {rows[-1][2]} of {rows[-1][1]} survived", file=sys.stderr, flush=True)
    print("\n".join(failures))
    print("\n| area | tried | survived |\n|---|---|---|")
    for area, tried, survived in [*rows, ("all", sum(r[1] for r in rows), sum(r[2] for r in rows))]:
        print(f"| {area} | {tried} | {survived} |")
    print(f"\nseed {args.seed}, {time.monotonic() - begun:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
