"""How the cost of every recommender grows with users, items and pairs. python -m bench.growth [--quick] [NAME ...]

Generated workspaces of 1, 2, 4 and 8 times the users, the items or the pairs of a base (1,000 users, 8,000 items,
200,000 pairs; --quick: an eighth of the users and items, 10,000 pairs, and 1 and 4 times; --times N: N times the base,
for methods that take no time on it), the other two held. Each recommender runs as in bench/recommenders.py, on one
thread. The exponent of an axis is the slope of the logarithm of its processor seconds to fit, those of a workspace of
50 users taken off (imports and start, measured after another start, which may compile), over that of the size; where a
fit takes less than LEAST seconds beyond those, there is none. `expected` is what the algorithm says for these sizes,
in the order users, items, pairs; where it depends on more it is left empty.
"""
import math
import os
import tempfile
from pathlib import Path

from bench.recommenders import child, flags_of, modules, must, say
from harness import cli
from harness.errors import UsageError
from harness.readers import read_json

BASE, QUICK = (1_000, 8_000, 200_000), (125, 1_000, 10_000)
FIRST, START = (40, 400, 1_000), (50, 400, 1_000)
AXES = ("users", "items", "pairs")
LEAST, LIMIT = 0.25, 200     # seconds
EXPECTED = {                # with one of the three multiplied and the others held
    "itemknn": (-1, 1, 2),              # the sum over users of squared histories; each item's choice of neighbours
    "ease": (3, 0, 2),                  # users are fewer here: their inverse; their Gram matrix by the pairs
    "elsa": (1, 1, 1),                  # dense rows of a batch by the factors
    "ials": (1, 1, 1),
    "content_elsa": (1, 1, 1),
    "knn": (1, 1, 1),
    "popularity": (0, 0, 1),
    "train": (0, 0, 1),                 # an epoch over the pairs
    "train_bert": (1, 1, 0),            # an epoch over the users, a softmax over the items
    "sasrec": (1, 1, 0),
    "two_tower": (0, 0, 1),
    "clcrec": (0, 0, 1),
    "dtnmr": (0, 0, 1),
}


def seconds(name, needs, folder, size, limit=LIMIT):
    """Processor seconds to fit on a generated workspace of that size; None and the reason where it did not end."""
    workdir = folder / "x".join(map(str, size))
    if not workdir.is_dir():
        must(["-m", "bench.recommenders", "--make", workdir, *size])
    out = workdir / "clock.json"
    out.unlink(missing_ok=True)
    words, _ = flags_of(name, needs, "content", timed=True)
    status, _, said = child(["-m", "bench._recommender", out, name, *words, "--workdir", workdir], limit)
    if status != 0:
        return None, f"stopped after {limit} s" if status is None else said
    return read_json(out)["processor"], ""


def exponent(sizes, taken):
    """Slope of log seconds over log size by least squares; None for fewer than two points of at least LEAST seconds."""
    points = [(math.log(s), math.log(t)) for s, t in zip(sizes, taken, strict=True) if t is not None and t >= LEAST]
    if len(points) < 2:
        return None
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def grown(name, needs, folder, base, factors):
    """The row of one recommender."""
    short = name.removeprefix("recommenders.")
    seconds(name, needs, folder, FIRST)
    start, said = seconds(name, needs, folder, START)
    row = {"what": short, "expected": EXPECTED.get(short)}
    if start is None:
        return row | {"note": f"no figure: {said}"}
    notes, once = [], seconds(name, needs, folder, base)
    for at, axis in enumerate(AXES):
        taken = []
        for factor in factors:
            size = [n * factor if place == at else n for place, n in enumerate(base)]
            time, said = once if factor == 1 else seconds(name, needs, folder, size)
            taken.append(None if time is None else time - start)
            notes += [f"{factor} times the {axis}: {said}"] if time is None else []
        row |= {axis: exponent(factors, taken), f"{axis}_seconds": taken}
    show = ", ".join(f"{axis} {'-' if row[axis] is None else format(row[axis], '.2f')}" for axis in AXES)
    return row | {"note": "; ".join([f"exponents: {show}; expected {row['expected'] or 'not said'}", *notes])}


def run(quick, names=(), times=1):
    found = modules()
    unknown = sorted({*names} - {n.removeprefix("recommenders.") for n in found})
    if unknown:
        raise UsageError(f"no recommender {', '.join(unknown)}; known: {', '.join(found)}")
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        base, factors = (QUICK, (1, 4)) if quick else (BASE, (1, 2, 4, 8))
        base = tuple(n * times for n in base)
        return [say(grown(name, made.needs, Path(folder), base, factors) | {"base": base, "times": times})
                for name, made in found.items() if not names or name.removeprefix("recommenders.") in names]


def main(argv=None):
    from bench.__main__ import print_rows
    parser = cli.Parser(prog="bench.growth", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="recommenders (default: all)")
    parser.add_argument("--quick", action="store_true", help="a small base and two sizes")
    parser.add_argument("--times", type=cli.positive, default=1, metavar="N",
                        help="multiply users, items and pairs of the base (default 1)")
    args = parser.parse_args(argv)
    print_rows("growth", run(args.quick, args.names, args.times))


if __name__ == "__main__":
    cli.run(main)
